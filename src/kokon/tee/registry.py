"""One entry point for all TEEs: evidence in, claims with all checks out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from kokon.errors import MalformedError
from kokon.tee.evidence import Check, Claims, Evidence, Trust
from kokon.tee.snp.verify import verify_snp

__all__ = ["VERIFIERS", "Check", "Claims", "Evidence", "Trust", "verify"]

VERIFIERS: Final[Mapping[str, Callable[[Evidence, Trust, datetime], Claims]]] = {"snp": verify_snp}


def verify(evidence: Evidence, trust: Trust, now: datetime) -> Claims:
    """Claims of the evidence at the time `now` (aware). What does not hold is in `claims.checks`, nothing is raised
    for it.

    Raises `MalformedError`: `tee-unknown`, and whatever the TEE's parsers raise for bytes that do not parse.
    """
    if evidence.tee not in VERIFIERS:
        raise MalformedError("tee-unknown", "unknown kind of TEE", expected=", ".join(VERIFIERS), found=evidence.tee)
    return VERIFIERS[evidence.tee](evidence, trust, now)
