"""All that is around an application, in a real process behind TLS, and its parts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from web_factory import WAIT, Peer, connect_tls, make_certificate, request, server_identity

from kokon.errors import UsageError
from kokon.provisioning.web.limits import OVERLOADED, RATE_LIMITED, LimitOptions, Rate
from kokon.provisioning.web.run import limits_of, project_in, refused

SCRIPT = Path(__file__).with_name("web_run_process.py")
SECRET = "A" * 43


@dataclass
class World:
    """A process, what it trusts and what trusts it."""

    process: subprocess.Popen[str]
    port: int
    directory: Path
    context: ssl.SSLContext
    client: ssl.SSLContext
    client_der: bytes

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def peer(self, data: bytes, *, known: bool = False) -> Peer:
        return connect_tls(self.port, self.client if known else self.context, data)

    def ask(self, path: str, method: str = "GET", *, known: bool = False) -> tuple[int, dict[str, str], bytes]:
        length = ("Content-Length: 0",) if method == "POST" else ()
        with contextlib.closing(
            self.peer(request(method, path, f"Cookie: kbs-session-id={SECRET}", *length), known=known)
        ) as peer:
            return peer.response()

    def end(self) -> tuple[list[str], list[dict[str, object]], str]:
        """What was printed after, the log's lines, and the log as it is."""
        self.process.terminate()
        out, log = self.process.communicate(timeout=WAIT)
        return out.split("\n")[:-1], [json.loads(line) for line in log.splitlines()], log


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with server_identity() as identity:
        (tmp_path / "key.pem").write_bytes(identity.key_file.read_bytes())
        (tmp_path / "certificate.pem").write_text(identity.certificate)
        der, pem, key = make_certificate()
        (tmp_path / "client.der").write_bytes(der)
        (tmp_path / "client.pem").write_bytes(key + pem)
        context = ssl.create_default_context(cadata=identity.certificate)
        client = ssl.create_default_context(cadata=identity.certificate)
        client.load_cert_chain(tmp_path / "client.pem")
        pipe = subprocess.PIPE
        command = [sys.executable, str(SCRIPT), str(tmp_path)]
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            try:
                found = World(process, 0, tmp_path, context, client, der)
                word, port = found.line().split()
                assert word == "ready"
                found.port = int(port)
                yield found
            finally:
                process.kill()


def test_a_client_certificate_reaches_the_handler_by_its_key(world: World) -> None:
    public = x509.load_der_x509_certificate(world.client_der).public_key()
    digest = hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
    assert json.loads(world.ask("/kokon/v1/who/x", known=True)[2]) == {"key": digest}
    assert json.loads(world.ask("/kokon/v1/who/x")[2]) == {"key": None}
    with contextlib.closing(world.peer(request(path="/readyz"))) as peer:
        assert peer.socket.version() == "TLSv1.3"  # type: ignore[attr-defined]
        status, headers, _ = peer.response()
        assert (status, headers["cache-control"], headers["x-content-type-options"]) == (200, "no-store", "nosniff")


def test_limits_of_projects_and_addresses(world: World) -> None:
    assert [world.ask("/kbs/v0/auth", "POST")[0] for _ in range(3)] == [200, 200, 200]
    status, headers, body = world.ask("/p/default/kbs/v0/auth", "POST")  # is the same project
    assert (status, headers["retry-after"]) == (429, "1000")
    document = json.loads(body)
    assert document["detail"] == document["error"]["code"] == RATE_LIMITED
    assert document["type"].startswith("https://github.com/confidential-containers/kbs/errors/")
    assert world.ask("/p/clinic/kbs/v0/auth", "POST")[0] == 200
    assert [world.ask(f"/p/made-up-{number}/kbs/v0/auth", "POST")[0] for number in range(7)] == [200] * 7
    status, _, body = world.ask("/kokon/v1/who/x")
    assert status == 429
    assert set(json.loads(body)) == {"error"}
    assert world.ask("/readyz")[0] == 200
    figures = world.ask("/metrics")[2].decode()
    assert 'kokon_http_requests_total{operation="auth",status="200"} 11.0' in figures
    assert 'kokon_http_requests_total{operation="other",status="429"} 2.0' in figures
    assert 'kokon_denials_total{code="rate-limited"} 2.0' in figures
    assert "made-up" not in figures
    assert "kokon_open_connections 1.0" in figures
    assert "kokon_requests_in_flight 0.0" in figures


def test_too_much_at_once_and_an_orderly_end(world: World) -> None:
    busy = world.peer(request(path="/kokon/v1/slow"))
    assert world.line() == "under way"
    status, headers, body = world.ask("/kokon/v1/who/x")
    assert (status, headers["retry-after"], json.loads(body)["error"]["code"]) == (503, "1", OVERLOADED)
    world.process.terminate()
    assert world.line() == "ending 503"  # readiness has said so before
    assert world.process.stdin is not None
    world.process.stdin.write("x")
    world.process.stdin.flush()
    assert busy.response()[0] == 200
    out, _, _ = world.end()
    assert out == ["ended"]
    assert world.process.returncode == 0


def test_what_the_log_has_and_what_it_has_not(world: World) -> None:
    assert world.ask("/kokon/v1/who/a-name?token=hunter2", known=True)[0] == 200
    assert world.ask("/kokon/v1/nothing")[0] == 404
    assert world.ask("/kokon/v1/fail")[0] == 500
    assert world.ask("/p/clinic/kbs/v0/auth", "POST")[0] == 200
    (world.directory / "broken").touch()
    assert world.ask("/metrics")[0] == 200
    unready = world.ask("/readyz")[0]
    out, lines, log = world.end()
    assert out == ["ending 503", "ended"]
    requests = [line for line in lines if line["event"] == "request"]
    seen = [(line["operation"], line["project"], line["status"], line["level"]) for line in requests]
    assert seen[:4] == [
        ("who", "default", 200, "info"),
        ("other", "default", 404, "info"),
        ("fail", "default", 500, "error"),
        ("auth", "clinic", 200, "info"),
    ]
    assert {line["client"] for line in requests} == {"127.0.0.1"}
    assert all(line["milliseconds"] >= 0 for line in requests)  # type: ignore[operator]
    assert {line["operation"] for line in requests[4:]} <= {"ready"}  # /metrics and a /readyz that says yes are quiet
    assert unready == 503
    (told,) = [line for line in lines if line["event"] == "not ready"]
    assert told["failures"] == {"database": "store-failed"}
    assert any(line.get("error") == "RuntimeError" for line in lines)
    for secret in (SECRET, "hunter2", "a-name", "kbs-session-id", "Traceback"):
        assert secret not in log, secret
    assert re.search(r"kokon_abcdefghijkl_\[redacted\]|\[redacted\]", log)


# -- parts -------------------------------------------------------------------------------------------------------------


def test_limits_out_of_one_number() -> None:
    assert limits_of(0) == LimitOptions(address=None, project=None)
    assert (limits_of(50), limits_of(0.1).address) == (LimitOptions(Rate(50, 200), Rate(500, 2000)), Rate(0.1, 1))
    for wrong in (-1.0, 0.01, 2e6, float("nan"), float("inf")):
        with pytest.raises(UsageError) as caught:
            limits_of(wrong)
        assert caught.value.code == "rate-malformed"


@pytest.mark.parametrize(
    ("path", "project"),
    [
        ("/", "default"),
        ("/kbs/v0/auth", "default"),
        ("/p", "default"),
        ("/pp/clinic", "default"),
        ("/p/default/kbs/v0/auth", "default"),
        ("/p/clinic", "clinic"),
        ("/p/clinic/kbs/v0/auth", "clinic"),
        ("/p//kbs", None),
        ("/p/other/kbs", None),
        ("/p/Clinic/kbs", None),
        ("/p/", None),
    ],
)
def test_the_project_of_a_path(path: str, project: str | None) -> None:
    assert project_in(path, {"clinic", "", "Clinic"}.__contains__) == project


@pytest.mark.parametrize(
    ("path", "broker"),
    [
        ("/kbs/v0/auth", True),
        ("/p/x/kbs/v0/resource/a/b/c", True),
        ("/p/x/kokon/v1/events", True),
        ("/kokon/v1/events", True),
        ("/kokon/v1/secrets", False),
        ("/p/kbs/", False),
        ("/p/x/p/x/kbs/v0/auth", False),
        ("/healthz", False),
    ],
)
@pytest.mark.parametrize("code", [RATE_LIMITED, OVERLOADED])
def test_a_refusal_has_the_form_that_the_one_who_asks_knows(path: str, broker: bool, code: str) -> None:
    members = json.loads(refused({"path": path}, code))  # type: ignore[arg-type]
    assert members["error"]["code"] == code
    assert set(members) == ({"type", "detail", "error"} if broker else {"error"})
