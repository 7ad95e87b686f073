"""Work that runs beside the main thread, with its result or error handed over when it is wanted.

`concurrent.futures` would do the same but costs a tenth of a second to import in the guest.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from kokon.errors import InternalError, KokonError

T = TypeVar("T")


class Task(Generic[T]):
    """Runs `work` in a thread at once. `result` waits for it."""

    def __init__(self, work: Callable[[], T], name: str) -> None:
        self._work = work
        self._results: list[T] = []
        self._error: KokonError | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except KokonError as error:
            self._error = error

    def result(self) -> T:
        """What `work` returned. Raises its `KokonError`; any other exception becomes `InternalError`."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        if not self._results:
            raise InternalError("internal-error", "a background step ended early")
        return self._results[0]
