"""Locks between processes and between threads, as files. The kernel frees them when their holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

POLL = 0.02
"""Seconds between two looks at a lock that somebody holds."""


@contextlib.contextmanager
def locked(
    path: Path,
    *,
    patience: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[bool]:
    """Hold the lock of the file `path`, made if need be; yields whether it was got within `patience` seconds.

    A holder that hangs must not stop everybody else: what is done under these locks is right without them too, only
    not as cheap. Where the file cannot be made there is no lock either.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        yield False
        return
    try:
        yield _acquire(descriptor, clock() + patience, clock, sleep)
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, deadline: float, clock: Callable[[], float], sleep: Callable[[float], None]) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if clock() >= deadline:
                return False
            sleep(POLL)
        except OSError:
            return False
        else:
            return True
