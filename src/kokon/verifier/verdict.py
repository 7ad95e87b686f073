"""What came out of an examination. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from kokon.appraisal.result import AttestationResult
from kokon.errors import KokonError
from kokon.tee.evidence import Check, Claims, Need

Outcome = Literal["accepted", "verified", "refused", "incomplete"]

ISSUER: Final = "kokon evidence verify"
EAR_LIFETIME: Final = timedelta(minutes=5)
"""The EAR in a verdict is not signed: it is for whoever ran the command, now."""

STATUS: Final[Mapping[Outcome, int]] = {"accepted": 0, "verified": 0, "refused": 1, "incomplete": 3}
"""The exit status that scripts see."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One file, examined at one time (aware).

    `kind` is "evidence", "certificate", "crl", "collateral" or "unknown". `claims` is None if the bytes did not parse.
    `result` is None if no policy was asked for, or there is nothing to hold it against. `checks` has all that were
    made.
    """

    kind: str
    at: datetime
    checks: tuple[Check, ...]
    claims: Claims | None = None
    result: AttestationResult | None = None

    @property
    def outcome(self) -> Outcome:
        """accepted: verified and good by policy; verified: no policy was asked; refused: something failed; incomplete:
        nothing failed, but something that is needed was lacking."""
        if self.claims is None or not self.checks or any(check.outcome == "failed" for check in self.checks):
            return "refused"
        if self.missing:
            return "incomplete"
        if self.result is None:
            return "verified"
        return "accepted" if self.result.ok else "refused"

    @property
    def missing(self) -> tuple[Need, ...]:
        """What the answer waits for."""
        if self.result is not None:
            return self.result.missing
        return () if self.claims is None else tuple(need for need in self.claims.needs if need.required)

    @property
    def verified(self) -> bool:
        """True if the evidence itself holds, whatever policy says."""
        return self.claims is not None and self.claims.ok

    @property
    def status(self) -> int:
        """0, 1 or 3."""
        return STATUS[self.outcome]

    def as_dict(self) -> dict[str, Any]:
        """For programs: every check, every reason, what is lacking, all claims and, with a policy, the EAR's parts."""
        claims, result = self.claims, self.result
        members: dict[str, Any] = {
            "kind": self.kind,
            "at": self.at.isoformat(),
            "outcome": self.outcome,
            "verified": self.verified,
            "accepted": None if result is None else result.ok,
            "reasons": [check.as_dict() for check in self.checks if check.outcome == "failed"],
            "missing": [{"kind": need.kind} | dict(need.parameters) for need in self.missing],
            "checks": [check.as_dict() for check in self.checks],
        }
        if claims is not None:
            members |= {"tee": claims.tee, "simulated": claims.simulated, "canonical": claims.canonical.hex()}
            members["claims"] = claims_dict(claims)
        if result is not None:
            members["policy"] = result.policy
            members["ear.status"] = result.status
            members["ear.trustworthiness-vector"] = dict(result.vector)
            members["ear"] = result.as_ear(self.at, EAR_LIFETIME, issuer=ISSUER, verbose=False)
        return members


def claims_dict(claims: Claims) -> dict[str, Any]:
    """All claims as plain JSON values; bytes as hex, what a TEE does not have left out."""
    members: dict[str, Any] = {
        "tee": claims.tee,
        "product": claims.product,
        "root": claims.root,
        "measurement": claims.measurement.hex(),
        "host_data": claims.host_data.hex(),
        "report_data": claims.report_data.hex(),
        "chip_id": claims.chip_id.hex(),
        "signer": claims.signer.hex(),
        "tcb_status": claims.tcb_status,
        "advisories": list(claims.advisories),
        "reported_tcb": dict(claims.reported_tcb),
        "tcbs": {name: dict(tcb) for name, tcb in claims.tcbs.items()},
        "registers": {name: value.hex() for name, value in claims.registers.items()},
        "details": dict(claims.details),
        "parts": [claims_dict(part) for part in claims.parts],
    }
    kept = {name: value for name, value in members.items() if value not in ("", [], {})}
    flags = {"debug": claims.debug, "migratable": claims.migratable, "vmpl": claims.vmpl}
    versions = {"product_id": claims.product_id, "security_version": claims.security_version}
    return kept | flags | versions


def unreadable(at: datetime, error: KokonError) -> Verdict:
    """The verdict on bytes that do not parse."""
    check = Check("format", "failed", error.code, error.expected, error.found or error.message, error.hint)
    return Verdict("unknown", at, (check,))
