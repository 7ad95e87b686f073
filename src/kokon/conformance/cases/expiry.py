"""Cases of time: what has expired opens nothing. They wait, if they may (`--patience`)."""

from __future__ import annotations

from typing import Any, Final

from kokon.conformance.case import Cases, Level, Notes, Skip
from kokon.conformance.world import World

CASES: Final = Cases()
MARGIN: Final = 2.0
"""Seconds to wait longer than the server says."""


def _wait(world: World, seconds: float, what: str) -> None:
    """Wait for something that has `seconds` to go. Raises `Skip` if that is longer than the run's patience."""
    left = seconds + MARGIN
    if left > world.options.patience:
        raise Skip(f"{what} lasts {left:.0f} s longer: wait for it with --patience")
    if left > 0:
        world.client.budget.wait(left, extend=True)


@CASES.add("session-expired", Level.MUST, "Session", "a session that has expired gets nothing (waits, with --patience)")
def session(world: World, notes: Notes) -> None:
    path = world.readable().path
    attested = world.attested()
    _wait(world, (attested.session.ends - world.now()).total_seconds(), "the session")
    notes.refused(world.get(path, cookie=attested.session.cookie), "an expired session", 401)


@CASES.add(
    "token-expired", Level.MUST, "RFC 7519 4.1.4", "a token that has expired gets nothing (waits, with --patience)"
)
def token(world: World, notes: Notes) -> None:
    path = world.readable().path
    expires: Any = world.token().claims.get("exp")
    if isinstance(expires, bool) or not isinstance(expires, int | float):
        raise Skip("the token has no exp")
    _wait(world, expires - world.now().timestamp(), "the token")
    notes.refused(world.get(path, bearer=world.attested().token), "an expired token", 401)
