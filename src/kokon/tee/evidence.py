"""Evidence and what verification makes of it, the same for every TEE. Pure values, no cryptography.

RATS words (RFC 9334): *evidence* is what the hardware signed; *claims* are what evidence says once its signatures
were checked. `Claims` always carries every check that was made, and those that were not, so that nothing is implied
by absence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["passed", "failed", "not-checked"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a TEE hands out: `report` is the vendor's raw bytes, `certificates` DER, leaf first, possibly none.

    For `tee` "snp" the report is the 1184 bytes of the SNP ABI, the certificates are VCEK or VLEK, ASK or ASVK, ARK.
    """

    tee: str
    report: bytes
    certificates: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `code` is stable and present unless the check passed."""

    name: str
    outcome: Outcome
    code: str | None = None
    expected: str | None = None
    found: str | None = None
    hint: str | None = None

    def as_dict(self) -> dict[str, str]:
        """The check as plain JSON values, absent members left out."""
        members = {
            "name": self.name,
            "outcome": self.outcome,
            "code": self.code,
            "expected": self.expected,
            "found": self.found,
            "hint": self.hint,
        }
        return {name: value for name, value in members.items() if value is not None}


def passed(name: str, found: object = None) -> Check:
    """A check that held; `found` is a short printable text of what was seen."""
    return Check(name, "passed", found=None if found is None else str(found)[:500])


def failed(name: str, code: str, *, expected: object = None, found: object = None, hint: str | None = None) -> Check:
    """A check that did not hold, with its stable code."""
    return Check(
        name,
        "failed",
        code,
        None if expected is None else str(expected)[:500],
        None if found is None else str(found)[:500],
        hint,
    )


def not_checked(name: str, code: str, hint: str | None = None) -> Check:
    """A check that could not be made or was not asked for."""
    return Check(name, "not-checked", code, hint=hint)


@dataclass(frozen=True, slots=True)
class Claims:
    """What the evidence says, with all checks. Only if `ok` may anything here be relied on.

    `root` is the SHA-256 of the root's DER SubjectPublicKeyInfo in lower-case hex, "" if there was no root;
    `simulated` is true for a root that was accepted as simulated or calls itself so; what has neither such a root nor a
    vendor's is not `ok`. Sizes as in the SNP ABI: measurement 48, host_data 32, report_data 64, chip_id 64 bytes.
    """

    tee: str
    simulated: bool
    root: str
    product: str
    measurement: bytes
    host_data: bytes
    report_data: bytes
    debug: bool
    migratable: bool
    vmpl: int
    chip_id: bytes
    reported_tcb: Mapping[str, int]
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """True if something was checked and nothing failed."""
        return bool(self.checks) and all(check.outcome != "failed" for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The failed checks, in the order in which they were made."""
        return tuple(check for check in self.checks if check.outcome == "failed")


@dataclass(frozen=True, slots=True)
class Trust:
    """Which roots are believed besides the vendors' pinned ones.

    `accepted_simulated` holds fingerprints of simulated roots: SHA-256 of the SubjectPublicKeyInfo, lower-case hex.
    """

    accepted_simulated: frozenset[str] = frozenset()
