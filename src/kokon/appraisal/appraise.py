"""Claims + reference values + policy = attestation result, with every reason. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from kokon.appraisal.matching import compare
from kokon.appraisal.platform import check_platform, check_revocation
from kokon.appraisal.policy import Policy
from kokon.appraisal.reference import ReferenceValues
from kokon.appraisal.result import AttestationResult
from kokon.appraisal.vector import trust_vector, worst
from kokon.tee.evidence import Check, Claims, failed


def appraise(
    claims: Claims, reference: ReferenceValues | Sequence[ReferenceValues], policy: Policy, now: datetime
) -> AttestationResult:
    """The result at the time `now` (aware). Raises nothing: whatever is wrong is a failed check, and all are made.

    `reference` is one acceptable launch or several, of which one must match as a whole. Failed checks of verification
    that name a waiver which the policy grants count as passed and keep their code. What verification required and did
    not have, and revocation lists that the policy insists on, are in `result.missing`, and the result is not ok.
    """
    references = (reference,) if isinstance(reference, ReferenceValues) else tuple(reference)
    verified = tuple(_judge(check, policy) for check in claims.checks) or (_nothing_verified(),)
    against, used = compare(claims, references, now, partial=policy.allow_partial_references)
    revocation, lists = check_revocation(claims, policy)
    minimum = used.minimum_tcb if used else {}
    appraised = (*against, *check_platform(claims, policy, minimum, now), *((revocation,) if revocation else ()))
    required = (*(need for need in claims.needs if need.required), *lists)
    checks = (*verified, *appraised)
    lenient = any(check.waiver is not None and check.outcome == "passed" for check in checks)
    vector = trust_vector(claims, checks, incomplete=bool(required), lenient=lenient)
    return AttestationResult(
        status=worst(vector),
        vector=vector,
        checks=checks,
        claims=claims,
        appraised=appraised,
        policy=policy.name,
        reference=used,
        missing=tuple(dict.fromkeys(required)),
    )


def _judge(check: Check, policy: Policy) -> Check:
    """A check of verification as the policy sees it. What names a waiver is the policy's to decide: with its code kept
    it passes if the waiver is granted, and fails if not, even if verification left it open."""
    if check.waiver is None or check.outcome == "passed":
        return check
    if not policy.grants(check.waiver):
        return replace(check, outcome="failed")
    return replace(check, outcome="passed", found=f"{check.found or 'on'}, allowed by policy ({check.waiver})")


def _nothing_verified() -> Check:
    return failed(
        "verification",
        "evidence-unverified",
        expected="checks of the evidence",
        found="none",
        hint="verify the evidence first; claims without checks are worth nothing",
    )
