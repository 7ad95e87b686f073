"""Runs an ASGI application: sockets, uvicorn, TLS, an orderly end. One process is one replica.

On SIGTERM or SIGINT no more connections are taken, idle ones end at once, and what is under way has `grace` seconds. A
second signal ends without grace.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import uvicorn

from kokon.errors import HostError
from kokon.provisioning.web.accept import Acceptor
from kokon.provisioning.web.connection import Connection
from kokon.provisioning.web.pool import ConnectionLimits, Note, Pool
from kokon.provisioning.web.systemd import inherited_sockets, notify, watchdog_seconds

if TYPE_CHECKING:
    from types import FrameType

    from starlette.types import ASGIApp

    from kokon.provisioning.web.tls import ServerTls

BACKLOG = 4096
"""Connections that wait in the kernel: of a crowd that comes faster than it is taken in, the others try again later."""
GRACE_SECONDS = 10
RESERVED_DESCRIPTORS = 256
"""For the database, workers and files."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How a server runs; `grace` in whole seconds. `loop` is uvicorn's word: `auto` takes uvloop if it is there."""

    limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    grace: int = GRACE_SECONDS
    backlog: int = BACKLOG
    loop: str = "auto"


class Server(uvicorn.Server):
    """uvicorn with connections of our own, that says when it is ready, and ends with status 0 when asked to.

    `tls` None: plain HTTP. `ready` is called once requests are answered, `ending` when the end begins. `note` is told
    what happens to connections (`kokon.provisioning.web.pool.NOTES`).
    """

    def __init__(
        self,
        app: ASGIApp,
        listeners: Sequence[socket.socket],
        tls: ServerTls | None,
        options: ServerOptions = ServerOptions(),
        *,
        ready: Callable[[], None] = lambda: None,
        ending: Callable[[], None] = lambda: None,
        note: Note = lambda _: None,
    ) -> None:
        self.pool = Pool(options.limits, note)
        super().__init__(_configuration(app, self.pool, options))
        self._listeners = list(listeners)
        self._tls = tls
        self._ready = ready
        self._ending = ending
        self._watchdog = watchdog_seconds(os.environ, os.getpid())
        self._sign_at = 0.0

    def start(self) -> None:
        """Serve until told to end. Call it from the main thread. Raises `HostError` (`server-start-failed`)."""
        try:
            self.run()
        except SystemExit as error:  # uvicorn's way to say that the application did not start; it has logged why
            raise HostError("server-start-failed", "the server could not start", hint="the log says why") from error

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, but connections come through an `Acceptor`, from `listeners` and from `sockets`."""
        await super().startup(sockets=[])
        self._listeners += sockets or []
        tls = self._tls
        connect = functools.partial(Connection, self.pool, self.config, self.server_state, self.lifespan.state)
        acceptor = Acceptor(self._listeners, self.pool, connect, lambda: None if tls is None else tls.context)
        acceptor.start(self.config.backlog)
        self.servers = [cast("Any", acceptor)]
        notify(os.environ, "READY=1")
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; whatever is open after the time of grace is cut off."""
        notify(os.environ, "STOPPING=1")
        self._ending()
        try:
            await super().shutdown(sockets=sockets)
        finally:
            for acceptor in self.servers:
                await acceptor.wait_closed()

    async def on_tick(self, counter: int) -> bool:
        """As uvicorn's; also gives the service manager its sign of life."""
        if self._watchdog is not None and time.monotonic() >= self._sign_at:
            self._sign_at = time.monotonic() + self._watchdog
            notify(os.environ, "WATCHDOG=1")
        return await super().on_tick(counter)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The signals that ask for an end are heard, and do not make the exit status one of a killed process."""

        def end(_number: int, _frame: FrameType | None) -> None:
            self.force_exit = self.should_exit
            self.should_exit = True

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _configuration(app: ASGIApp, pool: Pool, options: ServerOptions) -> uvicorn.Config:
    return uvicorn.Config(
        cast("Any", app),
        http=cast("Any", functools.partial(Connection, pool)),
        loop=options.loop,
        ws="none",
        lifespan="on",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        workers=1,
        backlog=options.backlog,
        timeout_graceful_shutdown=options.grace,
    )


def listeners(addresses: Sequence[tuple[str, int]]) -> list[socket.socket]:
    """Sockets that the service manager has passed, else new ones bound to `addresses`.

    Raises `HostError` (`port-taken`, `listen-failed`), `UsageError` (`activation-malformed`).
    """
    passed = inherited_sockets(os.environ, os.getpid())
    if passed:
        return passed
    bound: list[socket.socket] = []
    try:
        for host, port in addresses:
            bound.append(_bind(host, port))
    except HostError:
        for listener in bound:
            listener.close()
        raise
    return bound


def _bind(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # asyncio switches Nagle's delay off only for sockets that say their protocol.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise HostError("listen-failed", f"cannot listen on {host}", found=error.strerror) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise HostError(
                "port-taken",
                f"port {port} is already in use on {host}",
                hint="stop what listens there, or choose another with --listen",
            ) from error
        raise HostError("listen-failed", f"cannot listen on {host}", found=error.strerror) from error
    return listener


def fit_descriptors(limits: ConnectionLimits, reserved: int = RESERVED_DESCRIPTORS) -> ConnectionLimits:
    """Raise this process' limit of descriptors as far as `limits` need, and lower `limits` to what there is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = resource.RLIM_INFINITY
    wanted = limits.connections + reserved
    allowed = wanted if hard == endless else min(wanted, hard)
    if soft != endless and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    if soft == endless or soft >= wanted:
        return limits
    connections = max(soft - reserved, 16)
    return replace(limits, connections=connections, idle=min(limits.idle, max(connections // 2, 8)))
