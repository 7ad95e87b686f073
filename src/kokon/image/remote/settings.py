"""How patient a registry's client is, and how large its pieces are."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kokon.errors import UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Patience:
    """Times in seconds, sizes in bytes.

    `attempts` at a request that fails for a reason that may pass; `backoff` before the second one, doubled each time;
    `wait_limit` is the longest wait that a registry may ask for (Retry-After). `connect` and `read` bound one step of
    the network. In each `window` at least `rate` bytes per second must come. `piece` is what an upload sends at once
    and keeps in memory, so that a cut costs no more; registries that take one piece only want it large. `jobs` blobs
    travel at once.
    """

    attempts: int = 4
    backoff: float = 0.2
    wait_limit: float = 30
    connect: float = 10
    read: float = 60
    window: float = 60
    rate: int = 1024
    piece: int = 16 * MIB
    jobs: int = 4
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def pause(self, attempt: int, asked: str | None) -> float:
        """How long to wait after attempt number `attempt` (from 1), if the registry said Retry-After: `asked`."""
        own = self.backoff * float(2 ** min(attempt - 1, 16))
        wanted = float(asked) if asked is not None and asked.isascii() and asked.isdigit() and len(asked) < 10 else own
        return min(max(own, wanted), self.wait_limit)


class Pace:
    """Refuses a peer that sends so slowly that it may as well hang: `took(n)` after every `n` bytes."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._start = patience.clock()
        self._bytes = 0

    def took(self, count: int) -> None:
        """Note `count` bytes. Raises `UnreachableError` (`registry-too-slow`)."""
        self._bytes += count
        elapsed = self._patience.clock() - self._start
        if elapsed < self._patience.window:
            return
        if self._bytes < elapsed * self._patience.rate:
            raise UnreachableError(
                "registry-too-slow",
                "the registry sends too slowly",
                expected=f">= {self._patience.rate} bytes/s",
                found=f"{self._bytes} bytes in {elapsed:.0f} s",
            )
        self._start, self._bytes = self._patience.clock(), 0
