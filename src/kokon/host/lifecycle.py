"""What happens to a container after its launch: following it, stopping it, removing it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kokon.errors import HostError, KokonError, UsageError
from kokon.host.control import quit_machine, stop_request
from kokon.host.processes import Process, is_running, kill, wait_gone
from kokon.host.state import (
    STOPPED,
    Container,
    Directory,
    delete_directory,
    find_processor,
    inspect_container,
    locked,
)
from kokon.host.status import Status, StatusReader, guest_error

FIRST_TIMEOUT = 180.0
"""Seconds until the guest must have said anything: its boot takes about 5 on a slow machine."""

IDLE_TIMEOUT = 1800.0
"""Seconds between two steps of a start: pulling and unpacking a large image are one step each."""

STOP_GRACE = 10.0
_TICK = 0.1


def follow(
    directory: Directory,
    machine: Process | None,
    *,
    tick: Callable[[], None] = lambda: None,
    first: float = FIRST_TIMEOUT,
    idle: float = IDLE_TIMEOUT,
) -> Iterator[Status]:
    """What the guest says, as it comes, until a final status or until QEMU ends; `tick` is called ten times a second.

    Raises `HostError` (`guest-silent`) if nothing comes for `first` seconds, or for `idle` seconds before `serving`.
    """
    reader = StatusReader(directory.status)
    latest, since = None, time.monotonic()
    while True:
        tick()
        gone = machine is None or wait_gone(machine, _TICK)
        for latest in reader.read():
            since = time.monotonic()
            yield latest
            if latest.final:
                return
        if gone:
            return
        if latest is None or latest.phase != "serving":
            limit = first if latest is None else idle
            if time.monotonic() - since > limit:
                raise HostError(
                    "guest-silent",
                    "the guest says nothing",
                    expected=f"a step within {limit:.0f} s",
                    found=f"last step: {latest.phase if latest else 'none'}",
                    hint=f"its kernel's messages are in {directory / 'console.log'}",
                )


def failure(directory: Directory, container: Container) -> KokonError:
    """Why `container` failed, as an error: the guest's own reason, or that it vanished."""
    if container.status is not None and container.status.phase == "failed":
        return guest_error(container.status)
    return HostError(
        "guest-vanished",
        container.message or "the virtual machine ended without a word",
        found=f"last step: {container.status.phase if container.status else 'none'}",
        hint=f"its kernel's messages are in {directory / 'console.log'}",
    )


def settle(home: Path, name: str, patience: float = 5.0) -> Container:
    """The container after its final status: its virtual machine gets `patience` seconds to power off, then is ended."""
    directory = Directory(home, name)
    container = inspect_container(directory)
    if container.machine is not None:
        wait_gone(container.machine, patience)
    with locked(directory):
        _end(directory, inspect_container(directory))
        return inspect_container(directory)


def stop(home: Path, name: str, grace: float = STOP_GRACE, signal_number: int = signal.SIGTERM) -> Container:
    """Stop a container: `signal_number` to its application, after `grace` seconds the end of its virtual machine.

    Stopping one that ended already changes nothing. Raises `UsageError` (`container-unknown`) and `HostError`
    (`container-busy`, `container-not-stopped`).
    """
    directory = Directory(home, name)
    inspect_container(directory)
    with locked(directory):
        return _stop(directory, grace, signal_number)


def _stop(directory: Directory, grace: float, signal_number: int) -> Container:
    container = inspect_container(directory)
    if container.machine is not None:
        (directory / STOPPED).touch(mode=0o600)
        if grace > 0:
            with stop_request(directory / "control.sock", signal_number) as asked:
                if asked:
                    wait_gone(container.machine, grace)
    _end(directory, container)
    return inspect_container(directory)


def _end(directory: Directory, container: Container) -> None:
    """End QEMU and the security processor, first politely. The lock is held."""
    machine = container.machine
    if machine is not None and is_running(machine):
        quit_machine(directory / "qmp.sock")
        if not wait_gone(machine, 2.0):
            kill(machine)
            if not wait_gone(machine, 5.0):
                raise HostError("container-not-stopped", f"process {machine.pid} does not end even when killed")
    processor = find_processor(container.record)
    if processor is not None and not wait_gone(processor, 3.0):
        kill(processor)


def remove(home: Path, name: str, *, force: bool = False) -> None:
    """Delete what is kept about an ended container; `force` ends a running one first.

    Raises `UsageError` (`container-unknown`, `container-running`) and `HostError` as `stop` does.
    """
    directory = Directory(home, name)
    inspect_container(directory)
    with locked(directory):
        container = inspect_container(directory)
        if container.alive and not force:
            raise UsageError(
                "container-running",
                f"container {name!r} is running",
                hint=f"stop it first: kokon stop {name}, or use --force",
            )
        _end(directory, container)
        delete_directory(directory)
