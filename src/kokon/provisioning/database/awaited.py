"""What a work comes to, told to an event loop: a tenth of the time that a future of threads takes on its way there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kokon.provisioning.database.values import Receipt


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

    def set_result(self, receipt: Receipt) -> None:
        """It is durable."""
        self._tell(receipt, None)

    def set_exception(self, error: BaseException) -> None:
        """It was not done, or it is not known whether it was."""
        self._tell(None, error)

    def _tell(self, receipt: Receipt | None, error: BaseException | None) -> None:
        self._done = True
        try:
            self._loop.call_soon_threadsafe(_settle, self.future, receipt, error)
        except RuntimeError:  # the loop has ended: nobody waits any more
            return


def _settle(future: asyncio.Future[Receipt], receipt: Receipt | None, error: BaseException | None) -> None:
    if future.done():
        return
    if receipt is not None:
        future.set_result(receipt)
    elif error is not None:
        future.set_exception(error)
