"""Records network traffic as a cloud's tap would: all of the loopback interface (needs root), or one connection."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

ETH_P_ALL = 3
BUFFER = 64 << 20
SO_RCVBUFFORCE = 33
SOL_PACKET = 263
PACKET_STATISTICS = 6


class Capture:
    """Writes all frames of the loopback interface to a file from `start` to `stop`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.possible = False
        self.lost = 0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, where this process may; `possible` says whether."""
        try:
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        except PermissionError:
            return
        with contextlib.suppress(OSError):
            tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        tap.bind(("lo", 0))
        tap.settimeout(0.2)
        self.possible = True
        self._thread = threading.Thread(target=self._record, args=(tap,), daemon=True)
        self._thread.start()

    def _record(self, tap: socket.socket) -> None:
        with tap, self.path.open("wb") as file:
            while True:
                try:
                    file.write(tap.recv(1 << 17))
                except TimeoutError:
                    if self._done.is_set():
                        break
            self.lost = struct.unpack("II", tap.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]

    def stop(self) -> None:
        """Wait until the interface has been quiet for a moment, and close the file."""
        self._done.set()
        if self._thread is not None:
            self._thread.join(30)


@contextlib.contextmanager
def loopback(path: Path) -> Iterator[Capture]:
    """A capture that runs while the context lasts, or until it is stopped."""
    capture = Capture(path)
    capture.start()
    try:
        yield capture
    finally:
        capture.stop()


class Relay:
    """Forwards TCP connections to a port of this machine and writes all that passes to `path`."""

    def __init__(self, target: int, path: Path) -> None:
        self._target = target
        self._file = path.open("wb", buffering=0)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._server.accept()[0]
                server = socket.create_connection(("127.0.0.1", self._target))
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._file.write(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Take no more connections."""
        self._server.close()
