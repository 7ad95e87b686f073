"""AR4SI trustworthiness vectors: eight aspects, a number each, from checks. Pure.

draft-ietf-rats-ar4si, section 2.3: 0 and ±1 no claim, 2 to 31 affirming, 32 to 95 warning, 96 to 127 contraindicated,
and the negative mirror of these for what the draft does not list. How Kokon gives them:

instance-identity   2  a key that leads to a believed root signed the evidence
                   97  another machine than allowed, a key that nobody vouches for, old evidence, or the vendor's list
                       or another endorsement is missing
configuration       2  as the policy wants it; 3 with something that the policy allows
                   36  a register or the event log was not shown
                   96  debug, migration, VMPL, multithreading, the kind of platform, another launch document
executables         3  what was measured at launch has reference values
                   32  a version with known faults; 33 no reference value, or another
hardware            2  a vendor vouches for it, and its TCB is good or tolerated
                   32  its TCB is too low; 96 revoked or not allowed; 97 its root is not recognised
runtime-opaque      2  the hardware encrypts memory; 96 debug
file-system, storage-opaque, sourced-data   0: evidence of a launch says nothing about them

99 in all that evidence speaks of: its cryptographic validation failed. For a simulated root nothing is claimed about
hardware and memory. A vTPM by itself and Nitro say nothing of memory encryption, a TPM whose key was merely enrolled
nothing of hardware: 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal

from kokon.tee.evidence import Check, Claims

Status = Literal["none", "affirming", "warning", "contraindicated"]

ASPECTS: Final = (
    "instance-identity",
    "configuration",
    "executables",
    "file-system",
    "hardware",
    "runtime-opaque",
    "storage-opaque",
    "sourced-data",
)

NO_CLAIM: Final = 0
RECOGNIZED_INSTANCE: Final = 2
APPROVED_CONFIGURATION: Final = 2
ALLOWED_CONFIGURATION: Final = 3
APPROVED_BOOT: Final = 3
GENUINE_HARDWARE: Final = 2
ENCRYPTED_MEMORY: Final = 2
KNOWN_FAULTS: Final = 32
UNRECOGNIZED_BOOT: Final = 33
UNAVAILABLE_CONFIGURATION: Final = 36
REFUSED: Final = 96
UNRECOGNIZED: Final = 97
INVALID: Final = 99

_SPOKEN_OF: Final = ("instance-identity", "configuration", "executables", "hardware", "runtime-opaque")
_WITHOUT_ENCRYPTION: Final = ("tpm", "nitro")

_VALUES: Final[Mapping[str, tuple[tuple[str, int], ...]]] = {
    "measurement-unknown": (("executables", UNRECOGNIZED_BOOT),),
    "reference-missing": (("executables", UNRECOGNIZED_BOOT),),
    "reference-incomplete": (("executables", UNRECOGNIZED_BOOT),),
    "reference-expired": (("executables", UNRECOGNIZED_BOOT),),
    "register-mismatch": (("executables", UNRECOGNIZED_BOOT),),
    "register-missing": (("executables", UNRECOGNIZED_BOOT),),
    "signer-unknown": (("executables", UNRECOGNIZED_BOOT),),
    "product-id-mismatch": (("executables", UNRECOGNIZED_BOOT),),
    "security-version-too-low": (("executables", KNOWN_FAULTS),),
    "host-data-mismatch": (("configuration", REFUSED),),
    "migration-allowed": (("configuration", REFUSED),),
    "vmpl-not-zero": (("configuration", REFUSED),),
    "debug-enabled": (("configuration", REFUSED), ("runtime-opaque", REFUSED)),
    "smt-enabled": (("configuration", REFUSED),),
    "pcr-not-quoted": (("configuration", UNAVAILABLE_CONFIGURATION),),
    "event-log-missing": (("configuration", UNAVAILABLE_CONFIGURATION),),
    "platform-dynamic": (("configuration", REFUSED),),
    "platform-keys-cached": (("configuration", REFUSED),),
    "tcb-too-low": (("hardware", KNOWN_FAULTS),),
    "tcb-not-current": (("hardware", KNOWN_FAULTS),),
    "tcb-status-refused": (("hardware", KNOWN_FAULTS),),
    "tcb-evaluation-too-low": (("hardware", KNOWN_FAULTS),),
    "tcb-date-too-old": (("hardware", KNOWN_FAULTS),),
    "advisory-refused": (("hardware", KNOWN_FAULTS),),
    "tolerance-expired": (("hardware", KNOWN_FAULTS),),
    "tee-not-allowed": (("hardware", REFUSED),),
    "chip-not-allowed": (("instance-identity", UNRECOGNIZED),),
    "simulated-root-not-allowed": (("instance-identity", UNRECOGNIZED),),
    "tpm-ak-unbound": (("instance-identity", UNRECOGNIZED),),
    "report-data-mismatch": (("instance-identity", UNRECOGNIZED),),
    "evidence-too-old": (("instance-identity", UNRECOGNIZED),),
    "evidence-from-the-future": (("instance-identity", UNRECOGNIZED),),
    "certificate-revoked": (("instance-identity", REFUSED), ("hardware", REFUSED)),
    "root-untrusted": (("instance-identity", UNRECOGNIZED), ("hardware", UNRECOGNIZED)),
    "simulated-root-refused": (("instance-identity", UNRECOGNIZED), ("hardware", UNRECOGNIZED)),
}
"""Which aspects a failed check spoils, and their numbers. A code that is not here is one of verification's: the
evidence is not valid."""


def tier(value: int) -> Status:
    """The AR4SI tier of one number."""
    if -1 <= value <= 1:
        return "none"
    if -32 <= value <= 31:
        return "affirming"
    if -96 <= value <= 95:
        return "warning"
    return "contraindicated"


_ORDER: Final[tuple[Status, ...]] = ("none", "affirming", "warning", "contraindicated")


def worst(vector: Mapping[str, int]) -> Status:
    """The status of a whole vector: its worst tier, "none" if nothing is claimed."""
    return max((tier(value) for value in vector.values()), key=_ORDER.index, default="none")


def trust_vector(claims: Claims, checks: Iterable[Check], *, incomplete: bool, lenient: bool) -> dict[str, int]:
    """The vector of `claims` after all `checks`.

    `incomplete`: an endorsement that is required is missing. `lenient`: something was allowed that is not by default.
    """
    vector = dict.fromkeys(ASPECTS, NO_CLAIM)
    vector["instance-identity"] = RECOGNIZED_INSTANCE
    vector["configuration"] = ALLOWED_CONFIGURATION if lenient else APPROVED_CONFIGURATION
    vector["executables"] = APPROVED_BOOT
    if not claims.simulated and (claims.root or any(part.root for part in claims.parts)):
        vector["hardware"] = GENUINE_HARDWARE
        if not claims.debug and claims.tee not in _WITHOUT_ENCRYPTION:
            vector["runtime-opaque"] = ENCRYPTED_MEMORY
    for check in checks:
        if check.outcome == "failed":
            _spoil(vector, check)
    if incomplete:
        vector["instance-identity"] = max(vector["instance-identity"], UNRECOGNIZED)
        vector["hardware"] = max(vector["hardware"], UNRECOGNIZED)
        if vector["runtime-opaque"] == ENCRYPTED_MEMORY:
            vector["runtime-opaque"] = NO_CLAIM
    return vector


def _spoil(vector: dict[str, int], check: Check) -> None:
    values = _VALUES.get(check.code or "")
    if values is None and check.waiver is not None:
        values = (("configuration", REFUSED),)
    if values is None:
        values = tuple((aspect, INVALID) for aspect in _SPOKEN_OF)
    for aspect, value in values:
        vector[aspect] = max(vector[aspect], value)
