"""Staying with a container that was launched: until it serves, or until it ends; and stopping it on request."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from kokon.errors import KokonError
from kokon.host.control import quit_machine
from kokon.host.lifecycle import STOP_GRACE, follow, settle, stop
from kokon.host.processes import kill
from kokon.host.state import Container, Directory, Record, inspect_container
from kokon.host.status import Status


class Stopper:
    """Turns signals to this process into a stop of the container: the first asks, the second ends it at once."""

    def __init__(self, home: Path, name: str, grace: float = STOP_GRACE) -> None:
        self._home = home
        self._directory = Directory(home, name)
        self._grace = grace
        self._thread: threading.Thread | None = None
        self._forced = False
        self._error: KokonError | None = None
        self.signals: list[int] = []

    def request(self, signal_number: int) -> None:
        """Ask for a stop with this signal; safe in a signal handler."""
        self.signals.append(signal_number)

    def tick(self) -> None:
        """Act on what was requested since; called often."""
        if self.signals and self._thread is None:
            self._thread = threading.Thread(target=self._stop, daemon=True)
            self._thread.start()
        elif len(self.signals) > 1 and not self._forced:
            self._forced = True
            machine = inspect_container(self._directory).machine
            if machine is not None and not quit_machine(self._directory / "qmp.sock"):
                kill(machine)

    def _stop(self) -> None:
        try:
            stop(self._home, self._directory.name, self._grace, self.signals[0])
        except KokonError as error:
            self._error = error

    def finish(self) -> None:
        """Wait for a stop under way and raise its error, if any."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error


def attend(
    home: Path,
    record: Record,
    stopper: Stopper,
    on_status: Callable[[Status], None],
    *,
    until_serving: bool = False,
) -> Container:
    """Follow the container of `record` to its end, or only until it serves; then nothing of a failed one runs any more.

    Raises `HostError` (`guest-silent`) after ending a guest that says nothing.
    """
    directory = Directory(home, record.name)
    ended = True
    try:
        for status in follow(directory, record.machine, tick=stopper.tick):
            on_status(status)
            if until_serving and status.phase == "serving":
                ended = False
                return inspect_container(directory)
        stopper.finish()
        ended = False
        return settle(home, record.name)
    finally:
        if ended:
            settle(home, record.name, patience=0)
