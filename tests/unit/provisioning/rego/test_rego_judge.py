"""What Rego policies decide in the server's own types; what they cannot make good; tokens that hold what they say."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import FrozenInstanceError, replace
from datetime import timedelta
from typing import Any

import pytest
import rego_evidence as made
from rego_kit import NOW, SAMPLE_VALUES, policy, quick, references, refusal

from kokon.appraisal.appraise import appraise
from kokon.appraisal.policy import Policy, Tolerance
from kokon.appraisal.vector import ASPECTS
from kokon.errors import DeniedError, MalformedError
from kokon.provisioning.rego.defaults import ATTESTATION, default_policy
from kokon.provisioning.rego.engine import PolicyEngine
from kokon.provisioning.rego.judge import RegoPolicies, allow_resource, appraise_by_policy
from kokon.provisioning.rego.outcome import ENTRY_LIMIT, PolicyResult
from kokon.provisioning.token.claims import Subject, compact_ear
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence, Need, failed, passed
from kokon.tee.registry import verify
from kokon.testing.vendor.eventlog import CC_BOOT
from kokon.wire import canonical_json
from unit.appraisal import appraisal_kit as kit

LIFETIME = timedelta(minutes=30)
RULES = Policy(revocation="if-available")
YES = policy('trust_claims := {"executables": 3, "hardware": 2, "configuration": 2}')
EVERYTHING = policy("trust_claims := {" + ", ".join(f'"{name}": 2' for name in ASPECTS) + "}")
JWK = {"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW", "x": "A" * 43, "y": "B" * 43}
RUNTIME = {"nonce": "n", "tee-pubkey": JWK, "additional-evidence": ""}
DIGEST = hashlib.sha384(canonical_json(RUNTIME)).digest()
DOCUMENT = b"""version = "0.1.0"
algorithm = "sha256"

[data]
"aa.toml" = 'url = "u"'
"policy.rego" = '''
policy_data := {"containers": [{"OCI": {"Process": {"User": {"UID": 7}}}}]}
'''
"""
BOUND = replace(made.snp(), report_data=DIGEST + bytes(16), host_data=hashlib.sha256(DOCUMENT).digest())


def judged(
    engine: PolicyEngine,
    claims: Claims,
    text: str | None = YES,
    values: dict[str, Any] | None = None,
    *,
    rules: Policy = RULES,
    evidence: Evidence | None = None,
    runtime: Any = None,
    document: bytes | None = None,
    **options: Any,
) -> PolicyResult:
    policies = RegoPolicies({} if text is None else {"default_cpu": text}, {}, references(values or {}))
    evidence = evidence or Evidence(claims.tee, b"")
    base = appraise(claims, (), rules, NOW)
    return appraise_by_policy(engine, policies, evidence, base, runtime, document, tenant="t", now=NOW, **options)


def failures(result: PolicyResult) -> dict[str, str | None]:
    return {check.name: check.code for check in result.failures}


# -- affirming


CASES: dict[str, tuple[Claims, dict[str, Any]]] = {
    "snp": (made.snp(), made.SNP_VALUES),
    "tdx": (made.tdx(), made.tdx_values(made.tdx())),
    "sgx": (made.sgx(), made.sgx_values(made.sgx())),
    "tpm": (made.TPM, made.TPM_VALUES),
    "az-snp-vtpm": (made.azure_snp(), made.AZURE_SNP_VALUES),
    "az-tdx-vtpm": (made.azure_tdx(), made.azure_tdx_values(made.azure_tdx())),
}


@pytest.mark.parametrize("tee", CASES)
def test_the_default_policy_affirms_what_is_registered(engine: PolicyEngine, tee: str) -> None:
    claims, values = CASES[tee]
    result = judged(engine, claims, None, values)
    assert (result.status, result.ok, result.failures) == ("affirming", True, ())
    assert (result.policy, result.claims) == ("default", claims)
    assert result.verified == claims.checks
    (said,) = (check for check in result.appraised if check.name == "policy")
    assert said.found == f"default_cpu, SHA-256 {hashlib.sha256(default_policy(ATTESTATION).encode()).hexdigest()}"
    unknown = judged(engine, claims, None)
    assert not unknown.ok
    assert failures(unknown)["policy executables"] == "not-affirming"
    assert {"reference-missing", "measurement-unknown"}.isdisjoint(check.code for check in unknown.checks)


def test_the_vector_is_the_policys(engine: PolicyEngine) -> None:
    result = judged(engine, made.snp(), policy('trust_claims := {"executables": 33, "hardware": 2}'))
    assert (result.vector["executables"], result.vector["hardware"], result.vector["instance-identity"]) == (33, 2, 0)
    assert (result.status, failures(result)) == ("warning", {"policy executables": "not-affirming"})
    assert judged(engine, made.snp(), EVERYTHING).vector == dict.fromkeys(ASPECTS, 2)


def test_a_policy_that_claims_nothing_good(engine: PolicyEngine) -> None:
    result = judged(engine, made.snp(), policy("other := 1"))
    assert (result.status, result.ok, failures(result)) == ("none", False, {"policy": "not-affirming"})
    assert judged(engine, made.snp(), policy('trust_claims := {"hardware": 97}')).status == "contraindicated"


# -- what no policy makes good


@pytest.mark.parametrize("text", [YES, EVERYTHING, policy('trust_claims := {"file-system": 2}')])
@pytest.mark.parametrize(
    "check",
    [
        failed("report-signature", "snp-signature"),
        failed("root", "root-untrusted"),
        failed("root", "simulated-root-refused"),
        failed("revocation", "certificate-revoked"),
        failed("debug", "tdx-debug", waiver="allow_debug"),
        failed("anything", "tcb-too-low"),
    ],
)
def test_evidence_that_does_not_verify(engine: PolicyEngine, text: str, check: Any) -> None:
    claims = made.snp()
    result = judged(engine, replace(claims, checks=(*claims.checks, check)), text)
    assert result.status in ("warning", "contraindicated")
    assert not result.ok
    assert check.name in failures(result)


def test_evidence_that_nobody_verified(engine: PolicyEngine) -> None:
    result = judged(engine, replace(made.snp(), checks=()), EVERYTHING)
    assert (result.status, failures(result)) == ("contraindicated", {"verification": "evidence-unverified"})


def test_evidence_that_lacks_endorsements(engine: PolicyEngine) -> None:
    need = Need("vcek")
    result = judged(engine, replace(made.snp(), needs=(need,)), EVERYTHING)
    assert (result.status, result.missing, result.ok) == ("contraindicated", (need,), False)
    strict = judged(engine, replace(made.snp(), checks=(passed("report-signature"),)), EVERYTHING, rules=Policy())
    assert (strict.status, [need.kind for need in strict.missing], strict.ok) == ("contraindicated", ["amd-crl"], False)


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"debug": True}, "debug-enabled"), ({"migratable": True}, "migration-allowed"), ({"vmpl": 1}, "vmpl-not-zero")],
)
def test_a_platform_that_the_owner_refuses(engine: PolicyEngine, changes: dict[str, Any], code: str) -> None:
    result = judged(engine, replace(made.snp(), **changes), EVERYTHING)
    assert (result.status, result.ok) == ("contraindicated", False)
    assert set(failures(result).values()) == {code}


def test_what_the_owner_allows_the_policy_may_allow(engine: PolicyEngine) -> None:
    assert judged(engine, replace(made.snp(), vmpl=1), rules=replace(RULES, allow_vmpl_nonzero=True)).ok
    claims = made.tdx()
    late = replace(claims, tcb_status="OutOfDate", details={**claims.details, "tcb_status": "OutOfDate"})
    assert judged(engine, late).status == "warning"
    tolerance = Tolerance("OutOfDate", NOW + timedelta(days=1), "the cloud updates on Monday")
    rules = replace(RULES, tolerated_statuses=(tolerance,))
    assert judged(engine, late, rules=rules).ok
    assert not judged(engine, late, None, CASES["tdx"][1], rules=rules).ok, "the default policy wants UpToDate"
    assert judged(engine, replace(late, tcb_status="Revoked"), rules=rules).status == "warning"


def test_a_chip_that_is_not_the_owners(engine: PolicyEngine) -> None:
    result = judged(engine, made.snp(), rules=replace(RULES, only_chips=(b"\1" * 64,)))
    assert (result.status, failures(result)) == ("contraindicated", {"platform": "chip-not-allowed"})


def test_samples_are_never_affirming(engine: PolicyEngine) -> None:
    evidence = Evidence("sample", b'{"svn":"1"}')
    accepted = verify(evidence, Endorsements(accepted_simulated=frozenset({"sample"})), kit.NOW)
    for text in (None, YES, EVERYTHING):
        result = judged(engine, accepted, text, SAMPLE_VALUES)
        assert (result.status, result.ok) == ("contraindicated", False)
        assert failures(result)["sample"] == "sample-unsigned"
    refused = judged(engine, verify(evidence, Endorsements(), kit.NOW), EVERYTHING)
    assert (refused.status, failures(refused)["signature"]) == ("contraindicated", "sample-refused")


def test_of_simulated_hardware_nothing_is_claimed(engine: PolicyEngine) -> None:
    """As our own appraisal treats it: affirming if its root was accepted, without a word on hardware and memory."""
    simulated = replace(made.snp(), simulated=True)
    result = judged(engine, simulated, EVERYTHING)
    ours = appraise(simulated, kit.REFERENCE, RULES, kit.NOW)
    assert (result.status, result.ok, result.simulated) == ("affirming", True, True)
    assert (result.vector["hardware"], result.vector["runtime-opaque"]) == (0, 0)
    assert (ours.vector["hardware"], ours.vector["runtime-opaque"]) == (0, 0)
    only = judged(engine, simulated, policy('trust_claims := {"hardware": 2}'))
    assert (only.status, only.ok) == ("none", False)
    other = judged(engine, simulated, EVERYTHING, rules=replace(RULES, only_simulated_roots=("00" * 32,)))
    assert (other.status, failures(other)) == ("contraindicated", {"simulated-root": "simulated-root-not-allowed"})


# -- TPM keys


def test_a_tpms_key_that_nobody_vouches_for(engine: PolicyEngine) -> None:
    unbound = replace(made.TPM, needs=(Need("ak", required=False),))
    assert judged(engine, unbound, EVERYTHING).status == "contraindicated"
    assert judged(engine, unbound, None, made.TPM_VALUES).ok
    for values in ({"trusted_aks": ["other"]}, {"trusted_aks": made.AK}, {"trusted_aks": {made.AK: 1}}):
        assert failures(judged(engine, unbound, EVERYTHING, values)) == {"attestation-key": "tpm-ak-unbound"}
    expired = RegoPolicies({"default": EVERYTHING}, {}, references({"trusted_aks": [made.AK]}, until=NOW))
    base = appraise(unbound, (), RULES, NOW)
    found = appraise_by_policy(engine, expired, Evidence("tpm", b""), base, None, None, tenant="", now=NOW)
    assert found.status == "contraindicated"


# -- what came with the evidence


def test_what_is_bound_is_shown(engine: PolicyEngine) -> None:
    result = judged(engine, BOUND, None, made.SNP_VALUES, runtime=RUNTIME, document=DOCUMENT)
    assert result.ok
    assert result.given["runtime_data_claims"] == RUNTIME
    assert result.given["init_data_claims"]["aa.toml"] == {"url": "u"}
    assert result.extensions[0].value == {"validated": {"container_uids": [7]}}


@pytest.mark.parametrize(
    ("runtime", "document", "names"),
    [
        ({**RUNTIME, "nonce": "m"}, DOCUMENT, {"report-data"}),
        (RUNTIME, DOCUMENT + b"\n", {"init-data"}),
        ({}, b"no document", {"report-data", "init-data"}),
    ],
)
def test_what_is_not_bound_is_neither_shown_nor_believed(
    engine: PolicyEngine, runtime: Any, document: bytes, names: set[str]
) -> None:
    result = judged(engine, BOUND, EVERYTHING, runtime=runtime, document=document)
    assert (result.status, set(failures(result))) == ("contraindicated", names)
    assert ("runtime_data_claims" in result.given) is ("report-data" not in names)
    assert ("init_data_claims" in result.given) is ("init-data" not in names)


def test_a_launch_document_whose_entries_cannot_be_read(engine: PolicyEngine) -> None:
    document = DOCUMENT.replace(b'url = "u"', b"url = ")
    claims = replace(BOUND, host_data=hashlib.sha256(document).digest())
    error = refusal(lambda: judged(engine, claims, document=document))
    assert (type(error), error.code) == (MalformedError, "init-data-malformed")


def test_the_evidences_own_log_is_shown(engine: PolicyEngine) -> None:
    evidence = made.VENDOR.tdx(log=True, events=CC_BOOT)
    claims = verify(evidence, made.VENDOR.endorsements(evidence), kit.NOW)
    result = judged(engine, claims, evidence=evidence)
    assert result.ok
    assert len(result.given["tdx"]["uefi_event_logs"]) == len(CC_BOOT)
    broken = replace(evidence, parts={"event-log": b"x"})
    assert refusal(lambda: judged(engine, claims, evidence=broken)).code == "event-log-malformed"


# -- which policy


def chosen(tee: str = "snp", policy_id: str = "default", **policies: str) -> str:
    return RegoPolicies(policies).find(tee, policy_id)[0]


def test_a_class_has_its_own_policy() -> None:
    assert chosen() == "default_cpu"
    assert RegoPolicies().find("snp")[1] == default_policy(ATTESTATION)
    assert chosen(default=YES) == "default"
    assert chosen(default=YES, default_cpu=YES) == "default_cpu"
    assert chosen("nvidia", default=YES, default_gpu=YES, default_cpu=YES) == "default_gpu"
    assert chosen("sampledevice", default=YES, default_cpu=YES) == "default"
    assert chosen("hygondcu", default_dcu=YES) == "default_dcu"
    assert chosen(policy_id="bank", bank_cpu=YES, default_cpu=YES) == "bank_cpu"


@pytest.mark.parametrize(("tee", "policy_id"), [("nvidia", "default"), ("snp", "bank"), ("nvidia-dpu", "default")])
def test_a_class_without_a_policy(tee: str, policy_id: str) -> None:
    error = refusal(lambda: chosen(tee, policy_id, default_cpu=YES, bank_gpu=YES))
    assert (type(error), error.code) == (DeniedError, "policy-unknown")


def test_the_id_of_the_request_stands_in_the_result(engine: PolicyEngine) -> None:
    base = appraise(made.snp(), (), RULES, NOW)
    policies = RegoPolicies({"bank_cpu": YES})
    found = appraise_by_policy(
        engine, policies, Evidence("snp", b""), base, None, None, tenant="", now=NOW, policy_id="bank"
    )
    assert (found.policy, found.ok) == ("bank", True)


def test_whether_anybody_asked_for_policies() -> None:
    assert RegoPolicies().chosen is None
    assert RegoPolicies(resource={"resource-policy": YES}).chosen is None
    assert RegoPolicies({"default_gpu": YES}).chosen is None
    assert RegoPolicies({"default": YES}).chosen == ("default", YES)
    assert RegoPolicies({"default_cpu": YES}).chosen == ("default_cpu", YES)
    assert RegoPolicies(references=references({"a": 1})).chosen == ("default_cpu", default_policy(ATTESTATION))


def test_terms_are_what_attestation_is_judged_by() -> None:
    policies = RegoPolicies({"default": YES}, {"resource-policy": YES}, references({"a": [1], "b": 2}))
    same = RegoPolicies({"default": YES}, {"another": "x"}, references({"b": 2, "a": [1]}))
    assert policies.terms() == same.terms()
    others = [
        RegoPolicies(),
        RegoPolicies({"default": YES}),
        RegoPolicies({"default": YES + " "}, {}, policies.references),
        RegoPolicies({"other": YES}, {}, policies.references),
        RegoPolicies({"default": YES}, {}, references({"a": [1]})),
        RegoPolicies({"default": YES}, {}, references({"a": ["1"], "b": 2})),
        RegoPolicies({"default": YES}, {}, references({"a": [1], "b": 2}, until=NOW)),
        RegoPolicies({"a": "bc"}),
        RegoPolicies({"ab": "c"}),
    ]
    assert len({policies.terms(), *(one.terms() for one in others)}) == len(others) + 1


def test_policies_do_not_change() -> None:
    texts = {"default": YES}
    policies = RegoPolicies(texts)
    texts["default_cpu"] = EVERYTHING
    assert policies.chosen == ("default", YES)
    with pytest.raises(TypeError):
        policies.attestation["x"] = ""  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        policies.attestation = {}  # type: ignore[misc]
    assert policies == RegoPolicies({"default": YES})


def test_what_a_bad_policy_costs(engine: PolicyEngine) -> None:
    slow = policy('trust_claims := {"hardware": x} if { x := count(numbers.range(1, 100000000)) }')
    crash = policy('trust_claims := {"hardware": 2} if { regex.match(input.x, input.snp.measurement) }')
    with quick(workers=1) as impatient:
        error = refusal(lambda: judged(impatient, made.snp(), slow))
        assert (type(error), error.code) == (DeniedError, "policy-memory")
        assert judged(impatient, made.snp()).ok
        assert judged(impatient, made.snp(), crash).status == "none"
    assert refusal(lambda: judged(engine, made.snp(), policy("trust_claims := 1"))).code == "policy-malformed"
    assert refusal(lambda: judged(engine, made.snp(), policy("trust_claims := {}"))).code == "policy-undefined"


# -- resources


def allow(engine: PolicyEngine, policies: dict[str, str], claims: Any, path: str = "a/b/c", **query: str) -> bool:
    """Whether it is allowed; a denial has the right code."""
    try:
        allow_resource(engine, RegoPolicies(resource=policies), claims, path.split("/"), query, tenant="t")
    except DeniedError as error:
        if error.code != "policy-denied":
            raise
        return False
    return True


def test_the_resource_policy_decides(engine: PolicyEngine) -> None:
    text = policy(
        'default allow := false\nallow if { data.plugin == "resource"; data["resource-path"] == ["a", "b", "c"]; '
        'data.query == {"v": "1"}; input.who == "me" }'
    )
    policies = {"resource-policy": text}
    assert allow(engine, policies, {"who": "me"}, v="1")
    assert not allow(engine, policies, {"who": "you"}, v="1")
    assert not allow(engine, policies, {"who": "me"}, "a/b/d", v="1")
    assert not allow(engine, policies, {"who": "me"})


def test_every_resource_policy_must_allow(engine: PolicyEngine) -> None:
    yes, no = policy("allow := true"), policy("default allow := false")
    assert allow(engine, {"a": yes, "resource-policy": yes}, {})
    assert not allow(engine, {"a": no, "resource-policy": yes}, {})
    assert not allow(engine, {"a": yes, "resource-policy": no}, {})
    two = RegoPolicies(resource={"a": no, "b": yes, "c": no})
    error = refusal(lambda: allow_resource(engine, two, {}, ("a",), {}, tenant=""))
    assert (error.found, error.expected) == ("denied by a, c", "allowed by a, b, c")


def test_without_a_resource_policy_nobody_gets_anything(engine: PolicyEngine) -> None:
    error = refusal(lambda: allow_resource(engine, RegoPolicies({"default": YES}), {}, ("a",), {}, tenant=""))
    assert (type(error), error.code, error.found) == (DeniedError, "policy-denied", "no policy")


def test_a_broken_resource_policy_allows_nothing(engine: PolicyEngine) -> None:
    for text, code in (
        (policy("allow := 1"), "policy-malformed"),
        ("package other\nallow := true", "policy-undefined"),
    ):
        policies = RegoPolicies(resource={"resource-policy": text})
        error = refusal(lambda policies=policies: allow_resource(engine, policies, {}, ("a",), {}, tenant=""))  # type: ignore[misc]
        assert error.code == code


def test_policies_are_tried(engine: PolicyEngine) -> None:
    assert dict(engine.check(YES, "attestation").outcomes)["nothing"] == "affirming"
    assert dict(engine.check(policy("allow := true"), "resource", tenant="t").outcomes)["nothing"] == "allowed"
    assert refusal(lambda: engine.check(YES, "resource")).code == "policy-undefined"


# -- tokens

SUBJECT = Subject("default", "0" * 32, "n", RUNTIME)
NOT_SAMPLE = policy(
    "default allow = false\n\nplugin = data.plugin\n\nallow if {\n\tplugin == `resource`\n\t"
    'not input["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["sample"]\n}'
)
"""What the key broker does by default (kbs.md, d.2): all but samples."""


def token(result: Any, *, verbose: bool = False) -> dict[str, Any]:
    return compact_ear(result, SUBJECT, NOW, LIFETIME, issuer="kokon", verbose=verbose)


@pytest.mark.parametrize("tee", CASES)
@pytest.mark.parametrize("verbose", [False, True])
def test_default_resource_policies_allow_affirming_tokens(engine: PolicyEngine, tee: str, verbose: bool) -> None:
    """Compact tokens of our own appraisal and of policies have what the defaults read: submods, status, evidence."""
    claims, values = CASES[tee]
    ours = replace(appraise(claims, (), RULES, NOW), status="affirming")
    for result in (ours, judged(engine, claims, None, values)):
        for text in (NOT_SAMPLE, default_policy("secure"), default_policy("affirming")):
            assert allow(engine, {"resource-policy": text}, token(result, verbose=verbose))
            poor = replace(result, status="warning")
            expected = text is NOT_SAMPLE
            assert allow(engine, {"resource-policy": text}, token(poor, verbose=verbose)) is expected


@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("status", ["affirming", "contraindicated"])
def test_default_resource_policies_deny_samples(engine: PolicyEngine, verbose: bool, status: Any) -> None:
    """Even if somebody had called it affirming."""
    evidence = Evidence("sample", b'{"svn":"1"}')
    claims = verify(evidence, Endorsements(accepted_simulated=frozenset({"sample"})), kit.NOW)
    ours = replace(appraise(claims, (), RULES, NOW), status=status)
    for result in (ours, replace(judged(engine, claims), status=status)):
        assert "sample" in evidence_of(token(result, verbose=verbose))
        for text in (NOT_SAMPLE, default_policy("secure")):
            assert not allow(engine, {"resource-policy": text}, token(result, verbose=verbose))


def evidence_of(claims: dict[str, Any]) -> dict[str, Any]:
    return claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]  # type: ignore[no-any-return]


def test_a_token_says_what_the_policy_said_and_read(engine: PolicyEngine) -> None:
    result = judged(engine, BOUND, None, made.SNP_VALUES, runtime=RUNTIME, document=DOCUMENT)
    for verbose in (False, True):
        claims = token(result, verbose=verbose)
        submodule, evidence = claims["submods"]["cpu0"], evidence_of(claims)
        assert submodule["ear.status"] == "affirming"
        assert submodule["ear.appraisal-policy-id"] == "default"
        assert submodule["ear.trustworthiness-vector"] == result.vector
        assert submodule["ear.trustee.identifiers"] == {"validated": {"container_uids": [7]}}
        assert evidence["init_data_claims"]["aa.toml"] == {"url": "u"}
        assert evidence["init_data_claims"]["agent_policy_claims"]["containers"]
        assert evidence["runtime_data_claims"]["tee-pubkey"] == JWK
        assert evidence["init_data"] == BOUND.host_data.hex()
        assert evidence["snp"]["measurement"] == kit.KNOWN.hex()
        assert claims["kokon.evidence"] == BOUND.canonical.hex()
    assert evidence_of(token(result, verbose=True))["snp"]["evidence"]["reported_tcb"]["snp"] == 8
    assert len(evidence_of(token(result))["snp"]["evidence_sha256"]) == 64


def test_a_resource_policy_about_the_launch_document(engine: PolicyEngine) -> None:
    """The key broker's own case (kbs.md h): what stands in a document that the evidence binds."""
    claims = token(judged(engine, BOUND, runtime=RUNTIME, document=DOCUMENT))
    text = policy(
        'allow if input.submods.cpu0["ear.veraison.annotated-evidence"].init_data_claims["aa.toml"].url == "u"'
    )
    assert allow(engine, {"resource-policy": text}, claims)
    assert not allow(engine, {"resource-policy": text.replace('"u"', '"v"')}, claims)


def test_long_entries_give_way_to_digests(engine: PolicyEngine) -> None:
    document = DOCUMENT + b'"long.txt" = "' + b"x" * (ENTRY_LIMIT + 1) + b'"\n'
    claims = replace(BOUND, host_data=hashlib.sha256(document).digest())
    result = judged(engine, claims, document=document)
    assert len(evidence_of(token(result, verbose=True))["init_data_claims"]["long.txt"]) == ENTRY_LIMIT + 1
    short = evidence_of(token(result))["init_data_claims"]
    text = '"' + "x" * (ENTRY_LIMIT + 1) + '"'
    assert short["long.txt_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert "long.txt" not in short
    assert short["aa.toml"] == {"url": "u"}


def test_samples_are_told_as_the_key_broker_tells_them(engine: PolicyEngine) -> None:
    evidence = Evidence("sample", b'{"report_data":"' + base64.b64encode(DIGEST) + b'","svn":"1"}')
    claims = verify(evidence, Endorsements(accepted_simulated=frozenset({"sample"})), kit.NOW)
    result = judged(engine, claims, None, SAMPLE_VALUES, runtime=RUNTIME, document=DOCUMENT)
    found = evidence_of(token(result))
    assert found["report_data"] == base64.b64encode(DIGEST).decode()
    assert found["sample"]["launch_digest"] == "abcde"
    assert (result.status, set(failures(result))) == ("contraindicated", {"sample"})
