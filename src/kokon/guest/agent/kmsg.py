"""Watching the kernel's log for a block of an encrypted or verified disk that does not authenticate."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

LOG = Path("/dev/kmsg")
_FACILITY_KERNEL = 8  # below: facility 0, which no process can forge
_REPORT = re.compile(rb"[^\n]{0,64}\bcrypt: ([a-z0-9-]{1,32}): INTEGRITY AEAD ERROR")
_VERITY = re.compile(rb"[^\n]{0,64}\bverity: ([0-9]{1,4}:[0-9]{1,8}): (?:data|metadata) block [0-9]+ is corrupted")


def corrupted_device(record: bytes) -> str | None:
    """The device below dm-crypt (`dm-2`) or below dm-verity (`253:2`) if a /dev/kmsg record
    (Documentation/ABI/testing/dev-kmsg) is its report of a block that somebody changed."""
    head, _, text = record.partition(b";")
    priority = head.split(b",", 1)[0]
    match = _REPORT.match(text) or _VERITY.match(text)
    if match is None or not priority.isdigit() or int(priority) >= _FACILITY_KERNEL:
        return None
    return match[1].decode()


def open_log(log: Path = LOG, *, waiting: bool = True) -> int:
    """A descriptor that reads what the kernel said, from the start; if not `waiting`, only what it has said already.

    Raises `OSError`.
    """
    return os.open(log, os.O_RDONLY | os.O_CLOEXEC | (0 if waiting else os.O_NONBLOCK))


def watch(descriptor: int, report: Callable[[str], None]) -> None:
    """Read records from an open /dev/kmsg until the first report of corruption; then call `report` with the device and
    end."""
    while True:
        try:
            record = os.read(descriptor, 8192)
        except BrokenPipeError:
            continue  # records were overwritten before they were read: go on with the next
        except OSError:
            return
        if not record:
            return
        device = corrupted_device(record)
        if device is not None:
            report(device)
            return


def already_reported(log: Path = LOG) -> str | None:
    """The device that the first report of corruption so far is about; None also where the log cannot be read."""
    devices: list[str] = []
    try:
        descriptor = open_log(log, waiting=False)
    except OSError:
        return None
    try:
        watch(descriptor, devices.append)
    finally:
        os.close(descriptor)
    return devices[0] if devices else None
