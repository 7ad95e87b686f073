"""Our own default policies, on evidence of every kind; and the cases of the key broker's own tests (kbs.md h)."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import rego_evidence as made
from rego_kit import ASKED, NOW, SAMPLE, SAMPLE_VALUES, message, policy, references, token

from kokon.provisioning.kbs.initdata import parse_init_data
from kokon.provisioning.rego.claims import TrustClaims
from kokon.provisioning.rego.defaults import ATTESTATION, RESOURCE, PolicyName, default_policy
from kokon.provisioning.rego.engine import PolicyEngine
from kokon.provisioning.rego.inputs import init_data_claims, policy_input, resource_data
from kokon.provisioning.rego.reference import read_message
from kokon.tee.evidence import Claims

NAMES: tuple[PolicyName, ...] = ("default_cpu", "secure", "affirming", "allow_all", "deny_all")
ASPECTS = ("executables", "hardware", "configuration")


def appraise(engine: PolicyEngine, given: dict[str, Any], values: dict[str, Any]) -> TrustClaims:
    return engine.evaluate_attestation(default_policy(ATTESTATION), given, references(values), NOW)


def three(engine: PolicyEngine, given: dict[str, Any], values: dict[str, Any]) -> tuple[int, ...]:
    found = appraise(engine, given, values)
    assert {name for name, value in found.vector.items() if value} <= set(ASPECTS)
    return tuple(found.vector[name] for name in ASPECTS)


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_may_be_set(engine: PolicyEngine, name: PolicyName) -> None:
    trial = engine.check(default_policy(name), "attestation" if name == ATTESTATION else "resource")
    outcomes = dict(trial.outcomes)
    expected = {
        "secure": {"nothing": "denied", "an affirming token": "allowed", "a contraindicated token": "denied"},
        "affirming": {"nothing": "denied", "an affirming token": "allowed", "a contraindicated token": "denied"},
        "allow_all": dict.fromkeys(outcomes, "allowed"),
        "deny_all": dict.fromkeys(outcomes, "denied"),
    }
    assert outcomes == expected.get(name, outcomes)
    assert "affirming" not in outcomes.values()


# -- default_cpu

CASES: dict[str, tuple[Callable[[], Claims], Callable[[Claims], dict[str, Any]], tuple[int, int, int]]] = {
    "snp": (made.snp, lambda _: made.SNP_VALUES, (3, 2, 2)),
    "tdx": (made.tdx, made.tdx_values, (4, 2, 2)),
    "sgx": (made.sgx, made.sgx_values, (3, 2, 2)),
    "tpm": (lambda: made.TPM, lambda _: made.TPM_VALUES, (3, 2, 0)),
    "az-snp-vtpm": (made.azure_snp, lambda _: made.AZURE_SNP_VALUES, (3, 2, 2)),
    "az-tdx-vtpm": (made.azure_tdx, made.azure_tdx_values, (3, 2, 2)),
}
UNKNOWN = {"tpm": (33, 2, 0), "sgx": (33, 2, 2), "snp": (33, 97, 3)}


@pytest.mark.parametrize("tee", CASES)
def test_known_evidence(engine: PolicyEngine, tee: str) -> None:
    make, fitting, expected = CASES[tee]
    claims = make()
    found = appraise(engine, policy_input(claims), fitting(claims))
    assert tuple(found.vector[name] for name in ASPECTS) == expected
    assert found.status == "affirming"


@pytest.mark.parametrize("tee", CASES)
def test_without_reference_values(engine: PolicyEngine, tee: str) -> None:
    assert three(engine, policy_input(CASES[tee][0]()), {}) == UNKNOWN.get(tee, (33, 97, 36))


@pytest.mark.parametrize("tee", CASES)
def test_every_reference_value_counts(engine: PolicyEngine, tee: str) -> None:
    make, fitting, expected = CASES[tee]
    claims = make()
    given, values = policy_input(claims), fitting(claims)
    for name, value in values.items():
        another = "another" if not isinstance(value, list) else ["another"]
        assert three(engine, given, {**values, name: another}) != expected, name
    missing = {other: one for other, one in values.items() if other != name}
    assert three(engine, given, missing) != expected


def test_expired_values_are_none(engine: PolicyEngine) -> None:
    found = engine.evaluate_attestation(
        default_policy(ATTESTATION), policy_input(made.snp()), references(made.SNP_VALUES, until=NOW), NOW
    )
    assert found.status == "contraindicated"


@pytest.mark.parametrize("tee", ["csv", "cca", "nitro", "hygondcu", "unheard-of"])
def test_other_tees_are_not_recognised(engine: PolicyEngine, tee: str) -> None:
    assert three(engine, {tee: {"measurement": "00", "debug": False}}, made.SNP_VALUES) == (33, 97, 36)


def test_a_sample(engine: PolicyEngine) -> None:
    assert three(engine, SAMPLE, SAMPLE_VALUES) == (3, 2, 2)
    assert three(engine, SAMPLE, {**SAMPLE_VALUES, "minimum_minor_version": 5}) == (3, 97, 2)
    assert three(engine, SAMPLE, {**SAMPLE_VALUES, "major_version": 2}) == (3, 97, 2)
    assert three(engine, SAMPLE, {**SAMPLE_VALUES, "svn": ["2"]}) == (3, 97, 2)
    debugged = {"sample": {**SAMPLE["sample"], "debug": True}}
    assert three(engine, debugged, SAMPLE_VALUES) == (3, 2, 36)
    missing = {name: value for name, value in SAMPLE_VALUES.items() if name != "minimum_minor_version"}
    assert three(engine, SAMPLE, missing) == (3, 97, 2)


@pytest.mark.parametrize(("bit", "expected"), [(18, 36), (19, 36), (20, 3), (16, 3)])
def test_snp_configurations(engine: PolicyEngine, bit: int, expected: int) -> None:
    claims = made.snp(replace(made.REPORT, policy=made.REPORT.policy ^ 1 << bit))
    assert three(engine, policy_input(claims), made.SNP_VALUES) == (3, 2, expected)


def test_snp_of_an_older_firmware(engine: PolicyEngine) -> None:
    claims = made.snp(replace(made.REPORT, reported_tcb=replace(made.TCB, microcode=114)))
    assert three(engine, policy_input(claims), made.SNP_VALUES) == (3, 97, 2)


def test_azure_with_a_debugger(engine: PolicyEngine) -> None:
    claims = made.azure_snp(replace(made.REPORT, policy=made.REPORT.policy | 1 << 19))
    assert three(engine, policy_input(claims), made.AZURE_SNP_VALUES) == (3, 2, 36)
    native = {
        name: [{"true": True, "false": False}.get(one, one if len(one) > 3 else int(one)) for one in value]
        for name, value in made.AZURE_SNP_VALUES.items()
        if name not in ("smt_enabled", "tsme_enabled", "single_socket", "smt_allowed")
    }
    switches = {"smt_enabled": [True], "tsme_enabled": [True], "single_socket": [False], "smt_allowed": [True]}
    assert three(engine, policy_input(made.azure_snp()), native | switches) == (3, 2, 2)


def test_tdx_with_its_log(engine: PolicyEngine) -> None:
    claims = made.tdx()
    given = policy_input(claims)
    given["tdx"]["uefi_event_logs"] = [
        {
            "type_name": "EV_EFI_BOOT_SERVICES_APPLICATION",
            "details": {"device_paths": ["File(kernel)"]},
            "digests": [{"alg": "SHA-384", "digest": "aa"}],
        },
        {
            "type_name": "EV_EVENT_TAG",
            "details": {"string": "LOADED_IMAGE::LoadOptions"},
            "digests": [{"alg": "SHA-384", "digest": "bb"}],
        },
    ]
    values = {**made.tdx_values(claims), "tdvfkernel": "aa", "tdvfkernelparams": "bb"}
    assert three(engine, given, values) == (3, 2, 2)
    for name in ("tdvfkernel", "tdvfkernelparams"):
        assert three(engine, given, {**values, name: "cc"}) == (4, 2, 2)
    given["tdx"]["uefi_event_logs"][0]["details"]["device_paths"] = ["File(other)"]
    assert three(engine, given, values) == (4, 2, 2)


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        (("tcb_status",), "OutOfDate", (4, 97, 2)),
        (("collateral_expiration_status",), "1", (4, 97, 2)),
        (("quote", "header", "vendor_id"), "00" * 16, (4, 97, 2)),
        (("quote", "header", "tee_type"), "00000000", (4, 97, 2)),
        (("td_attributes", "debug"), True, (4, 2, 36)),
        (("quote", "body", "rtmr_2"), "00" * 48, (33, 2, 2)),
    ],
)
def test_tdx_that_is_not_as_it_should_be(
    engine: PolicyEngine, place: tuple[str, ...], value: Any, expected: tuple[int, ...]
) -> None:
    claims = made.tdx()
    given = copy.deepcopy(policy_input(claims))
    target = given["tdx"]
    for name in place[:-1]:
        target = target[name]
    target[place[-1]] = value
    assert three(engine, given, made.tdx_values(claims)) == expected


def enclave(**changes: Any) -> dict[str, Any]:
    members: dict[str, Any] = {
        "body": {"mr_enclave": "11" * 32, "mr_signer": "22" * 32},
        "header": {"vendor_id": "939a7233f79c4ca9940a0db3957f0607"},
        "isv_prod_id": 3,
        "isv_svn": 5,
        "debug": False,
        "tcb_status": "UpToDate",
        "collateral_expiration_status": "0",
    }
    return {"sgx": {name: value for name, value in {**members, **changes}.items() if value is not None}}


@pytest.mark.parametrize(
    ("launch", "known"),
    [
        ({"mr_enclave": "11" * 32}, True),
        ({"mr_signer": "22" * 32}, True),
        ({"mr_signer": "22" * 32, "isv_prod_id": 3, "isv_svn": 5}, True),
        ({"mr_signer": "22" * 32, "isv_prod_id": 3, "isv_svn": 4}, True),
        ({"mr_enclave": "11" * 32, "mr_signer": "22" * 32}, True),
        ({"mr_signer": "22" * 32, "isv_prod_id": 3, "isv_svn": 6}, False),
        ({"mr_signer": "22" * 32, "isv_prod_id": 2}, False),
        ({"mr_signer": "23" * 32}, False),
        ({"mr_enclave": "11" * 32, "mr_signer": "23" * 32}, False),
        ({"mr_enclave": "12" * 32, "mr_signer": "22" * 32}, False),
        ({"mr_signer": "22" * 32, "isv_svn": "5"}, False),
        ({"isv_prod_id": 3, "isv_svn": 5}, False),
        ({"mr_enclave": None}, False),
        ({}, False),
        ("22", False),
        (None, False),
    ],
)
def test_sgx_launches(engine: PolicyEngine, launch: Any, known: bool) -> None:
    assert three(engine, enclave(), {"sgx_launches": [{"mr_signer": "ff"}, launch]}) == (3 if known else 33, 2, 2)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"debug": True}, (3, 2, 36)),
        ({"debug": None}, (3, 2, 36)),
        ({"tcb_status": "OutOfDate"}, (3, 97, 2)),
        ({"collateral_expiration_status": "1"}, (3, 97, 2)),
        ({"header": {"vendor_id": "00"}}, (3, 97, 2)),
        ({"isv_svn": None}, (33, 2, 2)),
        ({"isv_prod_id": None}, (33, 2, 2)),
    ],
)
def test_sgx_that_is_not_as_it_should_be(engine: PolicyEngine, changes: Any, expected: tuple[int, ...]) -> None:
    values = {"sgx_launches": [{"mr_signer": "22" * 32, "isv_prod_id": 3, "isv_svn": 5}]}
    assert three(engine, enclave(**changes), values) == expected


# -- resource policies


def allows(engine: PolicyEngine, name: PolicyName, claims: Any, plugin: str = "resource") -> bool:
    data = resource_data(plugin, ("default", "key", "1"), {})
    return engine.evaluate_resource(default_policy(name), claims, data)


SAMPLE_EVIDENCE = {"ear.veraison.annotated-evidence": {"sample": {}}}
BOTH = {"submods": {"cpu0": token()["submods"]["cpu0"], "gpu0": token("warning")["submods"]["cpu0"]}}


@pytest.mark.parametrize(
    ("claims", "secure", "affirming"),
    [
        (token(), True, True),
        (token("warning"), False, False),
        (token("contraindicated"), False, False),
        (token("none"), False, False),
        (token(**SAMPLE_EVIDENCE), False, True),
        (token(**{"ear.veraison.annotated-evidence": {"snp": {}, "sample": {}}}), False, True),
        (token(**{"ear.veraison.annotated-evidence": {}}), False, True),
        (token(**{"ear.veraison.annotated-evidence": "snp"}), False, True),
        (BOTH, False, False),
        ({"submods": {}}, False, False),
        ({"submods": []}, False, False),
        ({"submods": {"cpu0": {}}}, False, False),
        ({"submods": {"cpu0": None}}, False, False),
        ({}, False, False),
    ],
)
def test_who_is_let_in(engine: PolicyEngine, claims: Any, secure: bool, affirming: bool) -> None:
    assert allows(engine, RESOURCE, claims) is secure
    assert allows(engine, "affirming", claims) is affirming
    assert allows(engine, "allow_all", claims) is True
    assert allows(engine, "deny_all", claims) is False


def test_two_devices_that_are_both_good(engine: PolicyEngine) -> None:
    good = token()["submods"]["cpu0"]
    gpu = {**good, "ear.veraison.annotated-evidence": {"nvidia": {}}}
    assert allows(engine, RESOURCE, {"submods": {"cpu0": good, "gpu0": gpu}})
    bare = {name: value for name, value in gpu.items() if name == "ear.status"}
    assert not allows(engine, RESOURCE, {"submods": {"cpu0": good, "gpu0": bare}})


def test_other_plugins(engine: PolicyEngine) -> None:
    assert not allows(engine, RESOURCE, token(), plugin="pkcs11")
    assert not allows(engine, "allow_all", token(), plugin="pkcs11")
    assert allows(engine, "affirming", token(), plugin="pkcs11")


# -- the key broker's own cases


def issued(engine: PolicyEngine, values: dict[str, Any], text: str = "") -> dict[str, Any]:
    """A token's claims for the sample attester, as `ear_document` puts them together."""
    stored = {one.name: one for one in read_message(message(values), NOW)} if values else {}
    given = {**SAMPLE, "report_data": "AA=="}
    if text:
        document = parse_init_data(text.encode())
        given |= {"init_data": base64.b64encode(document.digest).decode()}
        given |= {"init_data_claims": init_data_claims(document)}
    found = engine.evaluate_attestation(default_policy(ATTESTATION), given, stored, NOW + timedelta(days=1))
    return {"submods": {"cpu0": {**found.appraisal("default"), "ear.veraison.annotated-evidence": given}}}


def test_all_and_nothing(engine: PolicyEngine) -> None:
    assert allows(engine, "allow_all", issued(engine, {}))
    assert not allows(engine, "deny_all", issued(engine, SAMPLE_VALUES))


def test_contraindicated_is_denied_and_affirming_released(engine: PolicyEngine) -> None:
    assert issued(engine, {})["submods"]["cpu0"]["ear.status"] == "contraindicated"
    assert not allows(engine, "affirming", issued(engine, {}))
    assert allows(engine, "affirming", issued(engine, SAMPLE_VALUES))
    assert not allows(engine, RESOURCE, issued(engine, SAMPLE_VALUES))


DEVICE = policy(
    'trust_claims := {"hardware": hardware, "executables": 3, "configuration": 2}\n'
    'default hardware := 97\nhardware := 2 if input.sampledevice.svn in query_reference_value("device_svn")'
)


@pytest.mark.parametrize(
    ("values", "released"), [({}, False), ({"device_svn": ["2"]}, True), ({"device_svn": ["1"]}, False)]
)
def test_a_device_beside_the_processor(engine: PolicyEngine, values: dict[str, Any], released: bool) -> None:
    claims = issued(engine, SAMPLE_VALUES)
    device = engine.evaluate_attestation(DEVICE, {"sampledevice": {"svn": "2"}}, references(values), NOW)
    claims["submods"]["gpu0"] = device.appraisal("default")
    assert allows(engine, "affirming", claims) is released


INIT_DATA = """version = "0.1.0"
algorithm = "sha256"

[data]
"aa.toml" = '''
[token_configs.kbs]
url = "http://127.0.0.1:8080"
'''
"cdh.toml" = '''
socket = "unix:///run/cdh.sock"
'''
"policy.rego" = '''
package agent_policy

default AllowRequestsFailingPolicy := false

policy_data := {
  "containers": [
    {
      "OCI": {
        "Annotations": {"io.kubernetes.cri.image-name": "registry/nginx:latest"},
        "Process": {"User": {"UID": 65535}}
      }
    },
    {"OCI": {"Process": {"User": {"UID": 1001}, "Args": ["/entrypoint.sh"]}}}
  ]
}
'''
"""
CPU0 = 'input["submods"]["cpu0"]["ear.veraison.annotated-evidence"]'


def released(engine: PolicyEngine, condition: str, claims: Any) -> bool:
    return engine.evaluate_resource(
        f"package policy\nimport rego.v1\n\ndefault allow = false\nallow if {{\n{condition}\n}}\n", claims, ASKED
    )


def test_policies_about_the_launch_document(engine: PolicyEngine) -> None:
    claims = issued(engine, SAMPLE_VALUES, INIT_DATA)
    digest = base64.b64encode(parse_init_data(INIT_DATA.encode()).digest).decode()
    assert released(engine, f'{CPU0}["init_data"] == "{digest}"', claims)
    assert not released(engine, f'{CPU0}["init_data"] == "{digest[::-1]}"', claims)
    data = f'{CPU0}["init_data_claims"]'
    assert released(engine, f'{data}["aa.toml"]["token_configs"]["kbs"]["url"] == "http://127.0.0.1:8080"', claims)
    assert released(engine, f'{data}["cdh.toml"].socket == "unix:///run/cdh.sock"', claims)
    assert not released(engine, f'{data}["cdh.toml"].socket == "unix:///run/other.sock"', claims)
    args = f'{data}["agent_policy_claims"]["containers"][1]["OCI"]["Process"]["Args"][0]'
    assert released(engine, f'{args} = "/entrypoint.sh"', claims)
    assert not released(engine, f'{args} = "/bin/sh"', claims)


def test_identifiers_come_from_the_agents_policy(engine: PolicyEngine) -> None:
    claims = issued(engine, SAMPLE_VALUES, INIT_DATA)
    assert claims["submods"]["cpu0"]["ear.trustee.identifiers"] == {
        "validated": {"container_images": ["registry/nginx:latest"], "container_uids": [65535, 1001]}
    }
    assert issued(engine, {})["submods"]["cpu0"]["ear.trustee.identifiers"] == {"validated": {}}
