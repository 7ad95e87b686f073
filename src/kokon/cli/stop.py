"""`kokon stop` and `kokon rm`: ending a container, and deleting what is kept about it."""

from __future__ import annotations

from signal import Signals

from kokon.cli.output import emit, kokon_home
from kokon.errors import UsageError
from kokon.host.lifecycle import STOP_GRACE
from kokon.host.lifecycle import remove as remove_container
from kokon.host.lifecycle import stop as stop_container

SIGNALS = tuple(Signals(number) for number in (15, 2, 1, 3, 10, 12, 9))


def stop(name: str, /, *, grace: float = STOP_GRACE, signal: str = "TERM", json: bool = False) -> None:
    """Stop a container: its application gets a signal, and after a while its virtual machine is ended.

    Example: `kokon stop clinic --grace 30`

    Parameters
    ----------
    name
        Name of the container.
    grace
        Seconds for the application to end by itself.
    signal
        Signal that the application gets: TERM, INT, HUP, QUIT, USR1, USR2 or KILL.
    json
        Print JSON.
    """
    if not 0 <= grace <= 3600:
        raise UsageError("grace-range", "the grace period is out of range", expected="0..3600 seconds", found=grace)
    container = stop_container(kokon_home(), name, grace, parse_signal(signal))
    reason = container.code if container.exit is None else f"status {container.exit}"
    emit(container.as_dict(), f"{name} is stopped ({container.state}, {reason})", json)


def rm(name: str, /, *, force: bool = False, json: bool = False) -> None:
    """Remove an ended container: its state, logs and scratch disk. Files of volumes stay.

    Example: `kokon rm clinic`

    Parameters
    ----------
    name
        Name of the container.
    force
        End it first if it runs.
    json
        Print JSON.
    """
    remove_container(kokon_home(), name, force=force)
    emit({"name": name, "removed": True}, f"{name} is removed", json)


def parse_signal(text: str) -> int:
    """Number of a signal that a guest accepts, from `TERM`, `SIGTERM` or `15`.

    Raises `UsageError` (`signal-unknown`).
    """
    name = text.upper().removeprefix("SIG")
    numbers = {signal.name.removeprefix("SIG"): signal.value for signal in SIGNALS}
    number = numbers.get(name, int(name) if name.isdecimal() and name.isascii() else 0)
    if number not in numbers.values():
        raise UsageError(
            "signal-unknown", "not a signal that a guest passes on", expected=", ".join(numbers), found=text
        )
    return number
