"""Quotes of the manifest with their collateral, for the tests of robustness and against the oracle."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence
from kokon.tee.intel.collateral import read_collateral
from kokon.tee.registry import verify


@dataclass(frozen=True)
class Case:
    """One quote, what Intel said about its platform at that time, and what must come out."""

    name: str
    tee: str
    quote: bytes
    collateral: str
    now: int
    expected: dict[str, Any]

    @property
    def moment(self) -> datetime:
        return datetime.fromtimestamp(self.now, UTC)

    @property
    def endorsements(self) -> Endorsements:
        return read_collateral(self.collateral.encode())

    def claims(self, quote: bytes | None = None, endorsements: Endorsements | None = None) -> Claims:
        evidence = Evidence(self.tee, self.quote if quote is None else quote)
        return verify(evidence, self.endorsements if endorsements is None else endorsements, self.moment)


def cases(vectors: Path) -> dict[str, Case]:
    """All quotes with collateral, by file name."""
    found = {}
    for entry in json.loads((vectors / "manifest.json").read_text()):
        collateral = [name for name in entry["related"] if name.endswith(".collateral.json")]
        if entry["kind"] == "quote" and collateral and "now" in entry["expected"]:
            name = entry["file"].rpartition("/")[2].removesuffix(".quote.bin")
            found[name] = Case(
                name,
                entry["tee"],
                (vectors / entry["file"]).read_bytes(),
                (vectors / collateral[0]).read_text(),
                entry["expected"]["now"],
                entry["expected"],
            )
    return found
