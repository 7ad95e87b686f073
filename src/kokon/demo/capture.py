"""Records everything that crosses the loopback interface: what a cloud's network tap would hold. Needs root."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

ETH_P_ALL = 3
BUFFER = 64 << 20
SO_RCVBUFFORCE = 33


@contextlib.contextmanager
def loopback(path: Path) -> Iterator[bool]:
    """Write all frames of the loopback interface to `path` while the context lasts; yields whether that is possible."""
    try:
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    except PermissionError:
        yield False
        return
    with tap, path.open("wb") as file:
        with contextlib.suppress(OSError):
            tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        tap.bind(("lo", 0))
        tap.settimeout(0.2)
        done = threading.Event()

        def record() -> None:
            while True:
                try:
                    file.write(tap.recv(1 << 17))
                except TimeoutError:
                    if done.is_set():
                        return

        thread = threading.Thread(target=record, daemon=True)
        thread.start()
        try:
            yield True
        finally:
            done.set()
            thread.join(10)
