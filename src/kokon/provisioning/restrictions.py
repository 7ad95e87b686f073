"""Where and how often a workload may run, whatever it is known by: kinds of TEE, chips, a policy, activations. Pure.

A kind of TEE is named as in reference files: `snp`, `tdx`, and so on mean a chip maker's own, `simulated` one whose
root is accepted for trials. So a workload for `snp` does not run in a simulated enclave.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from kokon.appraisal.platform import platforms
from kokon.appraisal.policy_file import POLICY_LIMIT, parse_policy
from kokon.errors import MalformedError
from kokon.provisioning.kbs.envelopes import TEES
from kokon.tee.evidence import failed, passed
from kokon.wire import Fields, unhex

if TYPE_CHECKING:
    from kokon.appraisal.policy import Policy
    from kokon.appraisal.result import AttestationResult
    from kokon.provisioning.workload import Workload
    from kokon.tee.evidence import Check, Claims

ACTIVATIONS_LIMIT: Final = 1 << 31
CHIPS_LIMIT: Final = 1024
CHIP_DIGITS: Final = 128
SIMULATED: Final = "simulated"
KINDS: Final = (*TEES, SIMULATED)


def kind_of(claims: Claims) -> str:
    """The kind of TEE that the evidence is of: real or simulated."""
    return SIMULATED if claims.simulated else claims.tee


def read_tees(fields: Fields) -> tuple[str, ...]:
    """The optional member `tees`: kinds that are allowed, none for all. Raises `MalformedError` (`tee-not-known`)."""
    found = fields.array("tees", default=[], limit=len(KINDS))
    for name in found:
        if name not in KINDS:
            raise MalformedError(
                "tee-not-known", "not a kind of TEE", expected=", ".join(KINDS), found=repr(name)[:100]
            )
    return tuple(dict.fromkeys(found))


def read_chips(fields: Fields) -> tuple[bytes, ...]:
    """The optional member `chips`: CHIP_IDs or platform instance ids in hex, zeros at the end left out if one likes,
    none for all. Raises `MalformedError` (`chip-malformed`)."""
    return tuple(dict.fromkeys(_chip(text) for text in fields.array("chips", default=[], limit=CHIPS_LIMIT)))


def read_activations(fields: Fields) -> int | None:
    """The optional member `max_activations`: how many attestations are granted, None for any number."""
    given = fields.value("max_activations", default=None)
    if given is None:
        return None
    number: int = Fields({"max_activations": given}, "workload").integer(
        "max_activations", low=1, high=ACTIVATIONS_LIMIT
    )
    return number


def read_policy(fields: Fields, name: str) -> str:
    """The optional member `name`: the text of a policy (docs/POLICY.md), "" for the project's own.

    Raises `MalformedError` as `kokon.wire`, `UsageError` as `parse_policy`.
    """
    text = fields.text(name, default="", limit=POLICY_LIMIT)
    if text:
        parsed_policy(text)
    return text


@lru_cache(maxsize=256)
def parsed_policy(text: str) -> Policy:
    """The policy in `text`. Raises as `parse_policy`."""
    return parse_policy(text.encode())


def restricted(result: AttestationResult, workload: Workload) -> AttestationResult:
    """`result` with the checks of where `workload` may run, which count as the others do."""
    checks = check_restrictions(workload, result.claims)
    return replace(result, checks=(*result.checks, *checks), appraised=(*result.appraised, *checks))


def check_restrictions(workload: Workload, claims: Claims) -> tuple[Check, ...]:
    """Whether `claims` are of a TEE and a chip that the workload may run on; no checks if it may on all."""
    checks = []
    if workload.tees:
        checks.append(_check_tee(workload.tees, kind_of(claims)))
    if workload.chips:
        checks.append(_check_chip(workload.chips, [part.chip_id for part in platforms(claims) if any(part.chip_id)]))
    return tuple(checks)


def _check_tee(allowed: tuple[str, ...], found: str) -> Check:
    if found in allowed:
        return passed("workload-tee", found)
    return failed(
        "workload-tee",
        "tee-not-allowed",
        expected=", ".join(allowed),
        found=found,
        hint="the workload was admitted for these kinds of TEE; simulated is a kind of its own",
    )


def _check_chip(allowed: tuple[bytes, ...], found: list[bytes]) -> Check:
    known = {chip.rstrip(b"\0") for chip in allowed}
    if found and all(chip.rstrip(b"\0") in known for chip in found):
        return passed("workload-chip", ", ".join(chip.hex() for chip in found))
    return failed(
        "workload-chip",
        "chip-not-allowed",
        expected=", ".join(chip.hex() for chip in allowed[:4]),
        found=", ".join(chip.hex() for chip in found) or "none named in the evidence",
        hint="the workload was admitted for other machines",
    )


def _chip(text: object) -> bytes:
    if not isinstance(text, str) or len(text) > CHIP_DIGITS:
        raise MalformedError("chip-malformed", "a chip is named in hexadecimal", expected="at most 64 bytes")
    chip = unhex(text, what="chip").rstrip(b"\0")
    if not chip:
        raise MalformedError(
            "chip-malformed",
            "zeros name no chip",
            found=text[:20],
            hint="the host told the firmware to mask the chip's id; then it cannot be pinned",
        )
    return chip
