"""One policy worker as the server sees it: started, asked, watched while it computes, killed when it must be.

The kernel limits the worker's CPU time and what it can reach (`confine`). It cannot limit the engine's memory, which
reserves 256 GiB of address space when it starts: so whoever waits for an answer looks at the worker's resident size a
hundred times a second. Not for several threads at once.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import kokon
from kokon.errors import HostError
from kokon.provisioning.rego.frame import HEAD, FrameError, body_size, pack, unpack
from kokon.provisioning.rego.worker import OUT_OF_MEMORY

LOOK_SECONDS: Final = 0.01
END_SECONDS: Final = 5.0
CHUNK: Final = 1 << 16
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_MAIN: Final = "import sys; sys.path += sys.argv[3:]; from kokon.provisioning.rego.worker import main; main()"

Reason = Literal["crashed", "timeout", "memory", "nonsense"]


class WorkerLost(Exception):  # noqa: N818 - what happened, which `engine` makes an error of
    """A worker that is gone, killed or dead, and why; `found` is for people."""

    def __init__(self, reason: Reason, found: str) -> None:
        super().__init__(found)
        self.reason: Reason = reason
        self.found = found


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """What one worker may take. Bytes and seconds; `cpu_seconds` are whole ones, and one more may pass."""

    memory: int = 256 << 20
    cpu_seconds: int = 2
    wall_seconds: float = 10.0
    start_seconds: float = 30.0
    request: int = 8 << 20
    answer: int = 256 << 10


class WorkerProcess:
    """A running worker, which only sees policies of one `tenant`.

    Raises `HostError` (`policy-engine-missing`, `policy-engine-failed`) if it cannot be had.
    """

    def __init__(self, limits: WorkerLimits, tenant: str = "") -> None:
        self.tenant = tenant
        self.evaluations = 0
        self._limits = limits
        self._process = _start(limits)
        self._poll = select.poll()
        os.set_blocking(self._requests, False)
        os.set_blocking(self._answers, False)
        self._poll.register(self._answers, select.POLLIN)
        self.filtered = self._greet()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """False once it has ended."""
        return self._process.poll() is None

    @property
    def quiet(self) -> bool:
        """True if it waits for a request: it is alive and has said nothing that it was not asked."""
        return self.alive and not self._poll.poll(0)

    def resident(self) -> int:
        """Bytes of memory that it has; 0 once it has ended."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE
        except (OSError, IndexError, ValueError):
            return 0

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The worker's answer. Raises `WorkerLost`, after which the process is gone."""
        self.evaluations += 1
        message = pack({**request, "seconds": self._limits.cpu_seconds})
        try:
            return self._exchange(message, self._limits.wall_seconds)
        except FrameError as error:
            self.kill()
            raise WorkerLost("nonsense", f"an answer that is none: {error}") from error
        except WorkerLost:
            self.kill()
            raise

    def end(self) -> None:
        """End it at once. May be called while another thread is asking, which then notices."""
        with contextlib.suppress(OSError):
            self._process.kill()

    def kill(self) -> None:
        """End it at once and collect what is left."""
        self.end()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)

    @property
    def _requests(self) -> int:
        return self._process.stdin.fileno() if self._process.stdin is not None else -1

    @property
    def _answers(self) -> int:
        return self._process.stdout.fileno() if self._process.stdout is not None else -1

    def _greet(self) -> bool:
        """Wait until it is ready; whether system calls are filtered."""
        try:
            greeting = self._exchange(b"", self._limits.start_seconds)
            if "ready" in greeting:
                return greeting.get("filtered") is True
            found = str(greeting.get("failed"))
        except (WorkerLost, FrameError) as error:
            found = str(error)
        self.kill()
        raise HostError(
            "policy-engine-failed",
            "the process that evaluates policies does not start",
            found=found,
            hint="Rego policies need Linux, /proc and the package regopy",
        )

    def _exchange(self, message: bytes, seconds: float) -> dict[str, Any]:
        """Send `message`, if any, and read one answer. Raises `WorkerLost` and `FrameError`."""
        left, received = memoryview(message), bytearray()
        deadline = time.monotonic() + seconds
        look = time.monotonic() + LOOK_SECONDS
        if left:
            self._poll.register(self._requests, select.POLLOUT)
        while True:
            ready = self._poll.poll(LOOK_SECONDS * 1000)
            now = time.monotonic()
            if now >= look:
                self._look(now >= deadline, seconds)
                look = now + LOOK_SECONDS
            for descriptor, _event in ready:
                if descriptor == self._answers:
                    self._receive(received)
                else:
                    left = self._send(left)
            size = body_size(received, self._limits.answer)
            if size is not None and len(received) >= HEAD.size + size:
                return self._whole(received, size, unsent=bool(left))

    def _whole(self, received: bytearray, size: int, *, unsent: bool) -> dict[str, Any]:
        if len(received) != HEAD.size + size or unsent:
            raise FrameError("more than one answer")
        return unpack(received[HEAD.size :])

    def _look(self, late: bool, seconds: float) -> None:
        resident = self.resident()
        if resident > self._limits.memory:
            raise WorkerLost("memory", f"{resident >> 20} MiB")
        if late:
            raise WorkerLost("timeout", f"no answer after {seconds:g} seconds")

    def _send(self, left: memoryview) -> memoryview:
        try:
            left = left[os.write(self._requests, left[:CHUNK]) :]
        except BlockingIOError:
            return left
        except OSError:  # it has closed its end; reading tells why
            left = left[:0]
        if not left:
            self._poll.unregister(self._requests)
        return left

    def _receive(self, received: bytearray) -> None:
        try:
            part = os.read(self._answers, CHUNK)
        except BlockingIOError:
            return
        if not part:
            raise self._ended()
        received += part

    def _ended(self) -> WorkerLost:
        try:
            status = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return WorkerLost("crashed", "it closed its pipe")
        if status == -signal.SIGXCPU:
            return WorkerLost("timeout", f"more than {self._limits.cpu_seconds} seconds of CPU time")
        if status == OUT_OF_MEMORY:
            return WorkerLost("memory", "it could not get more")
        return WorkerLost("crashed", signal.Signals(-status).name if status < 0 else f"exit status {status}")


def _start(limits: WorkerLimits) -> subprocess.Popen[bytes]:
    """The process with an empty environment, nothing of this one's descriptors, and no site packages but regopy's."""
    origin = _engine()
    if origin is None:
        raise HostError(
            "policy-engine-missing",
            "the engine for Rego policies is not installed",
            expected="the Python package regopy",
            found="none",
            hint="pip install 'kokon[rego]'",
        )
    places = [str(Path(path).parent.parent) for path in (kokon.__file__, origin) if path]
    arguments = [str(limits.memory), str(limits.request), *dict.fromkeys(places)]
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", _MAIN, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise HostError(
            "policy-engine-failed",
            "the process that evaluates policies does not start",
            found=error,
        ) from error


def _engine() -> str | None:
    """Where the package regopy is, None if it cannot be imported. It is not imported here."""
    try:
        found = importlib.util.find_spec("regopy")
    except (ImportError, ValueError):
        return None
    return None if found is None else found.origin
