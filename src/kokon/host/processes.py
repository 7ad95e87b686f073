"""Processes that outlive us, known by process id and start time, so that a reused id is never taken for them."""

from __future__ import annotations

import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this boot: id and start time in clock ticks since boot (proc(5), field 22 of stat)."""

    pid: int
    started: int


def boot_id() -> str:
    """The random name of this boot of the machine; empty if the kernel does not tell."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def find_process(pid: int) -> Process | None:
    """The process `pid` if it runs (a zombie does not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        # The program's name, in parentheses, may itself hold blanks and parentheses.
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else Process(pid, int(fields[19]))
    except (OSError, IndexError, ValueError):
        return None


def is_running(process: Process | None) -> bool:
    """Whether exactly this process still runs."""
    return process is not None and find_process(process.pid) == process


def kill(process: Process, signal_number: int = signal.SIGKILL) -> bool:
    """Signal exactly this process; False if it is gone already."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if not is_running(process):
            return False
        signal.pidfd_send_signal(handle, signal_number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def wait_gone(process: Process, timeout: float) -> bool:
    """Wait up to `timeout` seconds for `process` to end, child of ours or not; whether it did."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return True
    try:
        if is_running(process):
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            poll.poll(max(0, int(timeout * 1000)))
        return not is_running(process)
    finally:
        os.close(handle)
