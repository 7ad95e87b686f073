"""What claims are held against: the owner's policy and the reference values of one workload. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Policy:
    """The owner's rules. Defaults refuse whatever weakens an enclave.

    `minimum_tcb` names components (bootloader, tee, snp, microcode, fmc) and the lowest security version that is good
    enough; each is compared by itself, never as one number. Which roots are believed is not here but in
    `tee.evidence.Trust`.
    """

    allow_debug: bool = False
    allow_migration: bool = False
    minimum_tcb: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReferenceValues:
    """What a genuine launch looks like: measurements (48 bytes each), any of which will do, until `not_after`
    (aware).

    `host_data` (32 bytes) is the digest of the launch document, None if any document will do.
    """

    measurements: tuple[bytes, ...]
    not_after: datetime | None = None
    host_data: bytes | None = None
