"""A real server in a thread, and a peer that sends what it likes."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from kokon.errors import KokonError
from kokon.provisioning import tls as server_certificate
from kokon.provisioning.web import accept
from kokon.provisioning.web.body import read_body
from kokon.provisioning.web.connection import TLS_EXTENSION, client_key
from kokon.provisioning.web.pool import ConnectionLimits
from kokon.provisioning.web.server import Server, ServerOptions, listeners
from kokon.provisioning.web.tls import ServerTls

NOW = datetime.now(UTC)
WAIT = 20.0
"""Longest that anything here waits before it has failed."""
Handler = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


def answer(status: int, body: bytes, *headers: tuple[bytes, bytes]) -> tuple[dict[str, Any], dict[str, Any]]:
    length = (b"content-length", b"%d" % len(body))
    return {"type": "http.response.start", "status": status, "headers": [length, *headers]}, {
        "type": "http.response.body",
        "body": body,
    }


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Tells what it was asked."""
    try:
        body = await read_body(scope, receive, 1 << 16)
    except KokonError as error:
        for message in answer(413 if error.code == "body-too-large" else 400, error.code.encode()):
            await send(message)
        return
    peer = scope["extensions"][TLS_EXTENSION]["peer"]
    told = {
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode(),
        "version": scope["http_version"],
        "scheme": scope["scheme"],
        "headers": sorted(name.decode() for name, _ in scope["headers"]),
        "body": len(body),
        "peer": peer.hex() if peer else None,
        "spki": spki.hex() if (spki := client_key(scope)) else None,
    }
    for message in answer(200, json.dumps(told).encode()):
        await send(message)


def with_lifespan(handler: Handler) -> Handler:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await handler(scope, receive, send)

    return app


@dataclass
class Running:
    """A server that listens on `port`, and what it noted."""

    server: Server
    port: int
    tls: ServerTls | None
    notes: list[str]
    thread: threading.Thread
    noted: threading.Condition = field(default_factory=threading.Condition)

    def peer(self, data: bytes = b"") -> Peer:
        peer = Peer(socket.create_connection(("127.0.0.1", self.port), timeout=WAIT))
        if data:
            peer.send(data)
        return peer

    def get(self, path: str = "/") -> dict[str, Any]:
        """A whole request by somebody else: is the server still there for others?"""
        with contextlib.closing(self.peer(request(path=path))) as peer:
            status, _, body = peer.response()
        assert status == 200
        return json.loads(body)

    def wait_for_note(self, note: str) -> None:
        with self.noted:
            assert self.noted.wait_for(lambda: note in self.notes, WAIT), self.notes

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(WAIT)
        assert not self.thread.is_alive()
        assert not self.server.server_state.connections
        assert self.server.pool.size == 0


class Peer:
    """A client's socket; understands responses with a Content-Length."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.left = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def close(self) -> None:
        self.socket.close()

    def _read(self) -> bytes:
        try:
            return self.socket.recv(65536)
        except (ConnectionResetError, BrokenPipeError):
            return b""

    def response(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers, body. Raises EOFError if the server ended before."""
        while b"\r\n\r\n" not in self.left:
            self._more()
        head, _, self.left = self.left.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        size = int(headers.get("content-length", "0"))
        while len(self.left) < size:
            self._more()
        body, self.left = self.left[:size], self.left[size:]
        return int(first.split()[1]), headers, body

    def _more(self) -> None:
        data = self._read()
        if not data:
            raise EOFError(self.left)
        self.left += data

    def rest(self) -> bytes:
        """All until the server ends the connection."""
        while data := self._read():
            self.left += data
        return self.left


def request(method: str = "GET", path: str = "/", *headers: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextlib.contextmanager
def running(
    handler: Handler = echo,
    limits: ConnectionLimits | None = None,
    tls: ServerTls | None = None,
    loop: str = "uvloop",
    grace: int = 5,
    wrap: Callable[[socket.socket], Any] = lambda listener: listener,
) -> Iterator[Running]:
    ready = threading.Event()
    notes: list[str] = []
    noted = threading.Condition()

    def note(what: str) -> None:
        with noted:
            notes.append(what)
            noted.notify_all()

    (listener,) = listeners([("127.0.0.1", 0)])
    options = ServerOptions(limits=limits or ConnectionLimits(), loop=loop, grace=grace)
    server = Server(with_lifespan(handler), [wrap(listener)], tls, options, ready=ready.set, note=note)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.start, daemon=True)
    sweep, accept.SWEEP_SECONDS = accept.SWEEP_SECONDS, 0.02
    thread.start()
    try:
        assert ready.wait(WAIT)
        run = Running(server, port, tls, notes, thread, noted)
        yield run
        run.stop()
    finally:
        accept.SWEEP_SECONDS = sweep
        server.should_exit = server.force_exit = True


@contextlib.contextmanager
def server_identity() -> Iterator[server_certificate.TlsIdentity]:
    """Key and certificate of a server, as it has them: in memory."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate = server_certificate.make_certificate(key, (), NOW).decode()
    with server_certificate.tls_identity(pem, certificate) as identity:
        yield identity


def make_certificate(name: str = "admin", *, ca: bool | None = False, days: int = 30) -> tuple[bytes, bytes, bytes]:
    """A self-signed certificate of a client: DER, PEM, and the key as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=60))
        .not_valid_after(NOW + timedelta(days=days))
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.DER), certificate.public_bytes(Encoding.PEM), pem


def tls_peer(run: Running, context: ssl.SSLContext, data: bytes = b"") -> Peer:
    return connect_tls(run.port, context, data)


def connect_tls(port: int, context: ssl.SSLContext, data: bytes = b"") -> Peer:
    plain = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
    peer = Peer(context.wrap_socket(plain, server_hostname="127.0.0.1"))
    if data:
        peer.send(data)
    return peer
