"""What evidence lacks: what a vendor is worth asking for, and the check that says that it could not be had. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from kokon.appraisal.result import AttestationResult
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Check, Claims, Need, failed

Completion = Callable[[Callable[[Endorsements], Claims], Endorsements, datetime], tuple[Claims, Endorsements]]
"""Makes claims with a function of endorsements at a time (aware), beginning with those given; may fetch what the claims
lack. Gives the claims and all endorsements that were used. `endorsements.service.complete` with a source is one."""


def worth_fetching(claims: Claims) -> tuple[Need, ...]:
    """What of the claims' needs to ask a vendor for.

    Nothing if a check failed that no policy can excuse: more endorsements would not mend it, and whoever made that
    evidence should not have us ask around. Of what is simulated only what is required: its maker publishes nothing.
    """
    if any(check.outcome == "failed" and check.waiver is None for check in claims.checks):
        return ()
    return tuple(need for need in claims.needs if need.required or not claims.simulated)


def check_missing(result: AttestationResult, name: str = "endorsements") -> tuple[Check, ...]:
    """One failed check if nothing is wrong with the evidence but something is missing, none otherwise."""
    if not result.missing or any(check.outcome == "failed" for check in result.verified):
        return ()
    hints = [check.hint for check in result.verified if check.code == "endorsement-unavailable" and check.hint]
    usual = "kokon endorsements fetch or bundle gets it on a connected machine; give the file with --endorsements"
    check = failed(
        name,
        "endorsement-missing",
        expected="all that the chip's maker says about it",
        found="without " + ", ".join(dict.fromkeys(need.kind for need in result.missing)),
        hint=hints[0] if hints else usual,
    )
    return (check,)
