"""Where the server waits for others: threads of their own, a few at once, that nothing else has to wait for.

Chip vendors' services may take minutes. The threads that answer requests are too few to sit there, and unlike those,
these do not keep the server from ending: they hold nothing that must be put in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable
from typing import TypeVar

AT_ONCE = 8
"""Attestations that wait for a vendor at the same time; the others wait for their turn, without a thread."""

T = TypeVar("T")


class Aside:
    """Runs functions that may take long, at most `limit` at once. For one event loop."""

    def __init__(self, limit: int = AT_ONCE) -> None:
        self._turns = asyncio.Semaphore(limit)

    async def run(self, function: Callable[[], T]) -> T:
        """What `function` gives, called in a thread. Raises what it raises."""
        async with self._turns:
            loop = asyncio.get_running_loop()
            outcome: asyncio.Future[T] = loop.create_future()
            thread = threading.Thread(target=_call, args=(function, loop, outcome), name="waiting aside", daemon=True)
            thread.start()
            return await outcome


def _call(function: Callable[[], T], loop: asyncio.AbstractEventLoop, outcome: asyncio.Future[T]) -> None:
    try:
        value = function()
    except Exception as error:  # noqa: BLE001 - handed on to whoever waits
        _tell(loop, outcome, functools.partial(outcome.set_exception, error))
    else:
        _tell(loop, outcome, functools.partial(outcome.set_result, value))


def _tell(loop: asyncio.AbstractEventLoop, outcome: asyncio.Future[T], tell: Callable[[], None]) -> None:
    def unless_given_up() -> None:
        if not outcome.done():
            tell()

    with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
        loop.call_soon_threadsafe(unless_given_up)
