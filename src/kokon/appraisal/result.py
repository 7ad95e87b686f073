"""Attestation results: AR4SI trustworthiness vectors and EAR documents. Pure values.

AR4SI (draft-ietf-rats-ar4si) gives a number to each of eight aspects: 0 no claim, 2 to 31 affirming, 32 to 95
warning, 96 to 127 contraindicated (and the negative mirror of these). EAR (draft-ietf-rats-ear) is the JSON claims
set around it; its profile here is the one that Confidential Containers' relying parties read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from kokon import __version__
from kokon.tee.evidence import Check, Claims

Status = Literal["none", "affirming", "warning", "contraindicated"]

PROFILE: Final = "tag:github.com,2024:confidential-containers/Trustee"
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
UNSAFE_HARDWARE: Final = 32
UNRECOGNIZED_BOOT: Final = 33
REFUSED: Final = 96
UNRECOGNIZED: Final = 97


def tier(value: int) -> Status:
    """The AR4SI tier of one number."""
    if -1 <= value <= 1:
        return "none"
    if -32 <= value <= 31:
        return "affirming"
    if -96 <= value <= 95:
        return "warning"
    return "contraindicated"


def worst(vector: Mapping[str, int]) -> Status:
    """The status of a whole vector: its worst tier, "none" if nothing is claimed."""
    order: tuple[Status, ...] = ("none", "affirming", "warning", "contraindicated")
    return max((tier(value) for value in vector.values()), key=order.index, default="none")


@dataclass(frozen=True, slots=True)
class AttestationResult:
    """What appraisal found. `vector` has all eight aspects; `checks` holds those of verification and of appraisal."""

    status: Status
    vector: Mapping[str, int]
    checks: tuple[Check, ...]
    claims: Claims

    @property
    def ok(self) -> bool:
        """True only if the status is affirming and no check failed."""
        return self.status == "affirming" and not self.failures

    @property
    def tee(self) -> str:
        """The kind of TEE."""
        return self.claims.tee

    @property
    def simulated(self) -> bool:
        """True if no vendor's hardware stands behind this: the host can read the guest's memory."""
        return self.claims.simulated

    @property
    def failures(self) -> tuple[Check, ...]:
        """The failed checks, in the order in which they were made."""
        return tuple(check for check in self.checks if check.outcome == "failed")

    def as_ear(
        self,
        now: datetime,
        lifetime: timedelta,
        *,
        issuer: str,
        runtime_data: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The claims set of an EAR token issued at `now` (aware) and good for `lifetime`.

        `runtime_data` is what the report data was a digest of (`tee-pubkey`, `nonce`); `extra` are further top-level
        claims.
        """
        issued = int(now.timestamp())
        return {
            "eat_profile": PROFILE,
            "iat": issued,
            "exp": issued + int(lifetime.total_seconds()),
            "iss": issuer,
            "ear.verifier-id": {"developer": "https://kokon.dev", "build": f"kokon {__version__}"},
            "simulated": self.simulated,
            "submods": {"cpu0": self._appraisal(runtime_data)},
        } | dict(extra or {})

    def _appraisal(self, runtime_data: Mapping[str, Any] | None) -> dict[str, Any]:
        evidence: dict[str, Any] = {
            self.claims.tee: _tee_claims(self.claims),
            "report_data": self.claims.report_data.hex(),
            "init_data": self.claims.host_data.hex(),
        }
        if runtime_data is not None:
            evidence["runtime_data_claims"] = dict(runtime_data)
        return {
            "ear.status": self.status,
            "ear.trustworthiness-vector": dict(self.vector),
            "ear.appraisal-policy-id": "default",
            "ear.veraison.annotated-evidence": evidence,
        }


def _tee_claims(claims: Claims) -> dict[str, Any]:
    members: dict[str, Any] = {
        "measurement": claims.measurement.hex(),
        "product": claims.product,
        "root": claims.root,
        "chip_id": claims.chip_id.hex(),
        "vmpl": claims.vmpl,
        "policy_debug_allowed": claims.debug,
        "policy_migrate_ma": claims.migratable,
    }
    members |= {f"reported_tcb_{name}": value for name, value in claims.reported_tcb.items()}
    return members
