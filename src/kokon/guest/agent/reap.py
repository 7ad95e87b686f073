"""PID 1's children: starts programs, collects every exit status, buries orphans.

One thread waits for any child; whoever wants a status asks here, since a second waiter would race for it.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

_STRANGERS = 256
_PYTHON_IGNORES = (13, 25)  # SIGPIPE, SIGXFSZ
ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
    "DM_DISABLE_UDEV": "1",
}


class Children:
    """Starts and reaps processes. A status is what waitpid(2) gave: see `exit_status`."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._known: set[int] = set()
        self._statuses: dict[int, int] = {}
        self._strangers: OrderedDict[int, int] = OrderedDict()
        self._expected = False
        threading.Thread(target=self._reap, name="reap", daemon=True).start()

    def spawn(
        self,
        arguments: Sequence[str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> int:
        """Start a program with a fixed environment; unset streams are /dev/null. The pid. Raises `OSError`."""
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = []
        for target, source in enumerate((stdin, stdout, stderr)):
            if source is None:
                actions.append((os.POSIX_SPAWN_OPEN, target, "/dev/null", os.O_RDWR, 0))
            else:
                actions.append((os.POSIX_SPAWN_DUP2, source, target))
        with self._condition:
            pid = os.posix_spawnp(
                arguments[0],
                list(arguments),
                dict(ENVIRONMENT),
                file_actions=actions,
                setsid=True,
                setsigdef=_PYTHON_IGNORES,
            )
            self._known.add(pid)
            self._wake()
        return pid

    def adopt(self, pid: int) -> None:
        """Keep the status of a process that a child of ours left to us."""
        with self._condition:
            self._known.add(pid)
            if pid in self._strangers:
                self._statuses[pid] = self._strangers.pop(pid)
            self._wake()

    def wait(self, pid: int, timeout: float | None = None) -> int | None:
        """The wait status of a known process; None if it still runs after `timeout` seconds."""
        with self._condition:
            if not self._condition.wait_for(lambda: pid in self._statuses, timeout):
                return None
            self._known.discard(pid)
            return self._statuses.pop(pid)

    def run(self, arguments: Sequence[str], data: bytes = b"") -> int:
        """Start a program with `data` (at most 4 KiB) on its standard input and wait. The exit status."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            os.write(writing, data)
            os.close(writing)
            pid = self.spawn(arguments, stdin=reading)
        finally:
            os.close(reading)
        status = self.wait(pid)
        return 255 if status is None else exit_status(status)

    def _wake(self) -> None:
        self._expected = True
        self._condition.notify_all()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                with self._condition:
                    self._condition.wait_for(lambda: self._expected)
                    self._expected = False
                continue
            with self._condition:
                self._record(pid, status)

    def _record(self, pid: int, status: int) -> None:
        if pid in self._known:
            self._statuses[pid] = status
            self._condition.notify_all()
            return
        self._strangers[pid] = status
        if len(self._strangers) > _STRANGERS:
            self._strangers.popitem(last=False)


def exit_status(status: int) -> int:
    """A wait status as shells show it: the exit code, or 128 and the signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
