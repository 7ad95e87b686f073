"""HTTP to the server under test: each request on a connection of its own, its target sent as given, all of it bounded.

A client library would tidy up the very things that the suite sends on purpose: dot segments, encoded slashes, cookies.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from kokon.conformance.case import Violation
from kokon.conformance.messages import ERROR_PREFIX
from kokon.conformance.options import Target
from kokon.errors import MalformedError, UnreachableError, UntrustedError, UsageError
from kokon.wire import parse_json

ANSWER_LIMIT: Final = 4 << 20
RETRIES: Final = 4
RETRY_SECONDS: Final = 5.0
"""How long a Retry-After is obeyed at most, in seconds, each time."""
_CHUNK: Final = 64 << 10


class Broken(Exception):  # noqa: N818 - an outcome, not an error of ours
    """The server did not answer a request; the text says what happened."""


class Exhausted(Exception):  # noqa: N818
    """The run's bounds are used up; the text says which."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for `method` and `target`."""

    method: str
    target: str
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)

    def all(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for key, value in self.headers if key.lower() == name]

    def header(self, name: str) -> str:
        """A header's first value, "" if it is not there; `name` in lower case."""
        return next(iter(self.all(name)), "")

    def json(self) -> Any:
        """The body as strict JSON. Raises `Violation`."""
        try:
            return parse_json(self.body, limit=ANSWER_LIMIT, what="the answer")
        except MalformedError as error:
            raise Violation(f"status {self.status}, and the body is not JSON") from error

    def error(self) -> tuple[str, str] | None:
        """Variant and detail of the protocol's error document; None for any other body."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict):
            return None
        kind, detail = value.get("type"), value.get("detail")
        if not isinstance(kind, str) or not kind.startswith(ERROR_PREFIX) or not isinstance(detail, str):
            return None
        return kind.removeprefix(ERROR_PREFIX), detail

    def summary(self, *, detail: bool = False) -> str:
        """Status and error variant, with the error's detail if wanted."""
        error = self.error() if self.status >= 400 else None
        if error is None:
            return str(self.status)
        return f"{self.status} {error[0][:40]}" + (f" ({error[1][:160]})" if detail else "")


@dataclass(slots=True)
class Budget:
    """What a run may use: requests, and seconds on `clock`."""

    requests: int
    seconds: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    used: int = 0
    _end: float = field(init=False)

    def __post_init__(self) -> None:
        self._end = self.clock() + self.seconds

    def take(self) -> None:
        """Account for one request. Raises `Exhausted`."""
        if self.used >= self.requests:
            raise Exhausted(f"{self.requests} requests were made")
        if self.clock() >= self._end:
            raise Exhausted(f"{self.seconds:.0f} s have passed")
        self.used += 1

    def wait(self, seconds: float, *, extend: bool = False) -> None:
        """Sleep; with `extend` the time does not count."""
        if extend:
            self._end += seconds
        self.sleep(seconds)


def trust(certificate: str | None) -> ssl.SSLContext:
    """TLS that trusts `certificate` (PEM) alone, or what the system trusts. Raises `UsageError` (`conformance-ca`)."""
    if certificate is None:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=certificate)
    except (ssl.SSLError, ValueError) as error:
        raise UsageError("conformance-ca", "the certificate to trust is not PEM") from error
    return context


class Client:
    """Sends requests and keeps what was refused. `timeout` bounds a whole exchange, in seconds."""

    def __init__(self, target: Target, context: ssl.SSLContext | None, budget: Budget, timeout: float) -> None:
        self.target = target
        self.budget = budget
        self.tls: str | None = None
        """The TLS version in use, None without TLS."""
        self.refusals: list[Answer] = []
        """All answers with a status of 400 or more."""
        self.limited: list[Answer] = []
        """All that asked to come again later: 429 and 503."""
        self._context = context
        self._timeout = timeout

    def probe(self) -> None:
        """Connect once.

        Raises `UnreachableError` (`conformance-unreachable`), `UntrustedError` (`conformance-certificate`).
        """
        try:
            self._open().close()
        except ssl.SSLCertVerificationError as error:
            raise UntrustedError(
                "conformance-certificate",
                "the server's certificate is not trusted",
                found=error.verify_message,
                hint="name the certificate to trust with --ca",
            ) from error
        except OSError as error:
            raise UnreachableError(
                "conformance-unreachable",
                f"nothing answers at {self.target.url}",
                found=error.strerror or type(error).__name__,
            ) from error

    def send(
        self,
        method: str,
        target: str,
        *,
        body: bytes | None = None,
        headers: Sequence[tuple[str, str]] = (),
        chunked: bool = False,
    ) -> Answer:
        """The answer to one request; one to come again later is obeyed a few times. Raises `Broken`, `Exhausted`."""
        for attempt in range(RETRIES):
            self.budget.take()
            answer = self._exchange(method, target, body, headers, chunked=chunked)
            if answer.status not in (429, 503) or attempt == RETRIES - 1:
                break
            self.limited.append(answer)
            self.budget.wait(_retry_after(answer))
        if answer.status >= 400:
            self.refusals.append(answer)
        return answer

    def _open(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection
        if self.target.scheme == "http":
            connection = http.client.HTTPConnection(self.target.host, self.target.port, timeout=self._timeout)
        else:
            connection = http.client.HTTPSConnection(
                self.target.host, self.target.port, timeout=self._timeout, context=self._context
            )
        connection.connect()
        if isinstance(connection.sock, ssl.SSLSocket):
            self.tls = connection.sock.version()
        return connection

    def _exchange(
        self, method: str, target: str, body: bytes | None, headers: Sequence[tuple[str, str]], *, chunked: bool
    ) -> Answer:
        try:
            with contextlib.closing(self._open()) as connection, _watched(connection, self._timeout):
                _write(connection, method, target, body, headers, chunked=chunked)
                response = connection.getresponse()
                return Answer(method, target, response.status, tuple(response.getheaders()), _read(response))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Broken(f"{method} without an answer: {_reason(error)}") from error


def _write(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    body: bytes | None,
    headers: Sequence[tuple[str, str]],
    *,
    chunked: bool,
) -> None:
    connection.putrequest(method, target, skip_accept_encoding=True)
    for name, value in (*headers, ("Connection", "close")):
        connection.putheader(name, value)
    if chunked:
        connection.putheader("Transfer-Encoding", "chunked")
    elif body is not None:
        connection.putheader("Content-Length", str(len(body)))
    try:
        parts = [] if not body else [body[: len(body) // 2], body[len(body) // 2 :]]
        connection.endheaders(iter([part for part in parts if part]) if chunked else body, encode_chunked=chunked)
    except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
        pass  # the server has seen enough: what it says is there to be read


def _read(response: http.client.HTTPResponse) -> bytes:
    received = bytearray()
    while chunk := response.read(_CHUNK):
        received += chunk
        if len(received) > ANSWER_LIMIT:
            raise Broken(f"an answer of more than {ANSWER_LIMIT} bytes")
    if response.length:
        raise Broken("an answer that was cut short")
    return bytes(received)


@contextlib.contextmanager
def _watched(connection: http.client.HTTPConnection, seconds: float) -> Iterator[None]:
    """Cut the connection after `seconds`, however slowly something still comes. Raises `TimeoutError` then."""
    open_socket = connection.sock
    late = threading.Event()

    def cut() -> None:
        late.set()
        with contextlib.suppress(OSError):
            socket.socket.shutdown(open_socket, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if late.is_set():
        raise TimeoutError


def _retry_after(answer: Answer) -> float:
    text = answer.header("retry-after").strip()
    return min(float(text), RETRY_SECONDS) if text.isascii() and text.isdigit() else 1.0


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    return type(error).__name__
