"""Takes connections from listening sockets, and has the TLS handshake done, under the pool's limits.

asyncio's own way shows an application nothing of a connection before its handshake is over: thousands of peers could
stand there unseen. Here each has its place in the pool from the first moment, the TLS context is the one of that
moment, and a process without free descriptors makes one free instead of turning everybody away.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kokon.provisioning.web.pool import SWEEP_SECONDS, Pool, Wait

if TYPE_CHECKING:
    import ssl

    from kokon.provisioning.web.connection import Connection

AT_ONCE = 64
"""Connections taken in one go, so that those that are there already get their turn."""
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_RETRY_SECONDS = 0.1
_CERTIFICATE = frozenset({"CERTIFICATE_VERIFY_FAILED"})
"""OpenSSL's reasons for a client that shows a certificate which is not enrolled, or no longer valid."""


class Acceptor:
    """Accepts on `listeners` until `close`. For one event loop; looks like an asyncio server to uvicorn.

    `context` is asked for each connection (None: plain HTTP).
    """

    def __init__(
        self,
        listeners: list[socket.socket],
        pool: Pool,
        connect: Callable[[], Connection],
        context: Callable[[], ssl.SSLContext | None],
    ) -> None:
        self.sockets = listeners
        self._pool = pool
        self._connect = connect
        self._context = context
        self._handshakes: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._open = False

    def start(self, backlog: int) -> None:
        """Begin to listen; at most `backlog` connections wait in the kernel."""
        self._open = True
        loop = asyncio.get_running_loop()
        for listener in self.sockets:
            listener.setblocking(False)
            listener.listen(backlog)
            loop.add_reader(listener.fileno(), self._accept, listener)
        self._sweep()

    def close(self) -> None:
        """Accept no more, end handshakes, but go on to end the overdue."""
        if not self._open:
            return
        self._open = False
        loop = asyncio.get_running_loop()
        for listener in self.sockets:
            loop.remove_reader(listener.fileno())
            listener.close()
        self._pool.end(Wait.HANDSHAKE)

    async def wait_closed(self) -> None:
        """End all that is left."""
        self._pool.end(*Wait)
        if self._timer is not None:
            self._timer.cancel()
        if self._handshakes:
            await asyncio.wait(self._handshakes)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(SWEEP_SECONDS, self._sweep)
        self._pool.sweep(loop.time())

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                peer, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._cannot_accept(error, listener)
                return
            self._begin(peer)

    def _cannot_accept(self, error: OSError, listener: socket.socket) -> None:
        """Without descriptors the least of the connections makes place; the listener stays readable: it is retried."""
        if error.errno in _FULL and self._pool.crowd_out():
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener.fileno())
        loop.call_later(_RETRY_SECONDS, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if self._open:
            asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener)

    def _begin(self, peer: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        connection = self._connect()
        if not self._pool.admit(connection, Wait.HANDSHAKE, loop.time()):
            peer.close()
            return
        peer.setblocking(False)
        task = loop.create_task(self._handshake(connection, peer))
        connection.handshake = task
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)
        task.add_done_callback(lambda done: peer.close() if done.cancelled() else None)

    async def _handshake(self, connection: Connection, peer: socket.socket) -> None:
        limits = self._pool.limits
        context = self._context()
        times: dict[str, Any] = {}
        if context is not None:
            times["ssl_handshake_timeout"] = limits.handshake_seconds
            times["ssl_shutdown_timeout"] = limits.close_seconds
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: connection, peer, ssl=context, **times)
        except OSError as error:  # TLS errors and time-outs too: the peer's affair, and nobody else's
            if self._pool.holds(connection):
                refused = getattr(error, "reason", None) in _CERTIFICATE
                self._pool.note("certificate-refused" if refused else "handshake-failed")
            self._pool.leave(connection)
