"""The application's output, kept in memory and read only over the attested channel.

A ring of 1 MiB: the oldest bytes make room for new ones. Nothing of it ever reaches the host in clear.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator

RING_SIZE = 1 << 20
_CHUNK = 64 << 10
_HEARTBEAT = 10.0


class LogRing:
    """Collects bytes from several writers; any number of readers follow, each at its own pace."""

    def __init__(self, size: int = RING_SIZE) -> None:
        self._size = size
        self._chunks: deque[bytes] = deque()
        self._start = 0
        self._end = 0
        self._closed = False
        self._condition = threading.Condition()

    def append(self, data: bytes) -> None:
        """Add output, at most the ring's size of it is kept."""
        with self._condition:
            kept = data[-self._size :]
            self._chunks.append(kept)
            self._end += len(kept)
            while self._end - self._start > self._size:
                self._drop(self._end - self._start - self._size)
            self._condition.notify_all()

    def _drop(self, excess: int) -> None:
        first = self._chunks.popleft()
        if len(first) > excess:
            self._chunks.appendleft(first[excess:])
            self._start += excess
        else:
            self._start += len(first)

    def close(self) -> None:
        """No more output will come: followers end."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def read(self, *, follow: bool = False) -> Iterator[bytes]:
        """What is kept, oldest first, in pieces of at most 64 KiB; with `follow` also what comes, until closed.

        A reader slower than the application misses what the ring has dropped. While nothing comes, a follower gets an
        empty piece every few seconds, so that it can find out that nobody listens any more.
        """
        position = 0
        while True:
            with self._condition:
                if follow and not self._closed and position >= self._end:
                    self._condition.wait(_HEARTBEAT)
                position, piece = self._piece(max(position, self._start))
                ended = not piece and (self._closed or not follow)
            if ended:
                return
            yield piece

    def _piece(self, position: int) -> tuple[int, bytes]:
        begin = self._start
        for chunk in self._chunks:
            if position < begin + len(chunk):
                piece = chunk[position - begin : position - begin + _CHUNK]
                return position + len(piece), piece
            begin += len(chunk)
        return position, b""


class Collector:
    """Moves what the application writes to its two pipes into a ring, until both are closed."""

    def __init__(self, ring: LogRing) -> None:
        self._ring = ring
        self._open = 0
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def collect(self, *descriptors: int) -> None:
        """Start reading. Takes the descriptors over."""
        self._open = len(descriptors)
        for descriptor in descriptors:
            thread = threading.Thread(target=self._pump, args=(descriptor,), name="log", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _pump(self, descriptor: int) -> None:
        try:
            while data := os.read(descriptor, _CHUNK):
                self._ring.append(data)
        finally:
            os.close(descriptor)
            with self._lock:
                self._open -= 1
                if self._open == 0:
                    self._ring.close()

    def finish(self, seconds: float) -> None:
        """Wait until everything has been read, at most `seconds` for each pipe."""
        for thread in self._threads:
            thread.join(seconds)
