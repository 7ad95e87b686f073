"""A pace that all processes of this user keep together: AMD's key service wants about one request in ten seconds.

One small file holds the time at which the next request may be sent. Whoever wants to send one takes that time for
himself, moves it on under a lock, and then waits without the lock: first come, first served.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kokon.endorsements.locks import locked
from kokon.errors import UnreachableError

INTERVAL = 10.0
"""Seconds between two requests to AMD's service (facts: about one VCEK in 10 s and address, then status 429)."""

PATIENCE = 120.0
"""Seconds that a request may have to wait for its turn."""

LONGEST = 600.0
"""Seconds for which a service that wants to be left alone is left alone at most."""

_LOCK_PATIENCE = 5.0


class Limiter:
    """Spaces requests by `interval` seconds across processes that use the same `path`; `clock` is the time of day.

    `waiting` is told how long a wait of more than a second will be. Raises `UnreachableError`
    (`endorsement-rate-limited`) instead of waiting longer than `patience`.
    """

    def __init__(
        self,
        path: Path,
        interval: float = INTERVAL,
        *,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        waiting: Callable[[float], None] | None = None,
    ) -> None:
        self._path = path
        self._interval = interval
        self._patience = patience
        self._clock = clock
        self._sleep = sleep
        self._waiting = waiting
        self._own = 0.0
        self._threads = threading.Lock()

    def enter(self) -> None:
        """Return when the next request may be sent."""
        with self._threads, locked(self._lock, patience=_LOCK_PATIENCE):
            now = self._clock()
            turn = max(now, self._next(now))
            if turn - now > self._patience:
                raise UnreachableError(
                    "endorsement-rate-limited",
                    "too many requests to the vendor's service are waiting for their turn",
                    expected=f"<= {self._patience:.0f} s",
                    found=f"{turn - now:.0f} s",
                    hint="try again later; what was fetched once is kept",
                )
            self._write(turn + self._interval)
        if turn - now > 1 and self._waiting is not None:
            self._waiting(turn - now)
        if turn > now:
            self._sleep(turn - now)

    def refused(self, seconds: float) -> None:
        """Nobody sends anything for so many seconds."""
        with self._threads, locked(self._lock, patience=_LOCK_PATIENCE):
            now = self._clock()
            self._write(max(self._next(now), now + min(seconds, LONGEST)))

    @property
    def _lock(self) -> Path:
        return self._path.with_suffix(".lock")

    def _next(self, now: float) -> float:
        """When the next request may be sent, as far as the file makes sense: a clock that was set back, or rubbish,
        must not stop everything for years."""
        try:
            kept = float(self._path.read_text("ascii"))
        except (OSError, ValueError):
            kept = 0.0
        kept = max(kept, self._own)
        return kept if kept <= now + self._patience + self._interval + LONGEST else now

    def _write(self, moment: float) -> None:
        self._own = moment
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            temporary.write_text(f"{moment:.3f}", "ascii")
            temporary.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
