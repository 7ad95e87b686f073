"""A key broker on a real TLS socket, scripted by the tests."""

import hashlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from kokon.jose.jwe import encrypt_to, from_jwk
from kokon.provisioning.tls import make_certificate
from kokon.tee.snp.envelope import from_envelope
from kokon.wire import canonical_json

NONCE = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
SESSION = "0123456789abcdef0123456789abcdef"
TYPE = "https://github.com/confidential-containers/kbs/errors/"

Answer = tuple[int, Any]


def refusal(status: int, variant: str, detail: str) -> Answer:
    return status, {"type": TYPE + variant, "detail": detail}


@dataclass
class Broker:
    """State of the server. `script` may answer a request in place of the broker: path to a list of answers."""

    resources: dict[str, bytes] = field(default_factory=dict)
    script: dict[str, list[Answer | None]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    events: list[tuple[str, Any]] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)
    attested: bool = False
    jwk: dict[str, str] = field(default_factory=dict)

    def answer(self, method: str, path: str, cookie: str, bearer: str, body: bytes) -> Answer | None:
        self.seen.append(f"{method} {path}")
        if self.script.get(path):
            return self.script[path].pop(0)
        if path == "/kbs/v0/auth":
            request = json.loads(body)
            assert request["version"] == "0.4.0"
            assert request["tee"] == "snp"
            return 200, {"nonce": NONCE, "extra-params": ""}
        if path == "/kbs/v0/attest":
            return self.attest(cookie, json.loads(body))
        if path == "/kokon/v1/events":
            self.events.append((bearer, json.loads(body)))
            return 200, {}
        return self.release(path, cookie)

    def attest(self, cookie: str, body: dict[str, Any]) -> Answer:
        assert cookie == f"kbs-session-id={SESSION}"
        runtime, evidence = body["runtime-data"], body["tee-evidence"]
        bound = {"additional-evidence": evidence["additional_evidence"], **runtime}
        expected = hashlib.sha384(canonical_json(bound)).digest() + bytes(16)
        report = from_envelope(evidence["primary_evidence"]).report
        assert report[0x50:0x90] == expected
        assert runtime["nonce"] == NONCE
        self.documents.append(body["init-data"]["body"])
        self.jwk, self.attested = runtime["tee-pubkey"], True
        return 200, {"token": "header.payload.signature"}

    def release(self, path: str, cookie: str) -> Answer:
        name = path.removeprefix("/kbs/v0/resource/")
        if not self.attested or cookie != f"kbs-session-id={SESSION}":
            return refusal(401, "AttestationError", "token-missing: id 1")
        if name not in self.resources:
            return refusal(404, "PluginInternalError", "resource-unknown: id 77aa")
        return 200, encrypt_to(from_jwk(self.jwk), self.resources[name])


@dataclass
class Running:
    url: str
    certificate: str
    broker: Broker


@contextmanager
def serve(broker: Broker, directory: Path, *, port: int = 0) -> Iterator[Running]:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = make_certificate(key, ["127.0.0.1", "localhost"], datetime.now(UTC)).decode()
    context = server_context(key, pem, directory)
    server = ThreadingHTTPServer(("127.0.0.1", port), handler(broker))
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield Running(f"https://127.0.0.1:{server.server_address[1]}", pem, broker)
    finally:
        server.shutdown()
        server.server_close()


def server_context(key: ec.EllipticCurvePrivateKey, pem: str, directory: Path) -> ssl.SSLContext:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    file = directory / "server.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(private + pem.encode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


def handler(broker: Broker) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            self.request.settimeout(10)
            super().setup()

        def log_message(self, *_: object) -> None:
            pass

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            bearer = self.headers.get("Authorization", "")
            answer = broker.answer(self.command, self.path, self.headers.get("Cookie", ""), bearer, body)
            if answer is None:  # broken off in the middle
                self.close_connection = True
                self.connection.close()
                return
            status, value = answer
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            if self.path in ("/kbs/v0/auth", "/kbs/v0/attest"):
                self.send_header("Set-Cookie", f"kbs-session-id={SESSION}; Path=/kbs/v0; Secure; HttpOnly")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET: Callable[..., None] = respond  # noqa: N815
        do_POST: Callable[..., None] = respond  # noqa: N815

    return Handler
