"""The application's network: a namespace with nothing in it but loopback.

The host cannot reach the application and the application reaches nobody; the agent's attested TLS server is the only
way in. Sockets belong to the namespace of the thread that makes them, so one thread lives there and makes them.
"""

from __future__ import annotations

import os
import socket
import threading
from queue import SimpleQueue

from kokon.errors import InternalError
from kokon.guest.agent import kernel
from kokon.guest.agent.network import bring_up

_Answer = SimpleQueue[socket.socket | None]


class AppNetwork:
    """Makes the namespace. `descriptor` refers to it for as long as the agent lives."""

    def __init__(self) -> None:
        self._requests: SimpleQueue[_Answer] = SimpleQueue()
        self._ready = threading.Event()
        self._descriptor = -1
        threading.Thread(target=self._live, name="netns", daemon=True).start()
        if not self._ready.wait(10) or self._descriptor < 0:
            raise InternalError("network-namespace", "cannot make a network namespace")

    @property
    def descriptor(self) -> int:
        """Open descriptor of the namespace."""
        return self._descriptor

    def _live(self) -> None:
        try:
            kernel.unshare(kernel.CLONE_NEWNET)
            with self._socket() as sock:
                bring_up(sock, "lo")
            self._descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            self._ready.set()
        while True:
            answer = self._requests.get()
            try:
                answer.put(self._socket())
            except OSError:
                answer.put(None)

    @staticmethod
    def _socket() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)

    def connect(self, port: int, timeout: float = 10.0) -> socket.socket:
        """A blocking TCP connection to the application's port. Raises `OSError`."""
        answer: _Answer = SimpleQueue()
        self._requests.put(answer)
        sock = answer.get()
        if sock is None:
            raise OSError("no socket")
        try:
            sock.settimeout(timeout)
            sock.connect(("127.0.0.1", port))
            sock.settimeout(None)
        except OSError:
            sock.close()
            raise
        return sock
