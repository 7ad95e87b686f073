"""What a work comes to, told to an event loop: a tenth of the time that a future of threads takes on its way there."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future

    from kokon.provisioning.database.values import Receipt

    Outcome = Receipt | BaseException
    _Told = tuple[asyncio.Future[Receipt], Outcome]


class Awaited:
    """The outcome of one work, `future` being what a coroutine awaits. Made in the loop's thread, told by the writer's.

    A work whose coroutine was given up before its batch began is not done.
    """

    __slots__ = ("_done", "_loop", "future")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._done = False
        self.future: asyncio.Future[Receipt] = self._loop.create_future()

    def set_running_or_notify_cancel(self) -> bool:
        """Whether somebody waits still."""
        return not self.future.cancelled()

    def done(self) -> bool:
        """Whether the outcome is known."""
        return self._done

    def tell_later(self, outcome: Outcome) -> tuple[asyncio.AbstractEventLoop, _Told]:
        """Know the outcome; the loop is to be told of it."""
        self._done = True
        return self._loop, (self.future, outcome)


def tell_all(outcomes: Iterable[tuple[Future[Receipt] | Awaited, Outcome]]) -> None:
    """Tell all who wait what became of their works: a receipt, and it is durable, or an error, and it was not done or
    it is not known whether it was. A loop is woken once for all."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Told]] = {}
    for waiting, outcome in outcomes:
        if isinstance(waiting, Awaited):
            loop, told = waiting.tell_later(outcome)
            by_loop.setdefault(loop, []).append(told)
        elif isinstance(outcome, BaseException):
            waiting.set_exception(outcome)
        else:
            waiting.set_result(outcome)
    for loop, all_told in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            loop.call_soon_threadsafe(_settle, all_told)


def _settle(all_told: Iterable[_Told]) -> None:
    for future, outcome in all_told:
        if future.done():
            continue
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
