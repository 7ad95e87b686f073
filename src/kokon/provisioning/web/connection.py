"""HTTP/1.1 on llhttp, through uvicorn, with a limit on everything that a peer may send or leave undone.

What llhttp refuses by itself: Content-Length beside Transfer-Encoding, two Content-Lengths, a length that is no plain
number, lines that end in a bare CR or LF, folded lines, blanks before a colon, control characters. What it lets pass
and this refuses: a Transfer-Encoding that is not just `chunked`, or in HTTP/1.0; trailers (uvicorn would add them to
the headers that the application has already judged); Host missing; Host, credentials and the like twice; targets that
are not paths; paths that are not UTF-8; other versions. A wish to switch protocols is not heard, and ends the
connection after the answer. RFC 9112.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from kokon.provisioning.kbs.answers import error_document
from kokon.provisioning.web.pool import Pool, Wait
from kokon.provisioning.web.tls import key_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from uvicorn._types import ASGI3Application
    from uvicorn.config import Config
    from uvicorn.server import ServerState

TLS_EXTENSION = "kokon.tls"
"""The member of `scope["extensions"]` that tells of TLS: `peer` is the client's certificate (DER), `spki` the SHA-256
of its SubjectPublicKeyInfo (32 bytes); both are None if there is none. The handshake has proved the client's key."""
_ONCE = frozenset({b"host", b"authorization", b"cookie", b"content-type", b"expect", b"transfer-encoding"})
"""Headers that may come once: of two, the application and a proxy might believe different ones."""
_CODES = {Wait.HEAD: "request-timeout", Wait.BODY: "body-timeout"}
"""What a peer that took too long is told."""
_CONTROL = re.compile("[\x00-\x1f\x7f]")


def client_key(scope: Any) -> bytes | None:
    """SHA-256 of the SubjectPublicKeyInfo of the certificate that the client has shown; None if it has shown none."""
    found: bytes | None = scope.get("extensions", {}).get(TLS_EXTENSION, {}).get("spki")
    return found


class _RefusedError(Exception):
    """Raised inside the parser's callbacks; `data_received` finds it below the parser's own error."""

    def __init__(self, status: HTTPStatus = HTTPStatus.BAD_REQUEST, note: str = "bad-request") -> None:
        super().__init__(status.phrase)
        self.status = status
        self.note = note


class _Wire:
    """The transport as uvicorn's response cycle sees it: `close` is the connection's own way to end.

    It also sends a response's head together with the first of its body: one record and one packet instead of two.
    """

    __slots__ = ("_held", "_transport", "close_connection", "hold_next", "is_closing")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport = transport
        self._held = b""
        self.hold_next = False
        self.is_closing = transport.is_closing
        self.close_connection = close

    def write(self, data: bytes) -> None:
        if self.hold_next:
            self._held, self.hold_next = data, False
            return
        if self._held:
            data, self._held = self._held + data, b""
        self._transport.write(data)

    def flush(self) -> None:
        if self._held:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self.close_connection()


class _Cycle(RequestResponseCycle):
    """One request and its response. An answer that begins before the whole body is there is the connection's last."""

    async def send(self, message: Any) -> None:
        wire: Any = self.transport
        if self.response_started:
            await super().send(message)
            wire.flush()
            return
        if self.more_body:
            self.keep_alive = False
        wire.hold_next = True
        try:
            await super().send(message)
        finally:
            wire.hold_next = False


class Connection(HttpToolsProtocol):
    """One connection. The acceptor puts it into `pool`; `connection_lost` takes it out.

    `handshake` is the task that leads to `connection_made`. `_running` is the request that is being answered; those
    behind it are in `pipeline`; `cycle` is the one whose bytes come in. Once `_linger` is a number the connection is
    deaf: that many bytes more are thrown away.
    """

    def __init__(
        self,
        pool: Pool,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.wait = Wait.NOTHING
        self.handshake: asyncio.Task[None] | None = None
        self._pool = pool
        self._limits = pool.limits
        self._wire: Any = None
        self._running: RequestResponseCycle | None = None
        self._in_head = False
        self._in_body = False
        self._head_bytes = 0
        self._seen: set[bytes] = set()
        self._stalled = False
        self._linger: int | None = None
        self._after: bytes | None = None
        self._extensions: dict[str, Any] = {TLS_EXTENSION: {"peer": None, "spki": None}}

    # -- the transport ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if not self._pool.holds(self):  # it was crowded out in the last moment
            transport.abort()
            return
        super().connection_made(transport)
        self._wire = _Wire(transport, self._finish)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            peer = tls.getpeercert(True)
            self._extensions = {TLS_EXTENSION: {"peer": peer, "spki": None if peer is None else key_digest(peer)}}
        self._move(Wait.IDLE)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.leave(self)
        if self._wire is None:
            return
        for cycle in (self._running, *(queued for queued, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._linger is not None:
            self._discard(len(data))
            return
        inside = self._in_head
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._linger = self._limits.linger_bytes
        except httptools.HttpParserError as error:
            cause = error.__context__
            refused = cause if isinstance(cause, _RefusedError) else _RefusedError()
            self._pool.note(refused.note)
            self._refuse(refused.status, "bad-request" if refused.note == "pipeline-too-long" else refused.note)
            return
        if self._in_head:
            self._head_bytes = len(data) + (self._head_bytes if inside else 0)
            if self._head_bytes > self._limits.head_bytes:
                self._pool.note("head-too-large")
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large")
                return
        self._settle()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = True
        self._settle()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalled = False
        self._settle()

    # -- the parser ------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._seen.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            raise _RefusedError  # a trailer
        name = name.lower()
        if name in _ONCE:
            self._watch(name, value)
        self.headers.append((name, value))

    def _watch(self, name: bytes, value: bytes) -> None:
        if name in self._seen:
            raise _RefusedError
        self._seen.add(name)
        if name == b"expect":
            if value.lower() != b"100-continue":
                raise _RefusedError(HTTPStatus.EXPECTATION_FAILED)
            self.expect_100_continue = True
        elif name == b"transfer-encoding" and value.lower() != b"chunked":
            raise _RefusedError(HTTPStatus.NOT_IMPLEMENTED)

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body = False, True
        self._check_head()
        self._fill_scope()
        if self.wait is not Wait.NOTHING:
            self._move(Wait.NOTHING)  # of two heads in one packet each has its own time
        cycle = self.cycle = _Cycle(
            scope=self.scope,
            transport=self._wire,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=self.parser.should_keep_alive() and not self.parser.should_upgrade(),
            on_response=self.on_response_complete,
        )
        if self._running is None:
            self._run(cycle, self.app)
        elif len(self.pipeline) < self._limits.pipeline:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))
        else:
            raise _RefusedError(note="pipeline-too-long")

    def _check_head(self) -> None:
        if len(self.headers) > self._limits.headers:
            raise _RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large")
        size = len(self.url)
        for name, value in self.headers:
            size += len(name) + len(value)
        if size > self._limits.head_bytes:
            raise _RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large")
        version = self.parser.get_http_version()
        if version == "1.1":
            if b"host" not in self._seen:
                raise _RefusedError
        elif version != "1.0":
            raise _RefusedError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
        elif b"transfer-encoding" in self._seen:
            raise _RefusedError

    def _fill_scope(self) -> None:
        target, _, query = self.url.partition(b"?")
        if not target.startswith(b"/") or b"#" in self.url:
            raise _RefusedError
        try:
            path = (unquote_to_bytes(target) if b"%" in target else target).decode()
        except UnicodeDecodeError as error:
            raise _RefusedError from error
        if _CONTROL.search(path):
            raise _RefusedError
        scope = self.scope
        scope["http_version"] = self.parser.get_http_version()
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["path"] = path
        scope["raw_path"] = target
        scope["query_string"] = query
        scope["extensions"] = self._extensions

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._in_body = self.cycle.more_body = False
        self.cycle.message_event.set()

    # -- the application -------------------------------------------------------------------------------------------

    def _run(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        # A context of its own: what one request sets there is not seen by the peer's next one.
        task = self.loop.create_task(cycle.run_asgi(app), context=contextvars.Context())
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        self._running = None
        if self.wait is Wait.CLOSE or self.transport.is_closing():
            return
        if self._after is not None:
            self._last_words(self._after)
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._run(*self.pipeline.pop())
        self._settle()

    # -- the end ---------------------------------------------------------------------------------------------------

    def _move(self, wait: Wait) -> None:
        self._pool.move(self, wait, self.loop.time())

    def _settle(self) -> None:
        """Tell the pool what is waited for now."""
        if self.wait is Wait.CLOSE:
            return
        if self._stalled:
            wait = Wait.STALL
        elif self._linger is not None:
            wait = Wait.NOTHING
        elif self._in_head:
            wait = Wait.HEAD
        elif self._in_body:
            wait = Wait.BODY
        else:
            wait = Wait.IDLE if self._running is None else Wait.NOTHING
        if wait is not self.wait:
            self._move(wait)

    def _refuse(self, status: HTTPStatus, code: str = "bad-request") -> None:
        """Answer what comes in with `status` and end; if an earlier request is being answered, after that."""
        self._in_head = False
        running = self._running
        if running is None:
            self._last_words(_answer(status, code))
        elif not (running is self.cycle and running.more_body):
            self.pipeline.clear()
            self._after, self._linger = _answer(status, code), self._limits.linger_bytes
            self._move(Wait.NOTHING)
        else:  # the body of the running request is what is wrong: its application must not take it for whole
            running.disconnected = True
            running.message_event.set()
            if running.response_started:
                self.transport.abort()
            else:
                self._last_words(_answer(status, code))

    def _last_words(self, answer: bytes) -> None:
        self._wire.write(answer)
        self._begin_linger()

    def _begin_linger(self) -> None:
        """Let the peer read the last answer: if its data were left unread, TCP would take the answer back."""
        self._linger = self._limits.linger_bytes
        self.flow.resume_reading()
        self._move(Wait.CLOSE)

    def _discard(self, size: int) -> None:
        self._linger = (self._linger or 0) - size
        if self._linger < 0:
            self.transport.abort()

    def _finish(self) -> None:
        """End after what has been written; a request's body may still be on its way."""
        if self.wait is Wait.CLOSE or self.transport.is_closing():
            return
        if self._linger is not None or self._in_body:
            self._begin_linger()
        else:
            self._close()

    def _close(self) -> None:
        self.transport.close()
        self._move(Wait.CLOSE)

    def overdue(self) -> None:
        """The peer took too long: tell it if there is something to tell, else the pool aborts."""
        if self.wait is Wait.IDLE:
            self._close()
        elif self.wait in _CODES:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, _CODES[self.wait])

    def abort(self) -> None:
        """End now, without a word."""
        if self.transport is not None:
            self.transport.abort()
        elif self.handshake is not None:
            self.handshake.cancel()

    def shutdown(self) -> None:
        """The server ends: what is being answered is answered, all else ends at once."""
        self.pipeline.clear()
        if self._running is not None:
            self._running.keep_alive = False
        elif self.wait is not Wait.CLOSE:
            self._close()


def _answer(status: HTTPStatus, code: str) -> bytes:
    """A last answer, both as the application's and as the protocol's clients want it: who asked is not known."""
    error = {"code": code, "kind": "malformed", "message": status.phrase}
    body = json.dumps({**error_document("InvalidRequestPath", code), "error": error}).encode()
    head = f"HTTP/1.1 {status} {status.phrase}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body
