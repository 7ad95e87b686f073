"""One entry point for all TEEs: evidence in, claims with all checks out.

A TEE is a package that makes one `Tee` and stands on one line of `TEES`; docs/ADDING_A_TEE.md tells how. Packages are
imported when their evidence first turns up.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from kokon.errors import InternalError, MalformedError
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence

TEES: Final[Mapping[str, str]] = {
    "snp": "kokon.tee.snp.entry:SNP",
    "tdx": "kokon.tee.tdx.entry:TDX",
    "sgx": "kokon.tee.sgx.entry:SGX",
    "nitro": "kokon.tee.nitro.entry:NITRO",
    "ratls": "kokon.tee.ratls.entry:RATLS",
    "tpm": "kokon.tee.vtpm.entry:TPM",
    "az-snp-vtpm": "kokon.tee.vtpm.entry:AZURE_SNP",
    "az-tdx-vtpm": "kokon.tee.vtpm.entry:AZURE_TDX",
    "sample": "kokon.tee.sample.entry:SAMPLE",
}
"""Where each TEE's `Tee` is: module, colon, name. Names are those of the KBS protocol where it has one."""


@dataclass(frozen=True, slots=True)
class Tee:
    """What a TEE's package offers. All functions are pure.

    `verify`: claims of evidence at a time (aware), with all checks; raises `MalformedError` for bytes that do not
    parse and nothing for evidence that is merely untrustworthy.
    `recognise`: the evidence in raw bytes if they look like this TEE's, else None; bytes that look so and do not parse
    raise `MalformedError`.
    `from_envelope`: evidence from the KBS protocol's JSON object; `MalformedError` if it is not such an object.
    `describe`: every field of the evidence by the vendor's name as plain JSON values, for people. Nothing is verified.
    """

    name: str
    verify: Callable[[Evidence, Endorsements, datetime], Claims]
    recognise: Callable[[bytes], Evidence | None]
    from_envelope: Callable[[Mapping[str, Any]], Evidence]
    describe: Callable[[Evidence], dict[str, Any]]


def tee(name: str, tees: Mapping[str, str] = TEES) -> Tee:
    """The TEE of that name. Raises `MalformedError` (`tee-unknown`)."""
    if name not in tees:
        raise MalformedError("tee-unknown", "unknown kind of TEE", expected=", ".join(tees), found=name)
    module, _, attribute = tees[name].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, Tee):
        raise InternalError("tee-entry", "the registry names something that is no Tee", found=tees[name])
    return found


def verify(evidence: Evidence, endorsements: Endorsements, now: datetime, tees: Mapping[str, str] = TEES) -> Claims:
    """Claims of the evidence at the time `now` (aware). What does not hold is in `claims.checks`, nothing is raised
    for it.

    Raises `MalformedError`: `tee-unknown`, and whatever the TEE's parsers raise for bytes that do not parse.
    """
    return tee(evidence.tee, tees).verify(evidence, endorsements, now)
