"""Rego policies and reference values by the key broker's admin clients, against a real server."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from provisioning_factory import MEASUREMENT, attestation, launch
from test_provisioning_admin import PATH, call, principal, released

DOCUMENT = b'version = "0.1.0"\nalgorithm = "sha256"\n\n[data]\n"a.txt" = "hi"\n'
ATTESTATION = """package policy
import rego.v1

default executables := 33
executables := 3 if input.snp.measurement in query_reference_value("snp_launch_measurement")
trust_claims := {"executables": executables, "configuration": 2}
"""
RESOURCE = """package policy
import rego.v1

default allow := false
allow if {
    data["resource-path"][0] == "clinic"
    input.submods.cpu0["ear.status"] == "affirming"
}
"""
CRASH = """package policy
import rego.v1

trust_claims := {"executables": x} if { x := count(numbers.range(1, 100000000)) }
"""


def b64url(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def set_policy(server: Any, kind: str, text: str, **more: Any) -> Any:
    body = {"policy": b64url(text), **more}
    return call(server, server.token, "POST", f"/kbs/v0/{kind}-policy", json=body)


def register(server: Any, **values: Any) -> None:
    payload = base64.b64encode(json.dumps(values).encode()).decode()
    message = {"version": "0.1.0", "type": "sample", "payload": payload}
    answer = call(server, server.token, "POST", "/kbs/v0/reference-value", json=message)
    assert (answer.status_code, answer.content) == (200, b"")


def attest(server: Any, chip: Any, measurement: bytes = MEASUREMENT) -> Any:
    nonce = server.challenge()
    guest = launch(chip.processor, DOCUMENT, measurement)
    return server.guest.post("/kbs/v0/attest", json=attestation(guest, nonce, server.tee_key, DOCUMENT))


def test_guests_of_no_workload(server: Any, chip: Any) -> None:
    server.admin.put(PATH, b"correct horse")
    server.admin.put("bank/secret/key", b"x")
    assert server.denial(attest(server, chip))[0] == "workload-unknown"
    answer = set_policy(server, "attestation", ATTESTATION, policy_id="default_cpu", type="rego")
    assert (answer.status_code, answer.content) == (200, b"")
    code, entry = server.denial(attest(server, chip))
    assert code == "not-affirming", entry
    register(server, snp_launch_measurement=[MEASUREMENT.hex()])
    granted = attest(server, chip)
    assert granted.status_code == 200, granted.text
    refused = server.guest.get(f"/kbs/v0/resource/{PATH}")
    assert (refused.status_code, server.denial(refused)[0]) == (403, "policy-denied"), "without a resource policy"
    assert set_policy(server, "resource", RESOURCE).status_code == 200
    assert released(server) == b"correct horse"
    other = server.guest.get("/kbs/v0/resource/bank/secret/key")
    assert (other.status_code, server.denial(other)[0]) == (403, "policy-denied")
    assert server.denial(attest(server, chip, bytes(48)))[0] == "not-affirming"
    assert attest(server, chip).status_code == 200
    assert released(server) == b"correct horse"
    register(server, snp_launch_measurement=["00"])
    withdrawn = server.guest.get(f"/kbs/v0/resource/{PATH}")
    assert (withdrawn.status_code, server.denial(withdrawn)[0]) == (403, "workload-withdrawn")


def test_a_resource_policy_holds_for_workloads_too(server: Any, chip: Any) -> None:
    document = server.admit()
    set_policy(server, "resource", RESOURCE.replace('"clinic"', '"bank"'))
    assert server.attest(chip, document).status_code == 200
    answer = server.guest.get(f"/kbs/v0/resource/{PATH}")
    assert (answer.status_code, server.denial(answer)[0]) == (403, "policy-denied")
    set_policy(server, "resource", RESOURCE)
    assert released(server) == b"correct horse"


def test_other_evidence_is_not_made_good(server: Any, chip: Any, other_chip: Any) -> None:
    """Whatever a policy says: evidence must verify, and be for this session."""
    set_policy(server, "attestation", 'package policy\ntrust_claims := {"executables": 3}\n')
    assert attest(server, chip).status_code == 200
    assert server.denial(attest(server, other_chip))[0] == "simulated-root-refused"
    nonce = server.challenge()
    guest = launch(chip.processor, DOCUMENT)
    message = attestation(guest, "another", server.tee_key, DOCUMENT)
    message["runtime-data"]["nonce"] = nonce
    assert server.denial(server.guest.post("/kbs/v0/attest", json=message))[0] == "report-data-mismatch"


def test_a_policy_that_never_ends_denies_that_request_only(server: Any, chip: Any) -> None:
    document = server.admit()
    answer = set_policy(server, "attestation", CRASH)
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        assert server.denial(attest(server, chip))[0].startswith("policy-")
    else:
        assert answer.json()["error"]["code"].startswith("policy-")
    assert server.attest(chip, document).status_code == 200
    assert released(server) == b"correct horse"


def test_admin_clients_of_the_key_broker(server: Any) -> None:
    set_policy(server, "resource", RESOURCE)
    set_policy(server, "attestation", ATTESTATION, policy_id="default_cpu", type="rego")
    register(server, one=1, two={"any": ["thing"]})
    token = server.token
    assert call(server, token, "GET", "/kbs/v0/resource-policy").json() == ["resource-policy"]
    assert call(server, token, "GET", "/kbs/v0/attestation-policy/default_cpu").text == ATTESTATION
    assert call(server, token, "GET", "/kbs/v0/reference-value/two").json() == {"any": ["thing"]}
    assert call(server, token, "GET", "/kbs/v0/reference-value/three").json()["error"]["code"] == "reference-unknown"
    assert [one["name"] for one in server.admin.references()] == ["one", "two"]
    assert call(server, token, "DELETE", "/kokon/v1/references/one").json() == {"deleted": "one"}
    assert call(server, token, "DELETE", "/kokon/v1/references/one").status_code == 404
    register(server, two=2)
    assert call(server, token, "GET", "/kbs/v0/reference-value").json() == {"two": 2}
    assert {one["kind"] for one in server.admin.policies()} == {"resource", "attestation"}
    auditor = principal(server, "auditor", ("default", "*"))
    assert set_policy(server, "resource", "nonsense").json()["error"]["code"].startswith("policy-")
    for path in ("resource-policy", "reference-value"):
        assert call(server, auditor, "POST", f"/kbs/v0/{path}", json={}).status_code == 403
        assert server.guest.post(f"/kbs/v0/{path}", json={}).status_code == 401


@pytest.mark.parametrize("body", [{}, {"policy": "!"}, {"policy": b64url("x") + "=="}, {"policy": "_w"}, {"more": 1}])
def test_malformed_policies(server: Any, body: dict[str, Any]) -> None:
    answer = call(server, server.token, "POST", "/kbs/v0/resource-policy", json=body)
    assert answer.status_code == 400
    assert set(answer.json()) >= {"type", "detail", "error"}
