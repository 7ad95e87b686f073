"""The owner's client: whom it asks, whom it believes, and what it makes of refusals."""

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
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from kokon.errors import (
    DeniedError,
    HostError,
    KokonError,
    MalformedError,
    UnreachableError,
    UntrustedError,
    UsageError,
)
from kokon.provisioning import client_transport
from kokon.provisioning.client import AdminAccess, AdminClient, read_access
from kokon.provisioning.keys import key_pem
from kokon.provisioning.ledger.keys import signing_key
from kokon.provisioning.secret.request import Terms

NOW = datetime.now(UTC)


def code_of(call: Any) -> str:
    with pytest.raises(KokonError) as caught:
        call()
    return caught.value.code


# -- access --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "root", "project"),
    [
        ("https://a:1", "https://a:1", "default"),
        ("https://a:1/", "https://a:1", "default"),
        ("https://a:1/p/ward-7", "https://a:1", "ward-7"),
        ("https://a:1/p/ward-7/", "https://a:1", "ward-7"),
    ],
)
def test_a_project_is_another_url(url: str, root: str, project: str) -> None:
    access = AdminAccess(url, "geheim", "c")
    assert (access.root, access.project) == (root, project)
    assert access.of_project("x").url == f"{root}/p/x"
    assert access.of_project("default").url == root
    assert access.of_project("x").of_project(project).project == project
    assert code_of(lambda: access.of_project("../x")) == "project-name"
    assert "geheim" not in repr(access)


def access_file(path: Path, **members: Any) -> Path:
    path.write_text(json.dumps({"url": "https://a", "certificate": "c", **members}))
    return path


def test_what_admin_json_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = access_file(tmp_path / "admin.json", token="t")
    assert read_access(path) == AdminAccess("https://a", "t", "c")
    assert read_access(path, "x").url == "https://a/p/x"
    monkeypatch.setenv("KOKON_PROJECT", "y")
    monkeypatch.setenv("KOKON_ADMIN", str(path))
    assert read_access().url == "https://a/p/y"
    assert read_access(path, "x").url == "https://a/p/x"
    monkeypatch.setenv("KOKON_PROJECT", "")
    assert read_access().url == "https://a"
    path = access_file(tmp_path / "two.json", client_certificate="me.pem", client_key="/keys/me.key")
    access = read_access(path)
    assert (access.token, access.client_certificate, access.client_key) == (
        "",
        tmp_path / "me.pem",
        Path("/keys/me.key"),
    )


def test_what_admin_json_must_not_say(tmp_path: Path) -> None:
    path = tmp_path / "admin.json"
    for members in ({}, {"token": ""}, {"client_certificate": "a"}, {"client_key": "a"}):
        assert code_of(lambda members=members: read_access(access_file(path, **members))) == "admin-access-incomplete"
    assert code_of(lambda: read_access(access_file(path, token="t", more=1))) == "field-unknown"
    assert code_of(lambda: read_access(access_file(path, token="t"), "No")) == "project-name"
    assert code_of(lambda: read_access(tmp_path / "none.json")) == "admin-access-missing"


# -- transport -----------------------------------------------------------------------------------------------------


def answering(client: AdminClient, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, **headers: str) -> None:
    def stream(method: str, url: str, **_: Any) -> Any:
        request = httpx2.Request(method, url)
        return contextlib.nullcontext(httpx2.Response(status, content=body, headers=headers, request=request))

    monkeypatch.setattr(client._http, "stream", stream)


@pytest.mark.parametrize("body", [b"", b"no JSON", b"[]", b"{}", b'{"error": 1}', b'{"error": {"code": 1}}'])
def test_refusals_without_a_reason(server, monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    answering(server.admin, monkeypatch, 502, body)
    with pytest.raises(MalformedError) as caught:
        server.admin.secrets()
    assert caught.value.code == "provisioning-answer"
    assert caught.value.found == "status 502"


def test_refusals_are_the_servers_own(server, monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps({"error": {"code": "rate-limited", "kind": "denied", "message": "no", "found": 3}}).encode()
    answering(server.admin, monkeypatch, 429, body, **{"retry-after": "7"})
    with pytest.raises(DeniedError) as caught:
        server.admin.secrets()
    assert (caught.value.code, caught.value.hint, caught.value.found) == ("rate-limited", "try again in 7 s", None)
    body = json.dumps({"error": {"code": "disk-full", "kind": "host", "message": "no", "hint": "free"}}).encode()
    answering(server.admin, monkeypatch, 503, body, **{"retry-after": "7"})
    with pytest.raises(HostError) as full:
        server.admin.secrets()
    assert full.value.hint == "free"
    answering(server.admin, monkeypatch, 500, b'{"error": {"code": "odd", "kind": "new", "message": "no"}}')
    assert code_of(server.admin.secrets) == "odd"


def test_answers_are_bounded(server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_transport, "ANSWER_LIMIT", 10)
    answering(server.admin, monkeypatch, 200, b'{"secrets": []}')
    assert code_of(server.admin.secrets) == "provisioning-answer"
    answering(server.admin, monkeypatch, 200, b"1")
    assert code_of(server.admin.secrets) == "provisioning-answer"


def test_connections_that_fail(server, monkeypatch: pytest.MonkeyPatch) -> None:
    for failure in (httpx2.ReadError("broke off"), httpx2.InvalidURL("odd")):

        @contextlib.contextmanager
        def stream(*_: Any, failure: Exception = failure, **__: Any) -> Any:
            raise failure
            yield

        monkeypatch.setattr(server.admin._http, "stream", stream)
        with pytest.raises(UnreachableError) as caught:
            server.admin.secrets()
        assert caught.value.code == "provisioning-unreachable"
        assert server.token not in str(caught.value)

    @contextlib.contextmanager
    def breaking(*_: Any, **__: Any) -> Any:
        def pieces() -> Any:
            yield b"{"
            raise httpx2.ReadError("broke off")

        yield httpx2.Response(200, content=pieces())

    monkeypatch.setattr(server.admin._http, "stream", breaking)
    assert code_of(server.admin.secrets) == "provisioning-unreachable"
    assert code_of(lambda: list(server.admin.export())) == "provisioning-unreachable"


# -- client certificates -------------------------------------------------------------------------------------------


def client_certificate(directory: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "auditor")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(9))
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    (directory / "me.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    (directory / "me.key").write_bytes(key_pem(key))
    return directory / "me.pem", directory / "me.key"


def test_a_client_certificate_instead_of_a_token(server, tmp_path: Path) -> None:
    shown, key = client_certificate(tmp_path)
    access = AdminAccess(server.url, "", server.certificate, shown, key)
    with AdminClient(access) as client, pytest.raises(KokonError):
        client.secrets()
    members = {"name": "auditor", "role": "auditor", "scopes": [{"project": "*", "path": "*"}]}
    answer = server.admin.add_principal({**members, "certificate": shown.read_text()})
    assert "token" not in answer
    seen: list[str] = []
    for _ in range(100):
        time.sleep(0.1)
        with AdminClient(access) as client:
            try:
                assert client.secrets() == []
                break
            except KokonError as error:
                seen.append(error.code)
    else:
        pytest.fail(f"never let in: {seen[-1]}")


def test_client_certificates_that_cannot_be_used(server, tmp_path: Path) -> None:
    shown, key = client_certificate(tmp_path)
    (tmp_path / "junk").write_text("junk")
    for files in ((shown, tmp_path / "junk"), (tmp_path / "junk", key), (shown, tmp_path / "none")):
        access = AdminAccess(server.url, "", server.certificate, *files)
        with pytest.raises(UsageError) as caught:
            AdminClient(access)
        assert caught.value.code == "client-certificate"
    with pytest.raises(MalformedError) as broken:
        AdminClient(AdminAccess(server.url, "t", "no certificate"))
    assert broken.value.code == "certificate-malformed"


def test_a_key_with_a_passphrase_asks_nobody(server, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, PrivateFormat

    shown, key = client_certificate(tmp_path)
    locked = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pw")
    )
    key.write_bytes(locked)
    with pytest.raises(UsageError) as caught:
        AdminClient(AdminAccess(server.url, "", server.certificate, shown, key))
    assert caught.value.code == "client-certificate"


# -- records -------------------------------------------------------------------------------------------------------


def test_projects_are_apart(server) -> None:
    server.admin.add_project("ward-7")
    assert server.admin.projects() == ["default", "ward-7"]
    with AdminClient(server.admin.access.of_project("ward-7")) as ward:
        assert ward.put("a/b/c", b"x") == 1
        assert [one["path"] for one in ward.secrets()] == ["a/b/c"]
        assert ward.projects() == ["default", "ward-7"]
        assert ward.status()["projects"][2]["secrets"] == 1
        assert [json.loads(entry)["project"] for entry in ward.log()[0]] == ["ward-7", "ward-7"]
    assert server.admin.secrets() == []
    server.admin.close_project("ward-7")
    with AdminClient(server.admin.access.of_project("ward-7")) as ward:
        assert code_of(ward.secrets) == "project-unknown"


def test_terms_of_a_secret(server) -> None:
    end = (NOW + timedelta(days=1)).replace(microsecond=0)
    assert server.admin.put("a/b/c", b"x", Terms(end, 0, None)) == 1
    assert server.admin.secrets()[0]["expires"] == end.isoformat()
    assert code_of(lambda: server.admin.put("a/b/c", b"x", Terms(previous=0))) == "changed-meanwhile"
    assert server.admin.put("a/b/c", b"y", Terms(previous=1)) == 2
    assert server.admin.generate("a/b/c", "bytes:16", Terms(keep=2))["version"] == 3
    assert server.admin.secrets()[0]["versions"] == [2, 3]
    assert server.admin.rotate("a/b/c", Terms(keep=1))["version"] == 4
    assert server.admin.derive("a/b/d", "workload")["kind"] == "derived"
    server.admin.delete("a/b/c", 4)
    assert [one["path"] for one in server.admin.secrets()] == ["a/b/d"]


# -- logs ----------------------------------------------------------------------------------------------------------


def test_a_log_over_several_pages(server, monkeypatch: pytest.MonkeyPatch) -> None:
    from kokon.provisioning import client_log

    for number in range(7):
        server.admin.put("a/b/c", bytes([number + 1]))
    monkeypatch.setattr(client_log, "PAGE", 3)
    entries, head = server.admin.log()
    assert (len(entries), head.size) == (8, 8)
    assert server.admin.log(last=2)[0] == entries[-2:]
    assert list(server.admin.entries(5)) == entries[:5]
    assert code_of(lambda: list(server.admin.entries(9))) == "provisioning-answer"


def test_logs_that_do_not_hold(server, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        server.admin.put("a/b/c", bytes([number + 1]))
    real = server.admin._page
    entries, head = server.admin.log()
    changes = [
        lambda page: [page[1], page[0], *page[2:]],
        lambda page: page[:-1],
        lambda page: [page[0].replace(b"owner", b"0wner"), *page[1:]],
        lambda page: [*page[:-1], page[0]],
        lambda page: [],
    ]
    for change in changes:

        def page(start: int, *, server: bool, change: Any = change) -> tuple[list[bytes], int]:
            found, size = real(start, server=server)
            return (change(found) if start == 0 else []), size

        monkeypatch.setattr(server.admin, "_page", page)
        with pytest.raises(UntrustedError) as caught:
            server.admin.log()
        assert caught.value.code == "log-broken"
    monkeypatch.setattr(server.admin, "_page", real)
    assert server.admin.log() == (entries, head)
    other = signing_key(head.origin, bytes(32)).verifier
    assert code_of(lambda: server.admin.log(key=other)) == "log-signature"


def test_the_log_may_grow_while_it_is_read(server, monkeypatch: pytest.MonkeyPatch) -> None:
    real = server.admin.checkpoint
    server.admin.put("a/b/c", b"x")

    def checkpoint(**options: Any) -> bytes:
        server.admin.put("a/b/c", b"y")
        note = real(**options)
        server.admin.put("a/b/c", b"z")
        return note

    monkeypatch.setattr(server.admin, "checkpoint", checkpoint)
    entries, head = server.admin.log()
    assert head.size == len(entries) == 3


def test_an_empty_log(server) -> None:
    server.admin.add_project("empty")
    token = server.admin.add_principal(
        {"name": "a", "role": "owner", "scopes": [{"project": "*", "path": "*"}]}
    )["token"]  # fmt: skip
    with AdminClient(AdminAccess(f"{server.url}/p/empty", token, server.certificate)) as client:
        entries, head = client.log()
    assert [json.loads(entry)["event"] for entry in entries] == ["admin-login"]
    assert head.size == 1
