"""The owner's policy: what is demanded of a platform and what is tolerated. Pure values.

The default is strict, and each looser setting has a name, so that nothing is permitted by being left out. A file in
TOML becomes a policy in `policy_file.py`; `policy_text.py` says in sentences what a policy means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Final, Literal

from kokon.appraisal.reference import ReferenceValues

__all__ = ["BOOT_PCRS", "COMPONENTS", "PRODUCTS", "STATUSES", "Policy", "ReferenceValues", "Revocation", "Tolerance"]

Revocation = Literal["required", "if-available"]

PRODUCTS: Final = ("Milan", "Genoa", "Turin")
COMPONENTS: Final = ("fmc", "bootloader", "tee", "snp", "microcode")
"""TCB components of SEV-SNP (SNP ABI, TCB_VERSION; fmc on Turin alone)."""

STATUSES: Final = (
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
)
"""Intel's TCB statuses that a policy may tolerate (PCS API v4, "Get TCB Info"; the last two from the quote verification
library). UpToDate needs no tolerance, Revoked gets none."""

BOOT_PCRS: Final = tuple(range(8))
"""PCR0 to PCR7: firmware, its settings, boot loader and secure boot state (TCG PC Client Platform Firmware Profile)."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """A weakness that the owner accepts: a TCB status or an advisory, before `until` (aware), for a written reason."""

    name: str
    until: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Policy:
    """The owner's rules. Defaults refuse whatever weakens an enclave; each field says what it does when set.

    Simultaneous multithreading is allowed by default: nearly every cloud has it on, AMD and Intel support it with their
    enclaves, and what leaks between siblings is kept apart by firmware and kernels that the TCB minimum already
    demands. Who fears more sets `require_smt_off`. All else that the hardware reports as weaker is refused.

    Which vendors' roots are believed is not here: they are pinned in `tee.anchors`, and a caller accepts simulated ones
    in `tee.endorsements.Endorsements`.
    """

    allow_debug: bool = False
    """The host may read the enclave's memory."""
    allow_migration: bool = False
    """A migration agent may move the guest to another machine."""
    minimum_tcb: Mapping[str, int] = field(default_factory=dict)
    """SEV-SNP: lowest version by component, of the reported, committed and launch TCB, each compared by itself."""
    name: str = "strict"
    """What attestation results call this policy."""
    allow_sept_ve_off: bool = False
    """TDX: a TD with SEPT_VE_DISABLE off, which the host may interrupt at any page."""
    allow_service_td: bool = False
    """TDX: a service TD is bound, which may for instance migrate the TD."""
    allow_vmpl_nonzero: bool = False
    """SEV-SNP: the report comes from below VMPL 0, so more privileged guest software stands above it."""
    allow_dynamic_platform: bool = False
    """Intel: processor packages may be added to the platform later."""
    allow_cached_keys: bool = False
    """Intel: the platform's root keys are kept by Intel's registration service."""
    allow_unbound_ak: bool = False
    """TPM: nobody vouches for the attestation key."""
    allow_partial_references: bool = False
    """Reference values that cover a part of what runs will do (`matching.COVERAGE`)."""
    require_smt_off: bool = False
    """Simultaneous multithreading is off on the platform."""
    require_current_tcb: bool = False
    """SEV-SNP: nothing is pending. Reported, committed and current TCB are equal, so the host neither hides an older
    version nor can go back to one. AMD has no service that tells the newest version; minima must name it."""
    require_event_log: bool = False
    """TDX and TPM: the event log was given and replays to the registers."""
    revocation: Revocation = "required"
    """Whether a vendor's revocation list must have been there: SEV-SNP, TDX and SGX, also inside Azure's evidence. The
    others have none; a simulated root publishes none."""
    maximum_age: timedelta | None = timedelta(minutes=5)
    """How old evidence may be that carries a time (Nitro); None for any age."""
    required_pcrs: tuple[int, ...] = BOOT_PCRS
    """PCRs that a TPM's quote must cover."""
    minimum_tcb_by_product: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """`minimum_tcb` for one product line; where both name a component, this counts."""
    tolerated_statuses: tuple[Tolerance, ...] = ()
    tolerated_advisories: tuple[Tolerance, ...] = ()
    minimum_evaluation: int = 0
    """Intel: lowest TCB evaluation data number."""
    minimum_tcb_date: date | None = None
    """Intel: oldest date of the TCB level."""
    only_tees: tuple[str, ...] = ()
    """Kinds of TEE; none named: all."""
    only_chips: tuple[bytes, ...] = ()
    """CHIP_ID or platform instance id, trailing zeros left out if one likes; none named: all."""
    only_simulated_roots: tuple[str, ...] = ()
    """Fingerprints; none named: those that the caller accepts."""

    def grants(self, waiver: str | None) -> bool:
        """True if the switch that a failed check names as its waiver ("allow_debug") is on."""
        return waiver is not None and waiver.startswith("allow_") and getattr(self, waiver, None) is True
