"""Whether a platform's firmware is good enough: SEV-SNP by versions, TDX and SGX by Intel's verdict. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime
from typing import Any, Final

from kokon.appraisal.policy import Policy
from kokon.tee.evidence import Check, Claims, failed, not_checked, passed

_FIRMWARE: Final = "the machine's firmware must be updated"


def allowed(name: str, found: object, waiver: str) -> Check:
    """A check that passed because the policy's switch `waiver` is on."""
    return Check(name, "passed", found=f"{found}, allowed by policy", waiver=waiver)


def check_snp(part: Claims, policy: Policy, more: Mapping[str, int]) -> Iterator[Check]:
    """SEV-SNP: the lowest versions that the policy names, and besides those in `more`, of all three TCBs."""
    minimum = {**policy.minimum_tcb, **policy.minimum_tcb_by_product.get(part.product, {})}
    for name, version in more.items():
        minimum[name] = max(version, minimum.get(name, 0))
    if minimum:
        yield from _check_minimum("tcb", part.reported_tcb, minimum)
        for kind in ("committed", "launch"):
            if kind in part.tcbs:
                yield from _check_minimum(f"{kind} tcb", part.tcbs[kind], minimum)
            else:
                yield not_checked(f"{kind} tcb", "tcb-not-reported", "the evidence does not tell this version")
    if policy.require_current_tcb:
        yield _check_current(part)


def _check_minimum(label: str, tcb: Mapping[str, int], minimum: Mapping[str, int]) -> Iterator[Check]:
    for name in sorted(minimum):
        found = tcb.get(name)
        if found is None or found < minimum[name]:
            yield failed(
                f"{label} {name}",
                "tcb-too-low",
                expected=f">= {minimum[name]}",
                found="none" if found is None else found,
                hint=f"{_FIRMWARE}, and the guest launched again" if label == "launch tcb" else _FIRMWARE,
            )
        else:
            yield passed(f"{label} {name}", found)


def _check_current(part: Claims) -> Check:
    current, committed = part.tcbs.get("current"), part.tcbs.get("committed")
    if current and dict(current) == dict(part.reported_tcb) == dict(committed or {}):
        return passed("tcb current", "nothing pending")
    return failed(
        "tcb current",
        "tcb-not-current",
        expected="reported, committed and current TCB are equal",
        found=f"reported {_tcb(part.reported_tcb)}; committed {_tcb(committed)}; current {_tcb(current)}",
        hint="the host must commit its firmware and report its current version",
    )


def _tcb(components: Mapping[str, int] | None) -> str:
    return " ".join(f"{name}={version}" for name, version in sorted((components or {}).items())) or "none"


def check_intel(part: Claims, policy: Policy, now: datetime) -> Iterator[Check]:
    """TDX and SGX: Intel's verdict on the platform with what is tolerated at `now`, and the kind of platform."""
    yield _check_status(part, policy, now)
    for advisory in part.advisories:
        yield _check_advisory(advisory, policy, now)
    if policy.minimum_evaluation:
        yield _check_evaluation(part.details.get("tcb_eval_num"), policy.minimum_evaluation)
    if policy.minimum_tcb_date is not None:
        yield _check_date(part.details.get("tcb_date"), policy.minimum_tcb_date)
    yield _check_dynamic(part.details.get("is_dynamic_platform"), policy)
    yield _check_cached(part.details.get("is_cached_keys"), policy)


def _check_status(part: Claims, policy: Policy, now: datetime) -> Check:
    status = part.tcb_status
    if status == "UpToDate":
        return passed("tcb-status", status)
    if not status:
        if any(need.required for need in part.needs):
            return not_checked("tcb-status", "tcb-status-unknown", "Intel's collateral for this platform is needed")
        return failed("tcb-status", "tcb-status-refused", expected="UpToDate", found="unknown", hint=_FIRMWARE)
    tolerance = next((one for one in policy.tolerated_statuses if one.name == status), None)
    if tolerance is None:
        return failed(
            "tcb-status",
            "tcb-status-refused",
            expected="UpToDate",
            found=status,
            hint=f"{_FIRMWARE} or configuration; or tolerate {status} in the policy, with a reason and an end",
        )
    if now >= tolerance.until:
        return _ended("tcb-status", status, tolerance.until, now)
    return passed("tcb-status", f"{status}, tolerated before {tolerance.until:%Y-%m-%dT%H:%M:%SZ}: {tolerance.reason}")


def _check_advisory(advisory: str, policy: Policy, now: datetime) -> Check:
    name = f"advisory {advisory}"
    tolerance = next((one for one in policy.tolerated_advisories if one.name == advisory), None)
    if tolerance is None:
        return failed(
            name,
            "advisory-refused",
            expected="no open advisory",
            found=advisory,
            hint=f"{_FIRMWARE}; or tolerate {advisory} in the policy, with a reason and an end",
        )
    if now >= tolerance.until:
        return _ended(name, advisory, tolerance.until, now)
    return passed(name, f"tolerated before {tolerance.until:%Y-%m-%dT%H:%M:%SZ}: {tolerance.reason}")


def _ended(name: str, what: str, until: datetime, now: datetime) -> Check:
    return failed(
        name,
        "tolerance-expired",
        expected=f"before {until:%Y-%m-%dT%H:%M:%SZ}",
        found=f"{what} at {now:%Y-%m-%dT%H:%M:%SZ}",
        hint=f"{_FIRMWARE}, or the owner decides again about {what}",
    )


def _check_evaluation(found: Any, minimum: int) -> Check:
    if isinstance(found, int) and found >= minimum:
        return passed("tcb-evaluation", found)
    return failed(
        "tcb-evaluation",
        "tcb-evaluation-too-low",
        expected=f">= {minimum}",
        found="unknown" if found is None else found,
        hint="newer collateral is needed: fetch it again",
    )


def _check_date(found: Any, oldest: date) -> Check:
    if isinstance(found, str) and len(found) >= 10 and found[:10] >= oldest.isoformat():
        return passed("tcb-date", found)
    return failed(
        "tcb-date",
        "tcb-date-too-old",
        expected=f"{oldest.isoformat()} or later",
        found="unknown" if found is None else found,
        hint=_FIRMWARE,
    )


def _check_dynamic(found: Any, policy: Policy) -> Check:
    if found is not True:
        return passed("dynamic-platform", "no" if found is False else "not stated: one package")
    if policy.allow_dynamic_platform:
        return allowed("dynamic-platform", "yes", "allow_dynamic_platform")
    return failed(
        "dynamic-platform",
        "platform-dynamic",
        expected="no",
        found="yes",
        hint="processors may be added to this platform later; allow.dynamic_platform in the policy accepts that",
    )


def _check_cached(found: Any, policy: Policy) -> Check:
    if found is not True:
        return passed("cached-keys", "no" if found is False else "not stated: one package")
    if policy.allow_cached_keys:
        return allowed("cached-keys", "yes", "allow_cached_keys")
    return failed(
        "cached-keys",
        "platform-keys-cached",
        expected="no",
        found="yes",
        hint="Intel keeps this platform's root keys; allow.cached_keys in the policy accepts that",
    )
