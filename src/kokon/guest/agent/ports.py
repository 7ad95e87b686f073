"""The guest's virtio-serial ports: named byte streams to the host. Every byte read from one is hostile input."""

from __future__ import annotations

import os
from pathlib import Path

STATUS, CONTROL = "kokon.status", "kokon.control"
_CLASS = Path("/sys/class/virtio-ports")


def find_port(name: str, root: Path = _CLASS, devices: Path = Path("/dev")) -> Path | None:
    """The device of the port that the host gave this name, or None."""
    try:
        entries = sorted(root.iterdir())
    except OSError:
        return None
    for entry in entries[:64]:
        try:
            with (entry / "name").open("rb") as file:
                found = file.read(128).strip()
        except OSError:
            continue
        if found == name.encode():
            return devices / entry.name
    return None


def open_port(name: str, flags: int) -> int | None:
    """A descriptor of the named port, or None where the host attached none."""
    path = find_port(name)
    if path is None:
        return None
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError:
        return None
