"""What Rego policies decide, in this server's own types: attestation results, and yes or no to a request.

A Rego policy stands in the place of an admitted workload: it says what may run. What the evidence itself is worth it
does not decide. Evidence whose verification failed, that is not bound to what came with it, that can be read by its
host, or that is a sample, is never affirming, whatever a policy claims of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from kokon.appraisal.appraise import appraise
from kokon.appraisal.platform import check_platform, platforms
from kokon.appraisal.policy import STATUSES, Policy, Tolerance
from kokon.appraisal.vector import ASPECTS, tier, trust_vector, worst
from kokon.errors import DeniedError
from kokon.provisioning.kbs.binding import check_init_data, check_report_data
from kokon.provisioning.rego.defaults import ATTESTATION, RESOURCE, default_policy
from kokon.provisioning.rego.inputs import policy_input, resource_data
from kokon.provisioning.rego.messages import POLICY_IDS
from kokon.provisioning.rego.outcome import PolicyResult
from kokon.provisioning.rego.reference import StoredValue, current
from kokon.tee.evidence import Check, Claims, failed, passed
from kokon.wire import canonical_json

if TYPE_CHECKING:
    from kokon.provisioning.kbs.initdata import InitData
    from kokon.provisioning.rego.claims import TrustClaims
    from kokon.provisioning.rego.engine import PolicyEngine
    from kokon.provisioning.rego.trial import PolicyKind, Trial
    from kokon.tee.eventlog.log import EventLog

CLASSES: Final[Mapping[str, str]] = {
    "nvidia": "gpu",
    "sampledevice": "gpu",
    "hygondcu": "dcu",
    "nvidia-dpu": "nvidia-dpu",
}
"""Classes of TEEs, each of which has policies of its own (trustee, attestation service); all others are `CPU`."""
CPU: Final = "cpu"
TRUSTED_KEYS: Final = "trusted_aks"
"""The reference value that lists attestation keys of TPMs (base64 of DER) which nobody else vouches for."""

_BAD: Final = ("warning", "contraindicated")
_ALWAYS: Final = datetime.max.replace(microsecond=0, tzinfo=UTC)
_LEFT: Final = "left to the Rego policy"
_LEAST: Final = Policy(
    allow_dynamic_platform=True,
    allow_cached_keys=True,
    revocation="if-available",
    tolerated_statuses=tuple(Tolerance(status, _ALWAYS, _LEFT) for status in STATUSES),
)
"""What holds for all evidence, whatever a Rego policy says: no debugger, no migration, VMPL 0, boot registers quoted, no
revoked platform. Firmware versions and Intel's other verdicts are for the Rego policy."""


@dataclass(frozen=True, slots=True)
class RegoPolicies:
    """A project's Rego policies: texts by id, for attestation and for resources; and reference values by name."""

    attestation: Mapping[str, str] = field(default_factory=dict)
    resource: Mapping[str, str] = field(default_factory=dict)
    references: Mapping[str, StoredValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("attestation", "resource", "references"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))


def attestation_policy(policies: RegoPolicies, tee: str, policy_id: str = POLICY_IDS["attestation"]) -> tuple[str, str]:
    """Name and text of the policy for evidence of `tee`: that of its class ("default_cpu"), else that of the bare id,
    else this server's own for id "default" and TEEs that are no devices. Raises `DeniedError` (`policy-unknown`)."""
    of_class = f"{policy_id}_{CLASSES.get(tee, CPU)}"
    for name in (of_class, policy_id):
        if name in policies.attestation:
            return name, policies.attestation[name]
    if of_class == ATTESTATION:
        return ATTESTATION, default_policy(ATTESTATION)
    raise DeniedError(
        "policy-unknown",
        "there is no attestation policy for this evidence",
        expected=f"{of_class} or {policy_id}"[:200],
        found=", ".join(sorted(policies.attestation)) or "none",
        hint="set one of that id",
    )


def appraise_by_policy(
    engine: PolicyEngine,
    policies: RegoPolicies,
    claims: Claims,
    *,
    tenant: str,
    now: datetime,
    runtime_data: Mapping[str, Any] | None = None,
    init_data: InitData | None = None,
    event_log: EventLog | None = None,
    policy_id: str = POLICY_IDS["attestation"],
    rules: Policy | None = None,
) -> PolicyResult:
    """What the project's attestation policy says of evidence at `now` (aware), `claims` being what verification made of
    it.

    `runtime_data` is what the report data must be a digest of (`kbs.messages.runtime_data`), `init_data` the launch
    document, `event_log` the evidence's; what is not bound to the evidence is not shown to the policy, and but for an
    event log it is a failed check. `rules` are the owner's demands on every platform; without them `_LEAST` holds.
    A TPM's key that nobody vouches for must stand in the reference value `trusted_aks`.

    Raises `DeniedError` (`policy-unknown`), `MalformedError` (`init-data-malformed`), and as `PolicyEngine`.
    """
    name, text = attestation_policy(policies, claims.tee, policy_id)
    unbound = tuple(check for check in _binding(claims, runtime_data, init_data) if check.outcome == "failed")
    names = {check.name for check in unbound}
    given = policy_input(
        claims,
        runtime_data=None if "report-data" in names else runtime_data,
        init_data=None if "init-data" in names else init_data,
        event_log=event_log,
    )
    trust = engine.evaluate_attestation(text, given, policies.references, now, tenant=tenant)
    rules = _least(claims, policies.references, now) if rules is None else rules
    base = appraise(claims, (), rules, now)
    verified, platform = (*base.verified, *unbound), tuple(check_platform(claims, rules, {}, now))
    floor = trust_vector(claims, (*verified, *platform), incomplete=bool(base.missing), lenient=False)
    claimed = trust.of(claims).vector
    vector = {aspect: _lower(claimed[aspect], floor[aspect]) for aspect in ASPECTS}
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
    token_claims: Mapping[str, Any],
    path: str,
    query: Mapping[str, str],
    tenant: str,
    *,
    plugin: str = "resource",
) -> None:
    """Check that whoever holds a verified token with `token_claims` may have the resource at `path` ("a/b/c").

    The key broker has one resource policy, `resource-policy`. Where a project has several, every one must allow it;
    where it has none, this server's own decides. Raises `DeniedError` (`policy-denied`), and as `PolicyEngine`.
    """
    chosen = policies.resource or {RESOURCE: default_policy(RESOURCE)}
    data = resource_data(plugin, path.split("/"), query)
    refusing = [
        name
        for name, text in sorted(chosen.items())
        if not engine.evaluate_resource(text, token_claims, data, tenant=tenant)
    ]
    if refusing:
        raise DeniedError(
            "policy-denied",
            "the resource policy does not allow this",
            expected="allowed by " + ", ".join(sorted(chosen)),
            found="denied by " + ", ".join(refusing),
            hint="evaluate the policy with this token's claims as input, or set another one",
        )


def check_policy(engine: PolicyEngine, kind: PolicyKind, text: str, *, tenant: str = "") -> Trial:
    """Try a policy before it is set. Raises as `PolicyEngine.check`."""
    return engine.check(text, kind, tenant=tenant)


def _least(claims: Claims, references: Mapping[str, StoredValue], now: datetime) -> Policy:
    """`_LEAST` for this evidence: its advisories are for the Rego policy too, and its TPM's key may be one of those
    that are registered."""
    advisories = sorted({advisory for part in platforms(claims) for advisory in part.advisories})
    known = current({TRUSTED_KEYS: references[TRUSTED_KEYS]} if TRUSTED_KEYS in references else {}, now)
    keys, key = known.get(TRUSTED_KEYS), claims.details.get("ak_public")
    return replace(
        _LEAST,
        tolerated_advisories=tuple(Tolerance(advisory, _ALWAYS, _LEFT) for advisory in advisories),
        allow_unbound_ak=isinstance(keys, list) and isinstance(key, str) and key in keys,
    )


def _binding(claims: Claims, runtime_data: Mapping[str, Any] | None, init_data: InitData | None) -> Iterator[Check]:
    """Whether the evidence was made for what came with it (kbs protocol)."""
    if runtime_data is not None:
        yield check_report_data(hashlib.sha384(canonical_json(dict(runtime_data))).digest(), claims)
    if init_data is not None:
        yield check_init_data(init_data.text, claims)


def _lower(claimed: int, floor: int) -> int:
    """What a policy claims, unless what is known without it is bad and worse."""
    spoiled = tier(floor) in _BAD and worst({"claimed": claimed, "floor": floor}) != tier(claimed)
    return floor if spoiled else claimed


def _sayings(name: str, text: str, trust: TrustClaims, claims: Claims) -> Iterator[Check]:
    """What the policy said, as checks: each aspect in which the evidence is not good enough."""
    hint = f"attestation policy {name} says so, of its reference values or of the evidence"
    poor = [(aspect, value) for aspect, value in trust.vector.items() if tier(value) in _BAD]
    for aspect, value in poor:
        yield failed(
            f"policy {aspect}",
            "not-affirming",
            expected="2 to 31 (affirming), or no claim",
            found=f"{value} ({tier(value)})",
            hint=hint,
        )
    if claims.tee == "sample":
        yield failed("sample", "sample-unsigned", expected="evidence that hardware signed", found="sample evidence")
    if trust.status == "none":
        yield failed("policy", "not-affirming", expected="an affirming claim", found="no claim", hint=hint)
    elif not poor:
        yield passed("policy", f"{name}, SHA-256 {hashlib.sha256(text.encode()).hexdigest()}")
