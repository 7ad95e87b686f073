"""Workloads that are admitted by a rule, against a real server: patch releases need no owner, old ones end."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from test_provisioning_admin import PATH, call, principal, released

from kokon.errors import DeniedError, UntrustedError
from kokon.image.dsse import certify_envelope, envelope_from
from kokon.image.ecdsa import public_pem

BARE = {"policy": {"allow_debug": False, "minimum_tcb": {}}, "resources": []}


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def rule(server: Any, **changes: Any) -> dict[str, Any]:
    from datetime import timedelta

    members = {
        "signer": public_pem(server.author.key.public_key()),
        "minimum_version": "1.4",
        "resources": [f"kbs:///{PATH}"],
        "generate": ["kbs:///clinic/volume/data"],
        "not_after": (server.clock() + timedelta(days=20)).isoformat(),
        **changes,
    }
    return {"name": "clinic", "rule": members}


def statement(server: Any, version: str, port: int = 8080, **changes: Any) -> dict[str, Any]:
    return server.author.request(statement={"version": version}, document={"port": port}, **changes)


def add(server: Any, request: dict[str, Any], token: str | None = None) -> Any:
    answer = call(server, token or server.token, "POST", "/kokon/v1/workloads/clinic/statements", json=request)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_patch_release_needs_no_owner(server: Any, chip: Any) -> None:
    server.admin.admit(rule(server, max_activations=3))
    server.admin.put(PATH, b"correct horse")
    operator = principal(server, "operator", ("default", "*"))
    first, second = statement(server, "1.4.0"), statement(server, "1.4.1", 8081)
    added = add(server, first, operator)
    assert (added["version"], added["generated"]) == ("1.4.0", ["clinic/log/token", "clinic/volume/data"])
    assert add(server, second, operator)["generated"] == []
    tokens = []
    for request in (first, second):
        answer = server.attest(chip, request["launch_document"].encode())
        assert answer.status_code == 200, answer.text
        tokens.append(answer.json()["token"])
        assert released(server, token=tokens[-1]) == b"correct horse"
    server.admin.admit(rule(server, minimum_version="1.4.1", max_activations=3))
    with server.client() as client:
        refused = client.get(f"/kbs/v0/resource/{PATH}", headers={"Authorization": f"Bearer {tokens[0]}"})
        kept = client.get(f"/kbs/v0/resource/{PATH}", headers={"Authorization": f"Bearer {tokens[1]}"})
    assert (refused.status_code, server.denial(refused)[0]) == (403, "rule-version-too-low")
    assert kept.status_code == 200
    assert server.denial(server.attest(chip, first["launch_document"].encode()))[0] == "rule-version-too-low"
    assert server.attest(chip, second["launch_document"].encode()).status_code == 200
    again = server.attest(chip, second["launch_document"].encode())
    assert server.denial(again)[0] == "activations-exhausted", "all releases count together"
    assert [one["event"] for one in server.events()].count("release-added") == 2


def test_a_release_that_is_taken_back(server: Any, chip: Any) -> None:
    server.admin.admit(rule(server))
    server.admin.put(PATH, b"x")
    request = statement(server, "2.0.0")
    host_data = add(server, request)["host_data"]
    assert server.attest(chip, request["launch_document"].encode()).status_code == 200
    place = f"/kokon/v1/workloads/clinic/statements/{host_data}"
    assert call(server, server.token, "DELETE", place).status_code == 200
    answer = server.guest.get(f"/kbs/v0/resource/{PATH}")
    assert (answer.status_code, server.denial(answer)[0]) == (403, "workload-withdrawn")
    assert server.denial(server.attest(chip, request["launch_document"].encode()))[0] == "workload-unknown"
    assert call(server, server.token, "DELETE", place).json()["error"]["code"] == "release-not-found"
    add(server, request)
    server.admin.withdraw("clinic")
    server.admin.admit(rule(server))
    assert server.denial(server.attest(chip, request["launch_document"].encode()))[0] == "workload-unknown"


def test_what_a_rule_does_not_let_in(server: Any) -> None:
    certifier = ec.generate_private_key(ec.SECP256R1())
    server.admin.admit(rule(server, certifiers=[public_pem(certifier.public_key())]))
    stranger = ec.generate_private_key(ec.SECP256R1())
    good = statement(server, "1.5.0")
    for request, code in (
        (good, "rule-certifier-missing"),
        (statement(server, "1.3.9"), "rule-version-too-low"),
        (server.author.request(), "rule-version-missing"),
        (statement(server, "1.5.0", resources=["kbs:///bank/secret/key"]), "request-beyond-rule"),
        (statement(server, "1.5.0", signer=stranger), "image-author-unknown"),
    ):
        answer = call(server, server.token, "POST", "/kokon/v1/workloads/clinic/statements", json=request)
        assert answer.json()["error"]["code"] == code
        assert server.events()[-1]["code"] == code
    certified = certify_envelope(envelope_from(good["statement"]), certifier).as_dict()
    assert len(add(server, {**good, "statement": certified})["certified_by"]) == 1


def test_statements_need_a_rule(server: Any) -> None:
    request = statement(server, "1.5.0")
    with pytest.raises(DeniedError) as caught:
        server.admin.add_statement("clinic", request)
    assert caught.value.code == "workload-not-found"
    server.admit()
    with pytest.raises(DeniedError) as caught:
        server.admin.add_statement("clinic", request)
    assert caught.value.code == "workload-without-rule"


def test_a_layer_key_is_not_replaced_by_a_release(server: Any) -> None:
    server.admin.admit(rule(server))
    add(server, statement(server, "1.4.0"))
    server.author.kek = bytes(32)
    with pytest.raises(UntrustedError) as caught:
        server.admin.add_statement("clinic", statement(server, "1.4.1", 8081))
    assert caught.value.code == "kek-conflict"


def test_nobody_grants_secrets_beyond_their_scope(server: Any) -> None:
    """An owner of `clinic` and its secrets cannot have a workload read those of the bank."""
    owner = principal(server, "owner", ("default", "clinic"), ("default", "clinic/*/*"))
    for body in (
        rule(server, resources=["kbs:///bank/secret/key"]),
        rule(server, generate=["kbs:///bank/volume/data"]),
        server.author.request(resources=["kbs:///bank/secret/key"]),
    ):
        answer = call(server, owner, "POST", "/kokon/v1/workloads", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "scope-exceeded")
    assert call(server, owner, "POST", "/kokon/v1/workloads", json=rule(server)).status_code == 200
    assert call(server, owner, "POST", "/kokon/v1/workloads", json=server.author.request()).status_code == 200
