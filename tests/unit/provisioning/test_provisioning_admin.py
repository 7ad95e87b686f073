"""The admin interface against a real server with either database: projects, principals, secrets, policies, logs."""

from __future__ import annotations

import contextlib
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from provisioning_factory import attestation, launch

from kokon.errors import DeniedError, KokonError, MalformedError, StaleError, UntrustedError, UsageError
from kokon.jose.jwe import decrypt
from kokon.provisioning.client import AdminClient
from kokon.provisioning.client_transport import AdminAccess
from kokon.provisioning.keys import key_pem
from kokon.provisioning.ledger.audit import verify_export
from kokon.provisioning.ledger.keys import parse_verifier_key
from kokon.provisioning.ledger.receipt import parse_receipt, verify_receipt
from kokon.provisioning.secret.request import Terms
from kokon.provisioning.tls import client_context

PATH = "clinic/secret/db-password"
STRICT = 'name = "strict"\n'
LAX = 'name = "lax"\n[allow]\ndebug = true\n'


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def of_project(server: Any, name: str, token: str | None = None) -> AdminClient:
    access = AdminAccess(server.url, token or server.token, server.certificate)
    return AdminClient(access.of_project(name))


def call(server: Any, token: str, method: str, path: str, **options: Any) -> httpx2.Response:
    return server.guest.request(method, path, headers={"Authorization": f"Bearer {token}"}, **options)


def principal(server: Any, role: str, *scopes: tuple[str, str], **more: Any) -> str:
    listed = [{"project": project, "path": path} for project, path in scopes]
    body = {"name": f"an {role}", "role": role, "scopes": listed, **more}
    answer = call(server, server.token, "POST", "/kokon/v1/principals", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["token"])


def released(server: Any, path: str = PATH, base: str = "", token: str = "", **query: Any) -> bytes:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = server.guest.get(f"{base}/kbs/v0/resource/{path}", params=query, headers=headers)
    assert answer.status_code == 200, answer.text
    return decrypt(answer.json(), server.tee_key)


# -- projects ------------------------------------------------------------------------------------------------------


def test_a_project_is_another_base_url(server: Any, chip: Any) -> None:
    call(server, server.token, "POST", "/kokon/v1/projects", json={"name": "bank"})
    request = server.author.request()
    with of_project(server, "bank") as bank:
        bank.admit(request)
        bank.put(PATH, b"of the bank")
        base, document = "/p/bank", request["launch_document"].encode()
        challenge = {"version": "0.4.0", "tee": "snp", "extra-params": {}}
        nonce = server.guest.post(f"{base}/kbs/v0/auth", json=challenge).json()["nonce"]
        message = attestation(launch(chip.processor, document), nonce, server.tee_key, document)
        assert server.denial(server.guest.post("/kbs/v0/attest", json=message))[0] == "session-unknown"
        token = server.guest.post(f"{base}/kbs/v0/attest", json=message).json()["token"]
        assert released(server, base=base) == b"of the bank"
        answer = server.guest.get(f"/kbs/v0/resource/{PATH}", headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code, server.denial(answer)[0]) == (401, "token-audience")
        assert [one["event"] for one in map(json.loads, bank.log()[0])][-1] == "resource-released"
    assert server.admin.secrets() == server.admin.workloads() == []


def test_projects_that_there_are_and_are_not(server: Any) -> None:
    token = server.token
    for name, code, status in (
        ("Bank", "project-name", 400),
        ("", "project-name", 400),
        ("default", "project-exists", 409),
    ):
        answer = call(server, token, "POST", "/kokon/v1/projects", json={"name": name})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    for path in ("/p/bank/kbs/v0/auth", "/p/Bank/kbs/v0/auth"):
        answer = server.guest.post(path, json={"version": "0.4.0", "tee": "snp", "extra-params": {}})
        assert answer.status_code == 404
    assert call(server, token, "GET", "/p/bank/kokon/v1/secrets").json()["error"]["code"] == "project-unknown"
    call(server, token, "POST", "/kokon/v1/projects", json={"name": "bank"})
    assert call(server, token, "GET", "/kokon/v1/projects").json()["projects"] == ["bank", "default"]
    assert call(server, token, "DELETE", "/kokon/v1/projects/bank").status_code == 200
    assert call(server, token, "DELETE", "/kokon/v1/projects/bank").json()["error"]["code"] == "project-unknown"
    assert call(server, token, "DELETE", "/kokon/v1/projects/default").json()["error"]["code"] == "project-default"
    assert call(server, token, "GET", "/p/bank/kokon/v1/secrets").status_code == 404


# -- principals ----------------------------------------------------------------------------------------------------


def test_roles(server: Any) -> None:
    operator = principal(server, "operator", ("default", "*"))
    auditor = principal(server, "auditor", ("default", "*"))
    assert call(server, operator, "POST", f"/kbs/v0/resource/{PATH}", content=b"x").status_code == 200
    for token, method, path, body in (
        (operator, "PUT", "/kokon/v1/policies/platform/default", {"text": STRICT}),
        (operator, "POST", "/kokon/v1/workloads", server.author.request()),
        (operator, "POST", "/kokon/v1/principals", {"name": "x", "role": "owner", "scopes": []}),
        (operator, "GET", "/kokon/v1/log", None),
        (auditor, "POST", f"/kbs/v0/resource/{PATH}", {}),
        (auditor, "DELETE", f"/kokon/v1/secrets/{PATH}", None),
        (auditor, "POST", f"/kokon/v1/secrets/{PATH}/rotate", {}),
    ):
        answer = call(server, token, method, path, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "role-insufficient"), path
    assert call(server, auditor, "GET", "/kokon/v1/log").status_code == 200
    assert call(server, auditor, "GET", "/kokon/v1/secrets").json()["secrets"][0]["path"] == PATH
    denied = [one for one in server.events() if one["event"] == "admin-denied"]
    assert {one["code"] for one in denied} == {"role-insufficient"}
    assert all(one["by"] for one in denied)


def test_scopes(server: Any) -> None:
    server.admin.put(PATH, b"x")
    server.admin.put("bank/secret/key", b"x")
    call(server, server.token, "POST", "/kokon/v1/projects", json={"name": "other"})
    narrow = principal(server, "operator", ("default", "clinic/*/*"))
    assert [one["path"] for one in call(server, narrow, "GET", "/kokon/v1/secrets").json()["secrets"]] == [PATH]
    for path in ("/kbs/v0/resource/bank/secret/key", f"/p/other/kbs/v0/resource/{PATH}"):
        answer = call(server, narrow, "POST", path, content=b"y")
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "scope-exceeded")
    assert call(server, narrow, "GET", "/p/other/kokon/v1/secrets").status_code == 403
    assert call(server, narrow, "GET", "/kokon/v1/server/log").status_code == 403
    assert [one["project"] for one in call(server, narrow, "GET", "/kokon/v1/status").json()["projects"]][1:] == [
        "default"
    ]


def test_nobody_gives_more_than_they_have(server: Any) -> None:
    owner = principal(server, "owner", ("default", "clinic/*/*"))
    for role, scope in (("owner", ("*", "*")), ("operator", ("default", "*"))):
        listed = [{"project": scope[0], "path": scope[1]}]
        answer = call(server, owner, "POST", "/kokon/v1/principals", json={"name": "x", "role": role, "scopes": listed})
        assert answer.status_code == 403, answer.text
    found = call(server, server.token, "GET", "/kokon/v1/principals").json()["principals"]
    assert {one["role"] for one in found} == {"owner"}


def test_access_ends(server: Any) -> None:
    expires = (server.clock() + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    token = principal(server, "owner", ("*", "*"), expires=expires)
    other = principal(server, "auditor", ("*", "*"))
    assert call(server, token, "GET", "/kokon/v1/projects").status_code == 200
    server.clock.offset = timedelta(hours=2)
    for path in ("/kokon/v1/projects", "/kokon/v1/status", "/kokon/v1/log"):
        answer = call(server, token, "GET", path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "principal-expired")
    identity = other.split("_")[1]
    assert call(server, other, "GET", "/kokon/v1/log").status_code == 200
    assert call(server, server.token, "DELETE", f"/kokon/v1/principals/{identity}").status_code == 200
    assert call(server, other, "GET", "/kokon/v1/log").json()["error"]["code"] == "principal-unknown"
    again = call(server, server.token, "DELETE", f"/kokon/v1/principals/{identity}")
    assert (again.status_code, again.json()["error"]["code"]) == (404, "principal-not-found")
    everything = json.dumps([*server.server_events(), *server.events()])
    assert not any(each in everything for each in (token, other, server.token))
    assert "admin-login" in everything


def client_certificate(key: ec.EllipticCurvePrivateKey) -> bytes:
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ci")]), datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
    builder = builder.not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def test_a_client_certificate_is_as_good_as_a_token(server: Any, tmp_path: Path) -> None:
    def shown(pem: bytes, key: ec.EllipticCurvePrivateKey) -> httpx2.Client:
        (tmp_path / "client.pem").write_bytes(pem)
        (tmp_path / "client.key").write_bytes(key_pem(key))
        context = client_context(server.certificate)
        context.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
        return httpx2.Client(base_url=server.url, verify=context, timeout=10, trust_env=False)

    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    pem = client_certificate(key)
    body = {
        "name": "ci",
        "role": "auditor",
        "scopes": [{"project": "*", "path": "*"}],
        "certificate": pem.decode(),
    }
    answer = call(server, server.token, "POST", "/kokon/v1/principals", json=body)
    assert answer.status_code == 200
    assert "token" not in answer.json()

    def enters() -> httpx2.Client | None:
        """A connection, as soon as the server's TLS knows the certificate."""
        client = shown(pem, key)
        with contextlib.suppress(httpx2.HTTPError):
            if client.get("/kokon/v1/projects").status_code == 200:
                return client
        client.close()
        time.sleep(0.1)
        return None

    deadline = time.monotonic() + 10
    client = enters()
    while client is None and time.monotonic() < deadline:
        client = enters()
    assert client is not None
    assert client.post(f"/kbs/v0/resource/{PATH}", content=b"x").json()["error"]["code"] == "role-insufficient"
    with shown(client_certificate(other), other) as stranger, pytest.raises(httpx2.HTTPError):
        stranger.get("/kokon/v1/projects")
    identity = answer.json()["id"]
    assert call(server, server.token, "DELETE", f"/kokon/v1/principals/{identity}").status_code == 200
    assert client.get("/kokon/v1/projects").status_code == 401, "on the connection that was open"
    client.close()


# -- secrets -------------------------------------------------------------------------------------------------------


def test_generated_secrets_are_seen_by_enclaves_only(server: Any, chip: Any) -> None:
    document = server.admit()
    made = server.admin.generate(PATH, "password:24")
    assert made["version"] == 2
    server.attest(chip, document)
    first = released(server)
    assert len(first) == 24
    assert server.admin.rotate(PATH)["version"] == 3
    assert released(server) != first
    assert released(server, version=2) == first
    everything = json.dumps([server.events(), server.server_events(), server.admin.secrets(), made])
    assert first.decode() not in everything
    pair = server.admin.generate(PATH, "ed25519")
    assert "BEGIN PUBLIC KEY" in pair["public"]
    assert b"BEGIN PRIVATE KEY" in released(server)
    server.admin.put(PATH, b"given")
    with pytest.raises(UsageError) as caught:
        server.admin.rotate(PATH)
    assert caught.value.code == "secret-not-generated"


def test_versions_end_and_are_deleted_for_good(server: Any, chip: Any) -> None:
    document = server.admit()
    token = server.attest(chip, document).json()["token"]
    server.admin.put(PATH, b"for an hour", Terms(expires=server.clock() + timedelta(minutes=10)))
    assert released(server) == b"for an hour"
    server.clock.offset = timedelta(minutes=11)
    assert released(server, token=token) == b"correct horse", "the newest that has not ended"
    bearer = {"Authorization": f"Bearer {token}"}
    answer = server.guest.get(f"/kbs/v0/resource/{PATH}", params={"version": 2}, headers=bearer)
    assert (answer.status_code, server.denial(answer)[0]) == (403, "secret-expired")
    assert server.store.purge(server.clock()) == 1
    assert [one["versions"] for one in server.admin.secrets() if one["path"] == PATH] == [[1]]
    server.admin.delete(PATH, 1)
    answer = server.guest.get(f"/kbs/v0/resource/{PATH}", headers=bearer)
    assert (answer.status_code, server.denial(answer)[0]) == (404, "resource-unknown")
    assert server.admin.put(PATH, b"again") == 3, "a number is not used twice"
    with pytest.raises(DeniedError) as caught:
        server.admin.delete(PATH, 1)
    assert caught.value.code == "resource-unknown"


def test_two_who_change_a_secret_at_once(server: Any) -> None:
    assert server.admin.put(PATH, b"first", Terms(previous=0)) == 1
    for previous in (0, 2):
        with pytest.raises(DeniedError) as caught:
            server.admin.put(PATH, b"lost", Terms(previous=previous))
        assert caught.value.code == "changed-meanwhile"
    assert server.admin.put(PATH, b"second", Terms(previous=1, keep=1)) == 2
    assert [one["versions"] for one in server.admin.secrets()] == [[2]]


def test_derived_secrets(server: Any, chip: Any, other_chip: Any) -> None:
    document = server.admit()
    values = {}
    for scope in ("workload", "platform", "activation"):
        server.admin.derive(PATH, scope)
        seen = []
        for _ in range(2):
            assert server.attest(chip, document).status_code == 200
            seen.append(released(server))
        values[scope] = seen
        assert len(seen[0]) == 32
    assert values["workload"][0] == values["workload"][1]
    assert values["platform"][0] == values["platform"][1]
    assert values["activation"][0] != values["activation"][1]
    assert len({value for seen in values.values() for value in seen}) == 4


# -- workloads and policies ----------------------------------------------------------------------------------------


def test_policies_have_a_history_and_one_winner(server: Any, chip: Any) -> None:
    document = server.admit()
    first = server.admin.set_policy("platform", "default", LAX, "")
    second = server.admin.set_policy("platform", "default", STRICT, first["digest"])
    for previous in ("", first["digest"], "0" * 64):
        with pytest.raises(DeniedError) as caught:
            server.admin.set_policy("platform", "default", LAX, previous)
        assert caught.value.code == "changed-meanwhile"
    shown = server.admin.policy("platform", "default")
    assert shown["text"] == STRICT
    chain = [(one["digest"], one["previous"]) for one in shown["history"]]
    assert chain == [(first["digest"], ""), (second["digest"], first["digest"])]
    from provisioning_factory import DEBUG, POLICY

    assert server.denial(server.attest(chip, document, policy=POLICY | DEBUG))[0] == "debug-enabled"
    server.admin.set_policy("platform", "default", LAX)
    assert server.attest(chip, document, policy=POLICY | DEBUG).status_code == 200
    server.admin.remove_policy("platform", "default")
    assert server.denial(server.attest(chip, document, policy=POLICY | DEBUG))[0] == "debug-enabled"
    assert [one["event"] for one in server.events()].count("policy-set") == 3


def test_policies_that_cannot_work(server: Any) -> None:
    for kind, name, text, code in (
        ("platform", "other", STRICT, "policy-name"),
        ("person", "default", STRICT, "policy-name"),
        ("platform", "default", "nonsense = 1", "policy-key-unknown"),
        ("attestation", "default", "package other", "policy-undefined"),
        ("resource", "default", "package policy\nallow if {", "policy-malformed"),
    ):
        with pytest.raises(KokonError) as caught:
            server.admin.set_policy(kind, name, text)
        assert caught.value.code == code
        with pytest.raises(KokonError):
            server.admin.policy(kind, name)
    assert server.admin.policies() == []


def test_a_workload_has_a_history_and_one_winner(server: Any) -> None:
    request = server.author.request()
    first = server.admin.admit({**request, "previous": ""})
    second = server.admin.admit({**request, "previous": first["digest"]})
    with pytest.raises(DeniedError) as caught:
        server.admin.admit({**request, "previous": first["digest"]})
    assert caught.value.code == "changed-meanwhile"
    with pytest.raises(MalformedError) as malformed:
        server.admin.admit({**request, "previous": "x"})
    assert malformed.value.code == "previous-malformed"
    history = server.admin.workload_history("clinic")
    assert [(one["digest"], one["previous"]) for one in history] == [
        (first["digest"], ""),
        (second["digest"], first["digest"]),
    ]
    assert history[0]["admitted_by"] == server.token.split("_")[1]
    assert server.admin.workload("clinic")["digest"] == second["digest"]


# -- logs ----------------------------------------------------------------------------------------------------------


def test_an_outsider_can_check_the_log(server: Any) -> None:
    for number in range(5):
        server.admin.put(PATH, str(number).encode())
    token = server.token
    key = parse_verifier_key(call(server, token, "GET", "/kokon/v1/log/key").text.strip())
    lines = call(server, token, "GET", "/kokon/v1/log/export").content.splitlines(keepends=True)
    audit = verify_export(lines, [key])
    assert audit.size == len(lines) - 2
    receipt = parse_receipt(call(server, token, "GET", "/kokon/v1/log/receipt/2").content)
    assert verify_receipt(receipt, [key]).index == 2
    with pytest.raises(UntrustedError):
        verify_export([*lines[:2], lines[3], lines[2], *lines[4:]], [key])
    answer = call(server, token, "GET", "/kokon/v1/log/receipt/99")
    assert answer.json()["error"]["code"] == "log-proof-range"
    tile = call(server, token, "GET", "/kokon/v1/log/tile/0/000.p/3")
    assert len(tile.content) == 96
    bundle = call(server, token, "GET", "/kokon/v1/log/tile/entries/000.p/3")
    assert lines[1].strip() in bundle.content
    for path, code in (("0/001", "tile-unknown"), ("0/000.p/300", "tile-malformed")):
        assert call(server, token, "GET", f"/kokon/v1/log/tile/{path}").json()["error"]["code"] == code
    server_key = parse_verifier_key(call(server, token, "GET", "/kokon/v1/server/log/key").text.strip())
    assert server_key.name + "/default" == key.name


def test_rotated_data_keys(server: Any, chip: Any) -> None:
    document = server.admit()
    before = call(server, server.token, "GET", "/kokon/v1/status").json()["key_ring"]
    answer = call(server, server.token, "POST", "/kokon/v1/data-key").json()
    shared = server.store.backend.shared
    assert (answer["key_id"], answer["retired"]) == (2, [] if shared else [1]), "other replicas may still read with it"
    if shared:
        assert call(server, server.token, "POST", "/kokon/v1/data-key").json() == {"key_id": 3, "retired": [1]}
    after = call(server, server.token, "GET", "/kokon/v1/status").json()["key_ring"]
    assert after["identity"] == before["identity"]
    assert after["generation"] > before["generation"]
    server.attest(chip, document)
    assert released(server) == b"correct horse"


def test_stale_is_a_reason_of_its_own(server: Any, chip: Any) -> None:
    document = server.admit()
    server.attest(chip, document)
    server.admin.put(PATH, b"x", Terms(expires=server.clock() + timedelta(seconds=60), keep=1))
    server.clock.offset = timedelta(seconds=61)
    answer = server.guest.get(f"/kbs/v0/resource/{PATH}")
    assert server.denial(answer)[0] == "secret-expired"
    assert StaleError.kind == "stale"
