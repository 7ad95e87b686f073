"""Whether the server lives, and whether it can serve: `/healthz` and `/readyz`. Pure: the checks are given.

Both are answered to anybody, so a check that fails is named, and why it failed is not told here but logged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kokon.errors import KokonError

Check = Callable[[], None]
"""Returns if all is well, else raises: quickly, since everything waits for it."""
CACHE_SECONDS = 1.0
"""How long an answer stands, so that asking often costs nothing."""


@dataclass(frozen=True, slots=True)
class Health:
    """An answer: HTTP status, JSON body, and the errors by check for the log (never sent)."""

    status: int
    body: bytes
    failures: Mapping[str, str]


def alive() -> Health:
    """The process answers: an empty body, as key brokers give it."""
    return Health(200, b"", {})


def ready(checks: Mapping[str, Check]) -> Health:
    """200 if all `checks` pass, else 503; the body says `ok` or `failed` for each."""
    failures = {name: reason for name, check in checks.items() if (reason := _reason(check)) is not None}
    members = {name: "failed" if name in failures else "ok" for name in checks}
    body = json.dumps({"ready": not failures, "checks": members}).encode()
    return Health(503 if failures else 200, body, failures)


def _reason(check: Check) -> str | None:
    try:
        check()
    except KokonError as error:
        return error.code
    except Exception as error:  # noqa: BLE001 - whatever it is, the server is not ready
        return type(error).__name__
    return None


def _untold(_: Mapping[str, str]) -> None:
    pass


class Readiness:
    """`ready` of `checks`, asked at most once each `CACHE_SECONDS`; and not at all once the server is `ending`.

    `tell` is told the failures by check (codes and names of errors, for the log) when they change, {} when all is well
    again.
    """

    def __init__(self, checks: Mapping[str, Check], tell: Callable[[Mapping[str, str]], None] = _untold) -> None:
        self._checks = dict(checks)
        self._tell = tell
        self._failures: Mapping[str, str] = {}
        self._kept: tuple[float, Health] | None = None
        self.ending = False

    def __call__(self, now: float) -> Health:
        """The answer at `now`, seconds of a monotonic clock."""
        if self.ending:
            return Health(503, b'{"ready": false, "checks": {}}', {"ending": "ending"})
        if self._kept is None or not 0 <= now - self._kept[0] < CACHE_SECONDS:
            health = ready(self._checks)
            self._kept = (now, health)
            if health.failures != self._failures:
                self._failures = health.failures
                self._tell(health.failures)
        return self._kept[1]
