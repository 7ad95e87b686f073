"""Watching the kernel's log for a volume's block that does not authenticate."""

from __future__ import annotations

import os
from collections.abc import Callable

_FACILITY_KERNEL = 8  # below: facility 0, which no process can forge
_MARK = b"INTEGRITY AEAD ERROR"


def is_corruption(record: bytes) -> bool:
    """Whether a /dev/kmsg record (Documentation/ABI/testing/dev-kmsg) is dm-crypt's report of a changed block."""
    head, _, text = record.partition(b";")
    priority = head.split(b",", 1)[0]
    return priority.isdigit() and int(priority) < _FACILITY_KERNEL and _MARK in text.split(b"\n", 1)[0]


def watch(descriptor: int, report: Callable[[], None]) -> None:
    """Read records from an open /dev/kmsg until the first report of corruption; then call `report` and end."""
    while True:
        try:
            record = os.read(descriptor, 8192)
        except BrokenPipeError:
            continue  # records were overwritten before they were read: go on with the next
        except OSError:
            return
        if not record:
            return
        if is_corruption(record):
            report()
            return
