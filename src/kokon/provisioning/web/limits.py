"""How often one may ask: token buckets for addresses and projects, and a limit on what is under way at once.

Who asks too often gets 429, and if too much is under way, everybody gets 503: both with the seconds after which to try
again (Retry-After, RFC 9110, section 10.2.3), and at once. Nothing is queued, since a queue only makes all late. A
request whose body is waited for is not under way: a few slow peers would else keep all others out. How many of those
there may be is the connections' limit (`ConnectionLimits.bodies`).
"""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

RATE_LIMITED = "rate-limited"
OVERLOADED = "overloaded"
RETRY_LIMIT = 3600
"""Nobody is told to wait longer: seconds."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` requests at once, and `per_second` more each second."""

    per_second: float
    burst: int


class Buckets:
    """A token bucket for each key, in bounded memory. Times are seconds of a monotonic clock.

    A bucket is one number: the time at which it will be full again (the generic cell rate algorithm, ITU-T I.371). One
    that is full is as good as none. With more than `capacity` keys those not seen for longest are forgotten, which is
    to say: full again.
    """

    def __init__(self, rate: Rate, capacity: int = 65536) -> None:
        self._step = 1.0 / rate.per_second
        self._depth = self._step * (rate.burst - 1)
        self._capacity = capacity
        self._full_at: dict[Any, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: object, now: float) -> float:
        """Take one token of `key`'s: 0, or the seconds until there is one. Asking in vain costs nothing."""
        full_at = self._full_at.pop(key, now)
        if full_at < now:
            full_at = now
        wait = full_at - now - self._depth
        if wait > 1e-9:
            self._full_at[key] = full_at
            return wait
        self._full_at[key] = full_at + self._step
        if len(self._full_at) > self._capacity:
            del self._full_at[next(iter(self._full_at))]
        return 0.0


def network_of(address: str) -> object:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 address, the smallest that one party is given.

    An IPv4 address in IPv6's clothes (`::ffff:192.0.2.1`) is the IPv4 address. What is no address is itself.
    """
    if ":" not in address:
        return address
    try:
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except OSError:
        return address
    if packed.startswith(b"\0" * 10 + b"\xff\xff"):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return packed[:8]


def retry_after(seconds: float) -> int:
    """Whole seconds for the header: at least one, at most `RETRY_LIMIT`."""
    return min(max(math.ceil(seconds), 1), RETRY_LIMIT)


Document = Callable[["Scope", str], bytes]
"""Makes the JSON body of a refusal, of the request's scope and the code."""


def plain_document(_scope: Scope, code: str) -> bytes:
    """A body that says the code and nothing else."""
    return json.dumps(
        {"error": {"code": code, "kind": "denied", "message": "too many requests: try again later"}}
    ).encode()


@dataclass(frozen=True, slots=True)
class LimitOptions:
    """`address`: per client; `project`: per project (None: no such limit). `in_flight`: requests at once.

    `overload_seconds` is what those are told who come when too much is under way. `free` paths are never refused.
    """

    address: Rate | None = Rate(50.0, 200)
    project: Rate | None = Rate(500.0, 1000)
    in_flight: int = 256
    overload_seconds: int = 1
    clients: int = 65536
    projects: int = 4096
    free: frozenset[str] = frozenset({"/healthz", "/readyz", "/metrics"})


def _no_project(_: Scope) -> str | None:
    return None


class Limits:
    """ASGI middleware around `app`. For one event loop.

    `project_of` names a request's project, or None. It must name known ones only, or else a client could make its own
    buckets. `note` is told the code of each refusal.
    """

    def __init__(
        self,
        app: ASGIApp,
        options: LimitOptions = LimitOptions(),
        *,
        project_of: Callable[[Scope], str | None] = _no_project,
        document: Document = plain_document,
        note: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._options = options
        self._project_of = project_of
        self._document = document
        self._note = note
        self._clock = clock
        self._addresses = Buckets(options.address, options.clients) if options.address else None
        self._projects = Buckets(options.project, options.projects) if options.project else None
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """How many requests are under way."""
        return self._in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, or refuse it at once."""
        if scope["type"] != "http" or scope["path"] in self._options.free:
            await self._app(scope, receive, send)
            return
        wait = self._rate(scope)
        if wait > 0:
            await self._refuse(scope, send, 429, RATE_LIMITED, wait)
        elif self._in_flight >= self._options.in_flight:
            await self._refuse(scope, send, 503, OVERLOADED, self._options.overload_seconds)
        else:
            self._in_flight += 1
            try:
                await self._app(scope, self._outside(receive), send)
            finally:
                self._in_flight -= 1

    def _outside(self, receive: Receive) -> Receive:
        """`receive`, of which the time until the body is complete does not count."""
        complete = False

        async def receiving() -> Message:
            nonlocal complete
            if complete:
                return await receive()
            self._in_flight -= 1
            try:
                message = await receive()
            finally:
                self._in_flight += 1
            complete = not message.get("more_body", False)
            return message

        return receiving

    def _rate(self, scope: Mapping[str, Any]) -> float:
        now = self._clock()
        client = scope.get("client")
        if self._addresses is not None and client is not None:
            wait = self._addresses.take(network_of(client[0]), now)
            if wait > 0:
                return wait
        if self._projects is not None:
            project = self._project_of(scope)  # type: ignore[arg-type]
            if project is not None:
                return self._projects.take(project, now)
        return 0.0

    async def _refuse(self, scope: Scope, send: Send, status: int, code: str, seconds: float) -> None:
        self._note(code)
        body = self._document(scope, code)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"retry-after", b"%d" % retry_after(seconds)),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
