"""Attestation results: the verdict with every check, and as an EAR document. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from kokon.appraisal.ear import ear_document
from kokon.appraisal.reference import ReferenceValues
from kokon.appraisal.vector import Status
from kokon.tee.evidence import Check, Claims, Need


@dataclass(frozen=True, slots=True)
class AttestationResult:
    """What appraisal found. `vector` has all eight aspects (`vector.py`).

    `checks` holds those of verification, with what the policy excused as passed, and then those of appraisal, which
    stand in `appraised` too. `policy` is the policy's name, `reference` the reference that matched or came nearest.
    `missing` are endorsements without which the answer is not yes.
    """

    status: Status
    vector: Mapping[str, int]
    checks: tuple[Check, ...]
    claims: Claims
    appraised: tuple[Check, ...] = ()
    policy: str = "strict"
    reference: ReferenceValues | None = None
    missing: tuple[Need, ...] = ()

    @property
    def ok(self) -> bool:
        """True only if the status is affirming, no check failed and nothing required was missing."""
        return self.status == "affirming" and not self.missing and not self.failures

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

    @property
    def reasons(self) -> tuple[Check, ...]:
        """Why the answer is no: all failed checks, never only the first."""
        return self.failures

    @property
    def verified(self) -> tuple[Check, ...]:
        """The checks of verification, with what the policy excused as passed."""
        return self.checks[: len(self.checks) - len(self.appraised)]

    def as_dict(self) -> dict[str, Any]:
        """The verdict as plain JSON values."""
        return {
            "ok": self.ok,
            "tee": self.tee,
            "simulated": self.simulated,
            "status": self.status,
            "trustworthiness-vector": dict(self.vector),
            "policy": self.policy,
            "reference": None if self.reference is None else self.reference.title,
            "checks": [check.as_dict() for check in self.checks],
            "reasons": [check.as_dict() for check in self.reasons],
            "missing": [str(need) for need in self.missing],
        }

    def as_ear(
        self,
        now: datetime,
        lifetime: timedelta,
        *,
        issuer: str,
        runtime_data: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        verbose: bool = True,
    ) -> dict[str, Any]:
        """The claims set of an EAR token issued at `now` (aware) and good for `lifetime`.

        `runtime_data` is what the report data was a digest of (`tee-pubkey`, `nonce`); `extra` are further top-level
        claims. Unless `verbose`, checks that passed are left out.
        """
        shown = [check for check in self.checks if verbose or check.outcome != "passed"]
        extension: dict[str, Any] = {
            "kokon.checks": [check.as_dict() for check in shown],
            "kokon.missing": [str(need) for need in self.missing],
        }
        if self.reference is not None:
            extension["kokon.reference"] = self.reference.title
        appraisal: dict[str, Any] = {"ear.status": self.status, "ear.trustworthiness-vector": dict(self.vector)}
        appraisal |= {"ear.appraisal-policy-id": self.policy, **extension}
        document = ear_document(self.claims, appraisal, now, lifetime, issuer=issuer, runtime_data=runtime_data)
        return document | dict(extra or {})
