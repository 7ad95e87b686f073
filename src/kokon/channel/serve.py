"""The guest's front door: a TLS 1.3 listener that answers for the enclave and relays to the application.

ALPN `kokon-attest/1` reaches the control protocol and never the application; any other connection is relayed to the
application as bytes. A thread per connection, a bounded number of them, and a deadline on everything that a
stranger may do slowly. The private key stays in this process's memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from kokon.channel.mint import spki_of
from kokon.channel.protocol import (
    ALPN,
    LOG_CHUNK,
    REQUEST_LIMIT,
    Answer,
    AttestRequest,
    LogsRequest,
    Request,
    Runtime,
    answer_message,
    parse_request,
)
from kokon.channel.relay import relay
from kokon.channel.tls import TlsStream, receive_message, send_message, server_context
from kokon.errors import DeniedError, HostError, KokonError, UnreachableError
from kokon.launch.document import parse_document
from kokon.wire import b64

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cryptography.hazmat.primitives.asymmetric import ec

    from kokon.tee.evidence import Evidence


class Guest(Protocol):
    """What the server needs of the agent. Called from several threads, `evidence` from one at a time."""

    @property
    def document(self) -> bytes:
        """The launch document's exact bytes."""
        ...

    @property
    def statement(self) -> Mapping[str, Any]:
        """The image's identity statement, a DSSE envelope."""
        ...

    def evidence(self, report_data: bytes) -> Evidence:
        """Fresh evidence over 64 bytes."""
        ...

    def released(self) -> list[str]:
        """Names of the secrets that were released to this enclave."""
        ...

    def started(self) -> str | None:
        """When the application was started (RFC 3339), None if it was not."""
        ...

    def logs(self, follow: bool) -> Iterator[bytes]:
        """The application's output so far; with `follow`, then what comes (an empty chunk now and then finds clients
        that went away)."""
        ...

    def log_token(self) -> str | None:
        """The token that opens the log, None if it was not released."""
        ...

    def status(self) -> dict[str, Any]:
        """Plain JSON values that anybody may see."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on strangers: connections at once, and seconds for a handshake, for a request or for sending an
    answer, and of silence on a relay."""

    connections: int = 256
    handshake: float = 10.0
    request: float = 10.0
    idle: float = 3600.0
    requests: int = 64


class AttestedServer:
    """Serves `guest` and, through `connect_app`, its application, under `certificate` (DER) and its `key`.

    `connect_app` returns a socket that is connected to the application or raises `OSError`.
    """

    def __init__(
        self,
        guest: Guest,
        key: ec.EllipticCurvePrivateKey,
        certificate: bytes,
        connect_app: Callable[[], socket.socket],
        *,
        limits: Limits | None = None,
    ) -> None:
        document = parse_document(guest.document)
        self._guest = guest
        self._workload = document.workload
        self._image = document.image.digest
        self._connect_app = connect_app
        self._limits = limits or Limits()
        self._key_digest = hashlib.sha384(spki_of(key)).digest()
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        self._context = server_context(ssl.DER_cert_to_PEM_cert(certificate), private, [ALPN, "http/1.1"])
        self._device = threading.Lock()
        self._lock = threading.Lock()
        self._live: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._closing = threading.Event()

    def start(self, host: str = "0.0.0.0", port: int = 8443) -> tuple[str, int]:  # noqa: S104
        """Listen and serve in the background; the address in use is returned (port 0: any).

        Raises `HostError` (`port-taken`).
        """
        try:
            self._listener = socket.create_server((host, port), backlog=64)
        except OSError as error:
            raise HostError("port-taken", "cannot listen", found=f"{host}:{port}: {error.strerror}") from error
        address: tuple[str, int] = self._listener.getsockname()[:2]
        threading.Thread(target=self._accept, args=(self._listener,), name="attested-tls", daemon=True).start()
        return address

    def close(self) -> None:
        """Stop listening and break every connection off."""
        self._closing.set()
        with self._lock:
            sockets = [*self._live, *([self._listener] if self._listener else [])]
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        if self._listener:
            self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                # Out of descriptors, or a connection that is gone again: neither may end the service.
                self._closing.wait(0.05)
                continue
            with self._lock:
                full = len(self._live) >= self._limits.connections
                if not full:
                    self._live.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), name="attested-peer", daemon=True)
            try:
                if not full:
                    thread.start()
                    continue
            except RuntimeError:  # no more threads: refuse this one, serve the others
                with self._lock:
                    self._live.discard(sock)
            sock.close()

    def _serve(self, sock: socket.socket) -> None:
        try:
            stream = TlsStream(sock, self._context, server_side=True)
            with contextlib.suppress(KokonError, OSError):
                stream.handshake(self._limits.handshake)
                if stream.alpn == ALPN:
                    self._converse(stream)
                else:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    relay(stream, self._connect_app(), idle=self._limits.idle)
            stream.close()
        finally:
            with self._lock:
                self._live.discard(sock)
            sock.close()

    def _converse(self, stream: TlsStream) -> None:
        for _ in range(self._limits.requests):
            try:
                body = receive_message(stream, limit=REQUEST_LIMIT, timeout=self._limits.request)
                if body is None:
                    return
                for message in self._answers(parse_request(body), stream):
                    send_message(stream, message, self._limits.request)
            except UnreachableError:
                raise
            except KokonError as error:
                refusal = {"error": {"code": error.code, "message": error.message}}
                send_message(stream, refusal, self._limits.request)
                return

    def _answers(self, request: Request, stream: TlsStream) -> Iterator[Mapping[str, Any]]:
        if isinstance(request, AttestRequest):
            yield self._attest(request.nonce)
        elif isinstance(request, LogsRequest):
            yield from self._logs(request, stream)
        else:
            yield {"status": self._guest.status()}

    def _attest(self, nonce: bytes) -> Mapping[str, Any]:
        guest = self._guest
        runtime = Runtime(
            nonce=nonce,
            key_digest=self._key_digest,
            workload=self._workload,
            image=self._image,
            released=tuple(guest.released()),
            started=guest.started(),
        )
        with self._device:
            evidence = guest.evidence(runtime.report_data())
        return answer_message(Answer(evidence, runtime, guest.document, guest.statement))

    def _logs(self, request: LogsRequest, stream: TlsStream) -> Iterator[Mapping[str, Any]]:
        token = self._guest.log_token()
        if token is None or not hmac.compare_digest(token.encode(), request.token.encode()):
            raise DeniedError(
                "log-token-wrong",
                "the log is for the owner only",
                hint="kokon logs asks the provisioning server for the token: is this workload admitted there?",
            )
        for chunk in self._guest.logs(request.follow):
            if not chunk:
                yield {"log": ""}
            for start in range(0, len(chunk), LOG_CHUNK):
                yield {"log": b64(chunk[start : start + LOG_CHUNK])}
            if request.follow and stream.readable():  # a follower sends nothing: it went away
                return
        yield {"end": True}
