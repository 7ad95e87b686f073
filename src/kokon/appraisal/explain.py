"""A result as a chain from the vendor's root to the workload: for people, and as data. Pure.

Checks stand in the order in which they were made; here they are put where a reader looks for them: root, certificates
from the root down, what they signed, freshness, platform, settings, event log, what runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from kokon.appraisal.result import AttestationResult
from kokon.appraisal.step import Step
from kokon.tee.evidence import Check, Claims
from kokon.tee.explanation import Explanation

_SIGNED: Final = re.compile(r"(signature|validity|revocation) of (.{1,200})")
_BY: Final = re.compile(r"(?:signed )?by (.{1,200})")
_REGISTERS_SHOWN: Final = 12
_WHOSE: Final = re.compile(r"^[A-Za-z0-9 -]{1,24}: ")
_TITLES: Final[Mapping[str, str]] = {
    "root": "The chain ends at a root that is believed",
    "revocation": "The vendor has revoked none of it",
    "evidence": "The evidence is signed, and says what its kind must say",
    "fresh": "The evidence answers the question that was asked",
    "tcb": "The platform's firmware is good enough",
    "configuration": "The enclave is set up as the policy wants it",
    "event-log": "The event log leads to the registers",
    "executables": "What was measured is what the reference values name",
    "host-data": "It was launched with the expected launch document",
    "fetching": "What was lacking could be fetched",
}
_FIRST: Final = ("root",)
_LATER: Final = tuple(name for name in _TITLES if name not in _FIRST)
_GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "root": ("root", "certificates", "authority", "intermediate", "signature-parameters"),
    "revocation": ("revocation", "revocation-lists"),
    "fresh": ("nonce", "report-data", "age", "freshness", "timestamp"),
    "configuration": (
        *("debug", "migration", "vmpl", "smt", "dynamic-platform", "cached-keys", "tee", "platform", "simulated-root"),
        *("td-attributes", "attributes", "sept-ve-disable", "service-td", "pcr-selection", "attestation-key"),
    ),
    "executables": (*("measurement", "coverage", "signer", "product-id", "security-version", "reference-values"),),
    "host-data": ("host-data", "init-data"),
}
_PLACES: Final[Mapping[str, str]] = {name: group for group, names in _GROUPS.items() for name in names}


def steps(
    subject: AttestationResult | Claims, explanation: Explanation | None = None, more: Iterable[Check] = ()
) -> tuple[Step, ...]:
    """The chain for a result, or for claims that nothing was held against.

    `explanation` is what `tee.*.explain` found out about another measurement than the expected one, `more` are checks
    that a caller made besides. Steps without checks are left out.
    """
    claims = subject if isinstance(subject, Claims) else subject.claims
    result = None if isinstance(subject, Claims) else subject
    checks = (*subject.checks, *more)
    groups: dict[str, list[Check]] = {}
    signed: dict[str, list[Check]] = {}
    for check in checks:
        match = _SIGNED.fullmatch(_inner(check.name))
        if match:
            signed.setdefault(match[2], []).append(check)
        else:
            groups.setdefault(_place(_inner(check.name)), []).append(check)
    facts = _facts(claims, result, explanation)
    chain = [_group(name, groups, facts) for name in _FIRST]
    chain += list(_certificates(signed))
    chain += [_group(name, groups, facts) for name in _LATER]
    return tuple(step for step in chain if step.checks)


def explain(result: AttestationResult, explanation: Explanation | None = None) -> dict[str, Any]:
    """The chain, the nearest reference and the findings as plain JSON values."""
    found: dict[str, Any] = {
        "ok": result.ok,
        "steps": [step.as_dict() for step in steps(result, explanation)],
        "reasons": [check.as_dict() for check in result.reasons],
        "missing": [str(need) for need in result.missing],
        "nearest": nearest(result),
    }
    if explanation is not None:
        found["measurement"] = explanation.as_dict()
    return found


def nearest(result: AttestationResult) -> dict[str, Any] | None:
    """Of the references the one that differs least, with what agrees and what differs; None if there is none."""
    if result.reference is None:
        return None
    about = [check for check in result.appraised if _place(check.name) in ("executables", "host-data")]
    return {
        "reference": result.reference.title,
        "agrees": [check.name for check in about if check.outcome == "passed" and check.found != "any"],
        "differs": [check.name for check in about if check.outcome == "failed"],
    }


def _inner(name: str) -> str:
    """The name without "snp: " or "DICE quote: ", which tell whose check it is."""
    return name if name.startswith("event") else _WHOSE.sub("", name)


def _place(name: str) -> str:
    """The step in which a check is shown; what is not known here belongs to the evidence itself."""
    if name in _PLACES:
        return _PLACES[name]
    if name.startswith(("event log", "event-log")):
        return "event-log"
    if name.startswith("register "):
        return "executables"
    if name.startswith("fetching "):
        return "fetching"
    if name.startswith("advisory ") or "tcb" in name.split():
        return "tcb"
    return "tcb" if name.startswith(("tcb-", "tdx-module", "qe-identity", "qe-tcb")) else "evidence"


def _group(name: str, groups: Mapping[str, list[Check]], facts: Mapping[str, tuple[tuple[str, str], ...]]) -> Step:
    return Step(name, _TITLES[name], tuple(groups.get(name, ())), facts.get(name, ()))


def _certificates(signed: Mapping[str, list[Check]]) -> Iterator[Step]:
    """A step for each thing that somebody signed, nearer to the root first."""
    issuers = {name: _issuer(checks) for name, checks in signed.items()}
    for name in sorted(signed, key=lambda name: _depth(name, issuers)):
        issuer = issuers[name]
        title = f"{name} signed itself" if issuer == name else f"{issuer} signed {name}" if issuer else name
        yield Step("certificate", title, tuple(signed[name]), (("name", name),))


def _issuer(checks: list[Check]) -> str:
    """Who signed it or should have, as the check of the signature says."""
    for check in checks:
        match = _BY.fullmatch(check.found or "") or _BY.fullmatch(check.expected or "")
        if "signature of " in check.name and match:
            return match[1]
    return ""


def _depth(name: str, issuers: Mapping[str, str]) -> int:
    depth = 0
    while issuers.get(name) not in (None, "", name) and depth < len(issuers):
        name, depth = issuers[name], depth + 1
    return depth


def _facts(
    claims: Claims, result: AttestationResult | None, explanation: Explanation | None
) -> dict[str, tuple[tuple[str, str], ...]]:
    """What is worth showing beside the checks of each step; empty values are for the renderer to leave out."""
    return {
        "root": (("fingerprint", claims.root), ("simulated", "yes" if claims.simulated else "")),
        "evidence": (
            ("tee", claims.tee),
            ("product", claims.product),
            ("platform", claims.chip_id.hex() if any(claims.chip_id) else ""),
            ("canonical", claims.canonical.hex()),
        ),
        "fresh": (("report data", claims.report_data.hex()),),
        "tcb": (
            ("status", claims.tcb_status),
            ("advisories", ", ".join(claims.advisories)),
            ("reported", _components(claims.reported_tcb)),
            *((name, _components(tcb)) for name, tcb in claims.tcbs.items()),
        ),
        "configuration": (("policy", result.policy if result else ""),),
        "executables": (
            ("measurement", claims.measurement.hex()),
            ("signer", claims.signer.hex() if any(claims.signer) else ""),
            *_registers(claims),
            *_reference_facts(result),
            *_findings(explanation),
        ),
        "host-data": (("host data", claims.host_data.hex()),),
    }


def _components(tcb: Mapping[str, int]) -> str:
    return " ".join(f"{name}={version}" for name, version in tcb.items())


def _registers(claims: Claims) -> Iterator[tuple[str, str]]:
    """Registers besides the measurement, unless they are too many to be read."""
    others = {
        name: value for name, value in claims.registers.items() if value not in (claims.measurement, claims.signer)
    }
    if len(others) <= _REGISTERS_SHOWN:
        yield from ((name, value.hex()) for name, value in others.items() if any(value))


def _reference_facts(result: AttestationResult | None) -> Iterator[tuple[str, str]]:
    near = nearest(result) if result else None
    if near is None:
        return
    if not near["differs"]:
        yield "reference", near["reference"]
        return
    yield "nearest reference", near["reference"]
    yield "which agrees in", ", ".join(near["agrees"])
    yield "and differs in", ", ".join(near["differs"])


def _findings(explanation: Explanation | None) -> Iterator[tuple[str, str]]:
    if explanation is None or explanation.matches:
        return
    for finding in explanation.findings:
        yield "explained by", finding.text
    if not explanation.findings:
        yield "not explained by", explanation.tried
