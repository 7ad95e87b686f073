"""A vendor's services over real HTTP on the loopback, well-behaved or not: for tests of whatever fetches endorsements.

    with VendorServer(FakeVendor(now)) as server:
        fetch_from(server.url)
        server.mode = Mode.RATE_LIMIT
        ...

One server speaks for AMD's key distribution service, Intel's PCS and a PCCS: their paths do not overlap. Modes and the
vendor may be changed while it runs; it counts what it was asked.
"""

from __future__ import annotations

import functools
import gzip
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Self

from kokon.testing.answers import Answer, answer
from kokon.testing.vendor.factory import FakeVendor

HOST: Final = "127.0.0.1"
MEBIBYTE: Final = 1 << 20
STALE_AGE: Final = timedelta(days=45)
REMEMBERED: Final = 10_000
_POLL: Final = 0.02
_LINGER_RESET: Final = struct.pack("ii", 1, 0)


class Mode(StrEnum):
    """How the services behave."""

    NORMAL = "normal"
    """As they should."""
    DOWN = "down"
    """Nothing listens: connections are refused."""
    ERROR = "error"
    """Every answer is 500."""
    HANG = "hang"
    """Connections are accepted, and then nothing comes."""
    RESET = "reset"
    """Connections are cut without an answer."""
    RATE_LIMIT = "rate-limit"
    """Beyond `limit` requests in `period` seconds: 429 with Retry-After."""
    STALE = "stale"
    """Lists and TCB information of 45 days ago, with a lower tcbEvaluationDataNumber."""
    WRONG = "wrong"
    """Well-made answers for somebody else: another chip, product line, platform."""
    HUGE = "huge"
    """A body without an end (64 MiB at most) that never says how long it is."""
    DRIP = "drip"
    """The right answer, one byte in a second."""
    TRUNCATED = "truncated"
    """Half of the answer that was announced."""
    GARBAGE = "garbage"
    """Bytes that are none of the formats, under the right content type."""
    HTML = "html"
    """A page for people, with status 200, as captive portals send."""
    REDIRECT = "redirect"
    """302 to `redirect_to`, another host."""
    BOMB = "bomb"
    """A small gzip body that becomes 64 MiB."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request that came in: method, path with query, seconds by the monotonic clock, status that was sent (0 for
    none)."""

    method: str
    target: str
    time: float
    status: int


class VendorServer:
    """The services of `vendor` on a free port of the loopback; a context manager, or `start` and `close`.

    `vendor`, `mode`, `limit`, `period`, `retry_after` and `redirect_to` may be set at any time. Answers in the making
    keep the mode in which they began, except that HANG and DRIP end when the mode changes.
    """

    def __init__(self, vendor: FakeVendor, mode: Mode = Mode.NORMAL) -> None:
        self.vendor = vendor
        self.limit = 1
        self.period = 10.0
        self.retry_after = 10
        self.redirect_to = "http://elsewhere.invalid"
        self._mode = mode
        self._lock = threading.RLock()
        self._requests: deque[Request] = deque(maxlen=REMEMBERED)
        self._recent: deque[float] = deque()
        self._changed = threading.Event()
        self._http: _Http | None = None
        self._thread: threading.Thread | None = None
        self._port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Base URL for AMD's and Intel's clients; stays the same as long as the server lives."""
        return f"http://{HOST}:{self._port}"

    @property
    def requests(self) -> tuple[Request, ...]:
        """What was asked, the oldest first; the last 10,000. Refused connections are not seen."""
        with self._lock:
            return tuple(self._requests)

    def count(self, prefix: str = "") -> int:
        """How many requests there were for targets that begin so."""
        return sum(request.target.startswith(prefix) for request in self.requests)

    def forget(self) -> None:
        """Forget all requests, for the rate limit too."""
        with self._lock:
            self._requests.clear()
            self._recent.clear()

    @property
    def mode(self) -> Mode:
        """How the services behave now."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        with self._lock:
            running = self._port != 0
            self._mode = mode
            self._changed.set()
            self._changed = threading.Event()
            if running and mode is Mode.DOWN:
                self._stop()
            elif running and self._http is None:
                self._listen()

    def start(self) -> None:
        """Listen and answer in a thread of its own."""
        with self._lock:
            self._listen()
            if self._mode is Mode.DOWN:
                self._stop()

    def close(self) -> None:
        """Stop for good. Answers that hang are cut."""
        with self._lock:
            self._changed.set()
            self._stop()
            self._port = 0

    def _listen(self) -> None:
        self._http = _Http((HOST, self._port), self)
        self._port = self._http.server_address[1]
        serve = functools.partial(self._http.serve_forever, poll_interval=_POLL)
        self._thread = threading.Thread(target=serve, name="fake vendor", daemon=True)
        self._thread.start()

    def _stop(self) -> None:
        if self._http is not None and self._thread is not None:
            self._http.shutdown()
            self._http.server_close()
            self._thread.join()
        self._http, self._thread = None, None

    def record(self, method: str, target: str, status: int) -> None:
        """Note a request. For the handler."""
        with self._lock:
            self._requests.append(Request(method, target, time.monotonic(), status))

    def limited(self) -> bool:
        """Whether one more request now is one too many. For the handler."""
        with self._lock:
            now = time.monotonic()
            while self._recent and self._recent[0] <= now - self.period:
                self._recent.popleft()
            if len(self._recent) >= self.limit:
                return True
            self._recent.append(now)
            return False

    def wait(self, seconds: float) -> bool:
        """Wait, but not beyond the next change of mode; whether that came. For the handler."""
        return self._changed.wait(seconds)

    def current(self) -> FakeVendor:
        """The vendor as it answers in this mode. For the handler."""
        if self._mode is not Mode.STALE:
            return self.vendor
        old = replace(self.vendor.collateral, age=STALE_AGE, evaluation=self.vendor.collateral.evaluation - 3)
        return self.vendor.but(lists_age=STALE_AGE, collateral=old)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], vendor_server: VendorServer) -> None:
        self.vendor_server = vendor_server
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients break off: that is what tests are about, and no reason to print anything."""


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        """Answer in the server's mode."""
        server, mode = self.server.vendor_server, self.server.vendor_server.mode
        misbehaviour = getattr(self, "_" + mode.name.lower(), None)
        if mode is Mode.RATE_LIMIT:
            misbehaviour = self._too_many if server.limited() else None
        if misbehaviour is not None:
            self.close_connection = True
            misbehaviour()
        else:
            self._send(answer(server.current(), self.path, wrong=mode is Mode.WRONG))

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing: `requests` has it."""

    def _head(self, found: Answer, length: int | None = None) -> None:
        self.server.vendor_server.record(self.command, self.path, found.status)
        self.send_response(found.status)
        self.send_header("Content-Type", found.content_type)
        for name, value in found.headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def _send(self, found: Answer) -> None:
        self._head(found, len(found.body))
        self.wfile.write(found.body)

    def _right(self) -> Answer:
        return answer(self.server.vendor_server.vendor, self.path)

    def _error(self) -> None:
        self._send(Answer(500, b"internal error"))

    def _too_many(self) -> None:
        seconds = str(self.server.vendor_server.retry_after)
        self._send(Answer(429, b"too many requests", headers={"Retry-After": seconds}))

    def _hang(self) -> None:
        self.server.vendor_server.record(self.command, self.path, 0)
        self.server.vendor_server.wait(60)

    def _reset(self) -> None:
        self.server.vendor_server.record(self.command, self.path, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)

    def _huge(self) -> None:
        self._head(replace(self._right(), status=200))
        for _ in range(64):
            self.wfile.write(bytes(MEBIBYTE))

    def _drip(self) -> None:
        found = self._right()
        self._head(found, len(found.body))
        for position in range(len(found.body)):
            self.wfile.write(found.body[position : position + 1])
            if self.server.vendor_server.wait(1):
                return

    def _truncated(self) -> None:
        found = self._right()
        self._head(found, len(found.body))
        self.wfile.write(found.body[: len(found.body) // 2])

    def _garbage(self) -> None:
        found = self._right()
        self._send(replace(found, status=200, body=bytes(range(1, 200)) * 4))

    def _html(self) -> None:
        page = b"<!doctype html><title>Welcome</title><p>Please log in to use this network."
        self._send(Answer(200, page, "text/html"))

    def _redirect(self) -> None:
        self._send(Answer(302, headers={"Location": self.server.vendor_server.redirect_to + self.path}))

    def _bomb(self) -> None:
        headers = {"Content-Encoding": "gzip"}
        self._send(replace(self._right(), status=200, body=_bomb(), headers=headers))


@functools.cache
def _bomb() -> bytes:
    return gzip.compress(bytes(64 * MEBIBYTE), 6)
