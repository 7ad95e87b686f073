"""Reading the manifest's TDX and SGX entries: quotes with what is related to them."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence
from kokon.tee.intel.collateral import read_collateral
from kokon.tee.intel.pem import CERTIFICATE, read_blocks
from kokon.tee.registry import verify

SOME_TIME = datetime(2025, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Vector:
    """One quote, what it needs, and what must come out."""

    file: str
    tee: str
    raw: bytes
    endorsements: Endorsements
    expected: dict[str, Any]
    claims: dict[str, Any]

    @property
    def now(self) -> datetime:
        return moment(self.expected)

    def verify(self, now: datetime | None = None, raw: bytes | None = None) -> Claims:
        return verify(Evidence(self.tee, self.raw if raw is None else raw), self.endorsements, now or self.now)


def moment(expected: dict[str, Any]) -> datetime:
    """When the entry is to be verified; some time within the certificates' dates for entries that do not say."""
    at = expected.get("at_time")
    if isinstance(at, int):
        return datetime.fromtimestamp(at, UTC)
    return SOME_TIME if at is None else datetime.fromisoformat(at)


def endorsements(vectors: Path, names: list[str]) -> Endorsements:
    found = Endorsements()
    for name in names:
        data = (vectors / name).read_bytes()
        if name.endswith(".json"):
            found |= read_collateral(data)
        else:
            found |= Endorsements(certificates=read_blocks(data, CERTIFICATE))
    return found


def entries(manifest: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [entry for entry in manifest if entry["tee"] in ("tdx", "sgx") and entry["kind"] in kinds]


def quotes(vectors: Path, manifest: list[dict[str, Any]]) -> list[Vector]:
    return [
        Vector(
            entry["file"],
            entry["tee"],
            (vectors / entry["file"]).read_bytes(),
            endorsements(vectors, entry["related"]),
            entry["expected"],
            entry["claims"],
        )
        for entry in entries(manifest, "quote")
    ]


def genuine(vectors: Path, manifest: list[dict[str, Any]]) -> list[Vector]:
    """One of each kind: SGX version 3, TDX versions 4 and 5."""
    wanted = ("sgx/v3_dcapqvl", "tdx/v4_dcapqvl", "tdx/v5_gotdxguest")
    return [vector for vector in quotes(vectors, manifest) if vector.file.startswith(wanted)]
