"""Who gets what: the verdict about an attestation, and about one request for a resource. Pure.

All checks are made and kept, whatever the first one says, so that the owner can be told everything that is wrong.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from kokon.appraisal.appraise import appraise
from kokon.appraisal.lacking import check_missing, worth_fetching
from kokon.appraisal.policy import Policy, ReferenceValues
from kokon.appraisal.remembered import Remembered
from kokon.errors import DeniedError, KokonError, StaleError
from kokon.provisioning.kbs.binding import check_binding
from kokon.provisioning.kbs.messages import Attestation
from kokon.provisioning.kbs.session import Session
from kokon.provisioning.measured import match, platform_of
from kokon.provisioning.restrictions import kind_of, restricted
from kokon.tee.evidence import Check, Claims, Evidence, Need, failed, passed

if TYPE_CHECKING:
    from kokon.appraisal.result import AttestationResult
    from kokon.provisioning.workload import Workload

Finder = Callable[[bytes], "Workload | None"]
"""Finds the workload, or the release of one, whose launch document has this digest."""
_results = Remembered()
NEAREST = 8
"""Releases that an unknown guest is compared with at most."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of an attestation: every check; `granted` is None as soon as one failed.

    `workload` is the one whose launch document the enclave has, `facts` what the log keeps of the evidence. `wanted` is
    what a vendor may be asked for, after which the verdict may be another one: only for an admitted workload, and
    only if nothing is wrong with the evidence so far. `genuine`: the evidence verifies and was made for this session.
    """

    checks: tuple[Check, ...]
    granted: tuple[Workload, AttestationResult] | None
    workload: Workload | None
    facts: Mapping[str, Any]
    wanted: tuple[Need, ...] = ()
    genuine: bool = False

    @property
    def code(self) -> str | None:
        """The code of the first check that failed, or None."""
        return next((check.code for check in self.checks if check.outcome == "failed"), None)


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attestation with its session, the evidence that came in it, and the checks of devices' evidence, if any."""

    attestation: Attestation
    session: Session
    evidence: Evidence
    devices: tuple[Check, ...] = ()


def judge(
    attempt: Attempt, claims: Claims, find: Finder, known: Mapping[str, Workload], rules: Policy, now: datetime
) -> Verdict:
    """The verdict about `attempt`, whose evidence says `claims`; `known` are all workloads, for telling what comes
    nearest, and `rules` what is demanded of every platform."""
    workload = find(launch_digest(claims))
    refused = refusal(workload)
    session, facts = attempt.session, _facts(attempt.evidence.report, claims)
    binding = (*check_binding(attempt.attestation, session.tee, session.nonce, claims), *attempt.devices)
    if workload is not None:
        result = _results.result(claims, (workload, rules), now, partial(_appraised, workload, claims, rules, now))
    else:
        found = match(claims, known.values(), rules, now)
        if found is None or any(check.outcome == "failed" for check in found[1].appraised):
            checks = [*binding, *claims.checks]
            genuine = all(check.outcome != "failed" for check in checks)
            why = _why_unknown(claims, known, found, rules, now)
            return Verdict((*checks, *why), None, None, facts, genuine=genuine)
        workload, result = found
    missing = check_missing(result)
    bound = all(check.outcome != "failed" for check in binding)
    admitted = passed("workload", workload.name)
    checks = [*binding, *result.verified, *missing, admitted, *workload.standing, *result.appraised]
    if result.status != "affirming" and not missing:
        checks.append(failed("appraisal", "not-affirming", expected="affirming", found=result.status))
    good = result.ok and all(check.outcome != "failed" for check in checks)
    wanted = worth_fetching(claims) if bound and refused is None else ()
    genuine = bound and not claims.failures
    return Verdict(tuple(checks), (workload, result) if good else None, workload, facts, wanted, genuine)


def _appraised(workload: Workload, claims: Claims, rules: Policy, now: datetime) -> AttestationResult:
    """What comes of holding `claims` against a workload that has a launch document."""
    return restricted(appraise(claims, reference_values(workload, claims), policy(workload, rules), now), workload)


def reference_values(workload: Workload, claims: Claims) -> ReferenceValues:
    """What the author said that this workload measures to, of the kind that the evidence is: real or simulated."""
    kind = kind_of(claims)
    return ReferenceValues(
        measurements=tuple(value for tee, value in workload.measurements if tee == kind),
        not_after=workload.not_after,
        host_data=workload.host_data,
    )


def policy(workload: Workload, rules: Policy) -> Policy:
    """The owner's rules for this workload: its own policy or else those for every platform, with what was said besides
    when it was admitted. Raises as `platform_of`.

    Of two minima the higher one counts, also where the policy names one for a product line.
    """
    rules = platform_of(workload, rules)
    minimum = dict(workload.minimum_tcb)
    by_product = {line: _highest(found, minimum) for line, found in rules.minimum_tcb_by_product.items()}
    return replace(
        rules,
        allow_debug=rules.allow_debug or workload.allow_debug,
        minimum_tcb=_highest(rules.minimum_tcb, minimum),
        minimum_tcb_by_product=by_product,
    )


def _highest(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in sorted({*one, *other})}


def refusal(workload: Workload | None) -> Check | None:
    """The first reason for which the rule that a release was accepted by does not hold any more, None if it does."""
    standing = () if workload is None else workload.standing
    return next((check for check in standing if check.outcome == "failed"), None)


def check_release(workload: Workload | None, terms: str, path: str, now: datetime) -> Workload:
    """The workload, or that one of its releases, that an enclave was attested under the `terms` of, if it may have
    `path` at `now`.

    Raises `DeniedError` (`workload-withdrawn`, `resource-not-granted`, and the codes of the rule's checks),
    `StaleError` (`reference-expired`).
    """
    workload = _under(workload, terms)
    if workload is None:
        raise DeniedError(
            "workload-withdrawn",
            "the workload was withdrawn or replaced, or its policy was changed, since this enclave attested",
            hint="launch it again, with the launch document that is admitted now",
        )
    refused = refusal(workload)
    if refused is not None and refused.code is not None:
        raise DeniedError(
            refused.code,
            "the workload's rule does not allow this release any more",
            expected=refused.expected,
            found=refused.found,
            hint=refused.hint,
        )
    if now >= workload.not_after:
        raise StaleError(
            "reference-expired",
            "the identity statement has expired",
            expected=f"before {workload.not_after.isoformat()}",
            found=now.isoformat(timespec="seconds"),
            hint="ask the author for a new statement and admit it",
        )
    if path not in workload.resources:
        raise DeniedError(
            "resource-not-granted",
            "this workload was not given that resource",
            expected=", ".join(workload.resources),
            found=path,
            hint="name the secret in the launch document and admit it again",
        )
    return workload


def _under(workload: Workload | None, terms: str) -> Workload | None:
    """The workload or that one of its releases that has these terms."""
    candidates = () if workload is None else (workload.releases if workload.rule else (workload,))
    return next((one for one in candidates if hmac.compare_digest(one.terms().encode(), terms.encode())), None)


def error_check(name: str, error: KokonError) -> Check:
    """A failed check that says what `error` says."""
    return Check(
        name, "failed", error.code, error.expected, f"{error.message}: {error.found or ''}".rstrip(": "), error.hint
    )


def launch_digest(claims: Claims) -> bytes:
    """The SHA-256 of the launch document as the hardware field holds it: HOST_DATA as it is, MRCONFIGID and CONFIGID
    without the zeros behind (kbs protocol, initdata)."""
    field = claims.host_data
    return field[:32] if len(field) > 32 and not any(field[32:]) else field


def _why_unknown(
    claims: Claims,
    known: Mapping[str, Workload],
    measured: tuple[Workload, AttestationResult] | None,
    rules: Policy,
    now: datetime,
) -> tuple[Check, ...]:
    """Why no workload is this one, and what differs from the one that comes nearest: of those that are known by their
    measurements, or else of the releases of rules."""
    if measured is not None:
        return (_unknown(claims, known, measured[0]), *measured[1].appraised)
    releases = [one for workload in known.values() for one in workload.releases]
    nearest = sorted(releases, key=lambda one: not _measures(one, claims))[:NEAREST]
    results = [_appraised(one, claims, rules, now).appraised for one in nearest]
    checks = min(results, key=lambda checks: sum(check.outcome == "failed" for check in checks), default=())
    return (_unknown(claims, known, None), *checks)


def _unknown(claims: Claims, known: Mapping[str, Workload], nearest: Workload | None) -> Check:
    """That no workload is this one, with those that come near."""
    pinned = [one for workload in known.values() for one in (workload, *workload.releases) if one.host_data]
    near = [one for one in pinned if _measures(one, claims)]
    names = [f"{one.name} {one.host_data.hex()}" for one in (near or pinned)[:4]]
    names += [f"{one.name} by its rule, which has no release yet" for one in known.values() if _is_bare(one)][:4]
    if nearest is not None:
        names.append(f"{nearest.name} by its measurements")
    return failed(
        "workload",
        "workload-unknown",
        expected=", ".join(names) or "an admitted workload",
        found=claims.host_data.hex(),
        hint="admit the launch document, or launch with the one that is admitted: HOST_DATA is its SHA-256",
    )


def _measures(workload: Workload, claims: Claims) -> bool:
    return any(hmac.compare_digest(value, claims.measurement) for _, value in workload.measurements)


def _is_bare(workload: Workload) -> bool:
    """True for a rule that no statement was accepted by: it matches nobody."""
    return bool(workload.rule) and not workload.releases


def _facts(report: bytes, claims: Claims) -> dict[str, Any]:
    """What the log keeps of the evidence; the digest covers the signed body and the signature."""
    return {
        "evidence": hashlib.sha256(report).hexdigest(),
        "tee": claims.tee,
        "simulated": claims.simulated,
        "root": claims.root,
        "chip_id": claims.chip_id.hex(),
        "measurement": claims.measurement.hex(),
        "host_data": claims.host_data.hex(),
    }
