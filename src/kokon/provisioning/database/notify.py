"""Hearing from other replicas over PostgreSQL's LISTEN that records changed.

Only a matter of freshness: a commit that was decided on old records is refused without it.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import TYPE_CHECKING, Any, cast

from kokon.errors import KokonError
from kokon.provisioning.database.engines import FAILURES
from kokon.provisioning.database.writing import CHANNEL

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy import Engine

    from kokon.provisioning.database.writer import Writer

_RECONNECT = 1.0
_LOOK = 5.0
"""Seconds until the next attempt to connect, and until the connection is looked at though nothing was heard."""


class Listener:
    """A thread that has the writer refresh what others changed, and everything after each new connection.

    `connected` is set while it hears.
    """

    def __init__(self, engine: Engine, writer: Writer, replica: str) -> None:
        self._engine = engine
        self._writer = writer
        self._replica = replica
        self.connected = threading.Event()
        self._stop = threading.Event()
        self._woken, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="kokon-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._stop.set()
        self._waker.close()
        self._thread.join()
        self._woken.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(*FAILURES, KokonError):
                self._listen()
            self.connected.clear()
            self._stop.wait(_RECONNECT)

    def _listen(self) -> None:
        with contextlib.closing(self._engine.raw_connection()) as proxied, selectors.DefaultSelector() as selector:
            connection = cast("psycopg.Connection[Any]", proxied.driver_connection)
            proxied.detach()  # from here on the pool does not count it, and closing closes it
            connection.autocommit = True
            connection.execute(f"LISTEN {CHANNEL}")
            self._writer.refresh_all()
            self.connected.set()
            for either in (connection.fileno(), self._woken):
                selector.register(either, selectors.EVENT_READ)
            while not self._stop.is_set():
                for notice in connection.notifies(timeout=0):
                    replica, _, project = notice.payload.partition(" ")
                    if replica != self._replica:
                        self._writer.refresh(project)
                selector.select(_LOOK)
