"""What Rego policies decide, in this server's own types: attestation results, and yes or no to a request.

A Rego policy stands in the place of an admitted workload: it says what may run. What the evidence itself and its
platform are worth is decided without it. Evidence whose verification failed, that is not bound to what came with it,
whose platform the owner's rules refuse, or that is a sample, is never affirming, whatever a policy claims of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from kokon.appraisal.vector import ASPECTS, tier, trust_vector, worst
from kokon.errors import DeniedError
from kokon.provisioning.kbs.binding import check_init_data, check_report_data
from kokon.provisioning.kbs.initdata import parse_init_data
from kokon.provisioning.rego.defaults import ATTESTATION, default_policy
from kokon.provisioning.rego.inputs import policy_input, resource_data
from kokon.provisioning.rego.messages import POLICY_IDS
from kokon.provisioning.rego.outcome import PolicyResult
from kokon.provisioning.rego.reference import StoredValue, current, encode_value
from kokon.tee.eventlog.log import parse_event_log
from kokon.tee.evidence import Check, Claims, Evidence, failed, passed
from kokon.wire import canonical_json

if TYPE_CHECKING:
    from kokon.appraisal.result import AttestationResult
    from kokon.provisioning.rego.claims import TrustClaims
    from kokon.provisioning.rego.engine import PolicyEngine

CLASSES: Final[Mapping[str, str]] = {
    "nvidia": "gpu",
    "sampledevice": "gpu",
    "hygondcu": "dcu",
    "nvidia-dpu": "nvidia-dpu",
}
"""Classes of TEEs, each of which has policies of its own (trustee, attestation service); all others are `CPU`."""
CPU: Final = "cpu"
DEFAULT: Final = POLICY_IDS["attestation"]
TRUSTED_KEYS: Final = "trusted_aks"
"""The reference value that lists attestation keys of TPMs (base64 of DER) which nobody else vouches for."""

_BAD: Final = ("warning", "contraindicated")
_EVENT_LOG: Final = "event-log"


@dataclass(frozen=True, slots=True)
class RegoPolicies:
    """A project's Rego policies: texts by id, for attestation and for resources; and reference values by name."""

    attestation: Mapping[str, str] = field(default_factory=dict)
    resource: Mapping[str, str] = field(default_factory=dict)
    references: Mapping[str, StoredValue] = field(default_factory=dict)
    _terms: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("attestation", "resource", "references"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        object.__setattr__(self, "_terms", _digest(self.attestation, self.references))

    @property
    def chosen(self) -> tuple[str, str] | None:
        """Name and text of the attestation policy for guests, `find` for CPUs; None if the project has neither one of
        that id nor any reference values, so that nobody asked for such policies here."""
        if self.references or self.attestation.keys() & {f"{DEFAULT}_{CPU}", DEFAULT}:
            return self.find(CPU)
        return None

    def find(self, tee: str, policy_id: str = DEFAULT) -> tuple[str, str]:
        """Name and text of the attestation policy for evidence of `tee`: that of its class ("default_cpu"), else that
        of the bare id, else for "default_cpu" this server's own. Raises `DeniedError` (`policy-unknown`)."""
        of_class = f"{policy_id}_{CLASSES.get(tee, CPU)}"
        for name in (of_class, policy_id):
            if name in self.attestation:
                return name, self.attestation[name]
        if of_class == ATTESTATION:
            return ATTESTATION, default_policy(ATTESTATION)
        raise DeniedError(
            "policy-unknown",
            "there is no attestation policy for this evidence",
            expected=f"{of_class} or {policy_id}",
            found=", ".join(sorted(self.attestation)) or "none",
            hint="set one of that id",
        )

    def terms(self) -> str:
        """Hex digest of all that attestation is judged by: it is another one as soon as any of it changes."""
        return self._terms


def appraise_by_policy(
    engine: PolicyEngine,
    policies: RegoPolicies,
    evidence: Evidence,
    base: AttestationResult,
    runtime_data: Mapping[str, Any] | None,
    init_data: bytes | None,
    *,
    tenant: str,
    now: datetime,
    policy_id: str = DEFAULT,
) -> PolicyResult:
    """What the project's attestation policy says of `evidence` at `now` (aware).

    `base` is what `appraise` made of the evidence's claims without reference values, under the owner's rules for every
    platform. `runtime_data` is what the report data must be a digest of (`kbs.messages.runtime_data`), `init_data` the
    launch document: if one is not bound to the evidence, that is a failed check, and the policy does not see it. A
    TPM's key that nobody vouches for may stand in the reference value `trusted_aks` instead.

    Raises `DeniedError` (`policy-unknown`), `MalformedError` (`event-log-malformed`, `init-data-malformed`), and as
    `PolicyEngine`.
    """
    claims = base.claims
    name, text = policies.find(claims.tee, policy_id)
    unbound = {check.name: check for check in _binding(claims, runtime_data, init_data) if check.outcome == "failed"}
    shown = init_data is not None and "init-data" not in unbound
    log = evidence.parts.get(_EVENT_LOG)
    given = policy_input(
        claims,
        runtime_data=None if "report-data" in unbound else runtime_data,
        init_data=parse_init_data(init_data) if shown and init_data is not None else None,
        event_log=None if log is None else parse_event_log(log),
    )
    trust = engine.evaluate_attestation(text, given, policies.references, now, tenant=tenant)
    verified, platform = (*base.verified, *unbound.values()), tuple(_platform(base, policies, now))
    vector = _vector(trust, claims, (*verified, *platform), incomplete=bool(base.missing))
    appraised = (*platform, *_sayings(name, text, trust, claims))
    return PolicyResult(
        status=worst(vector),
        vector=vector,
        checks=(*verified, *appraised),
        claims=claims,
        appraised=appraised,
        policy=policy_id,
        missing=base.missing,
        extensions=trust.extensions,
        given=given,
    )


def allow_resource(
    engine: PolicyEngine,
    policies: RegoPolicies,
    claims: Mapping[str, Any],
    segments: Sequence[str],
    query: Mapping[str, str],
    *,
    tenant: str,
    plugin: str = "resource",
) -> None:
    """Check that whoever holds a verified token with `claims` may have the resource whose path has these `segments`.

    The key broker has one resource policy, `resource-policy`. Where a project has several, every one must allow it;
    where it has none, nobody did. Raises `DeniedError` (`policy-denied`), and as `PolicyEngine`.
    """
    data = resource_data(plugin, segments, query)
    refusing = [
        name
        for name, text in sorted(policies.resource.items())
        if not engine.evaluate_resource(text, claims, data, tenant=tenant)
    ]
    if refusing or not policies.resource:
        raise DeniedError(
            "policy-denied",
            "no resource policy allows this" if not policies.resource else "the resource policy does not allow this",
            expected="allowed by " + (", ".join(sorted(policies.resource)) or f"a policy {POLICY_IDS['resource']}"),
            found="denied by " + ", ".join(refusing) if refusing else "no policy",
            hint="evaluate the policy with the claims of this token as input, or set another one",
        )


def _digest(attestation: Mapping[str, str], references: Mapping[str, StoredValue]) -> str:
    digest = hashlib.sha256()
    parts = [(name.encode(), text.encode()) for name, text in sorted(attestation.items())]
    parts += [(b"", encode_value(references[name])) for name in sorted(references)]
    for part in (part for pair in parts for part in pair):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _binding(claims: Claims, runtime_data: Mapping[str, Any] | None, init_data: bytes | None) -> Iterator[Check]:
    """Whether the evidence was made for what came with it (kbs protocol)."""
    if runtime_data is not None:
        yield check_report_data(hashlib.sha384(canonical_json(dict(runtime_data))).digest(), claims)
    if init_data is not None:
        yield check_init_data(init_data, claims)


def _platform(base: AttestationResult, policies: RegoPolicies, now: datetime) -> Iterator[Check]:
    """What the owner's rules say of the platform, without what they say of missing reference values."""
    for check in base.appraised:
        if check.code == "tpm-ak-unbound" and _is_registered(base.claims, policies, now):
            yield passed(check.name, f"registered as {TRUSTED_KEYS}")
        elif check.code != "reference-missing":
            yield check


def _is_registered(claims: Claims, policies: RegoPolicies, now: datetime) -> bool:
    stored, key = policies.references.get(TRUSTED_KEYS), claims.details.get("ak_public")
    keys = current({TRUSTED_KEYS: stored}, now).get(TRUSTED_KEYS) if stored is not None else None
    return isinstance(keys, list) and isinstance(key, str) and key in keys


def _vector(trust: TrustClaims, claims: Claims, checks: Sequence[Check], *, incomplete: bool) -> dict[str, int]:
    """What the policy claims, but for aspects of which something worse is known without it."""
    known = trust_vector(claims, checks, incomplete=incomplete, lenient=False)
    claimed = trust.of(claims).vector
    return {aspect: _lower(claimed[aspect], known[aspect]) for aspect in ASPECTS}


def _lower(claimed: int, known: int) -> int:
    spoiled = tier(known) in _BAD and worst({"claimed": claimed, "known": known}) != tier(claimed)
    return known if spoiled else claimed


def _sayings(name: str, text: str, trust: TrustClaims, claims: Claims) -> Iterator[Check]:
    """What the policy said, as checks: each aspect in which the evidence is not good enough."""
    hint = f"attestation policy {name} says so: of the evidence, or because a reference value is missing"
    poor = [(aspect, value) for aspect, value in trust.vector.items() if tier(value) in _BAD]
    for aspect, value in poor:
        expected, found = "2 to 31 (affirming), or no claim", f"{value} ({tier(value)})"
        yield failed(f"policy {aspect}", "not-affirming", expected=expected, found=found, hint=hint)
    if claims.tee == "sample":
        yield failed("sample", "sample-unsigned", expected="evidence that hardware signed", found="sample evidence")
    if trust.status == "none":
        yield failed("policy", "not-affirming", expected="an affirming claim", found="no claim", hint=hint)
    elif not poor:
        yield passed("policy", f"{name}, SHA-256 {hashlib.sha256(text.encode()).hexdigest()}")
