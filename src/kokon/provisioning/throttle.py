"""How much those who have proved nothing may make the log grow: a token bucket per kind of refusal. Pure.

What is not written one by one is counted, and the counts are written.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta

BURST = 64
"""Entries of one event and code that are written at once."""
REFILL = timedelta(minutes=5)
"""How long it takes until one more may be written."""


@dataclass(frozen=True, slots=True)
class Suppressed:
    """What was not written one by one: event, code, how many, and the time of the first."""

    event: str
    code: str
    count: int
    since: datetime


@dataclass(slots=True)
class _Bucket:
    left: float
    at: datetime
    suppressed: int = 0
    since: datetime | None = None


class Throttle:
    """One bucket for each pair of event and code; both are words of ours, so there are only so many."""

    def __init__(self, burst: int = BURST, refill: timedelta = REFILL) -> None:
        self._burst = burst
        self._refill = refill
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._lock = threading.Lock()

    def admit(self, event: str, code: str, now: datetime) -> bool:
        """Whether an entry may be written; if not, it is counted."""
        with self._lock:
            bucket = self._buckets.setdefault((event, code), _Bucket(self._burst, now))
            elapsed = max(now - bucket.at, timedelta())
            bucket.left = min(self._burst, bucket.left + elapsed / self._refill)
            bucket.at = now
            if bucket.left >= 1:
                bucket.left -= 1
                return True
            bucket.suppressed += 1
            bucket.since = bucket.since or now
            return False

    def drain(self, event: str | None = None, code: str | None = None) -> list[Suppressed]:
        """The counts (of one event and code if given), which start anew: the caller writes them."""
        taken = []
        with self._lock:
            for key, bucket in self._buckets.items():
                if bucket.since is not None and (event is None or key == (event, code)):
                    taken.append(Suppressed(*key, bucket.suppressed, bucket.since))
                    bucket.suppressed, bucket.since = 0, None
        return taken
