"""One launch as a user makes it, with the time of every step: `kokon run` until the application answered a request."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from bench.parties import Parties
from bench.setting import Setting
from kokon.channel.client import AttestedPeer
from kokon.channel.transport import AttestedTransport
from kokon.demo.services import environment, kokon_command
from kokon.errors import HostError
from kokon.host import lifecycle
from kokon.host.state import Directory, Record, read_record
from kokon.host.status import StatusReader, guest_error
from kokon.launch.image import GuestImage

SECONDS = 180
_LOOK = 0.005
_TICKS = 100  # proc(5): start times are in USER_HZ, which is 100 on x86-64


@dataclass(slots=True)
class Launched:
    """A container that serves. `seen` is when each phase was seen here, `said` when the guest said it was: seconds
    since `kokon run` was started, and since the guest's kernel began. `machine` is when QEMU was started."""

    directory: Directory
    record: Record
    client: httpx2.Client
    command: int
    machine: float
    seen: dict[str, float] = field(default_factory=dict)
    said: dict[str, float] = field(default_factory=dict)
    answered: float = 0.0

    def get(self) -> bytes:
        """One request over attested TLS."""
        return self.client.get(f"https://{self.record.publish}/").raise_for_status().content


def now() -> float:
    """Seconds on the clock that processes' start times are given in."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@contextlib.contextmanager
def launched(
    setting: Setting, people: Parties, document: Path, *, guest: GuestImage | None = None, memory: int = 384
) -> Iterator[Launched]:
    """Launch `document` and ask once; everything ends with the context. Raises `KokonError`."""
    name = f"bench-{document.stem}"
    directory = Directory(setting.home, name)
    image = (guest or setting.guest).directory
    words = [*kokon_command(), "run", str(document), "--name", name, "--publish", "127.0.0.1:0", "--guest", str(image),
             "--memory", str(memory), "--accel", setting.accelerator]  # fmt: skip
    with contextlib.ExitStack() as stack, (people.area / f"{name}.log").open("wb") as log:
        begin = now()
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(setting.home)
        )
        stack.callback(_end, setting.home, name, process)
        seen, said = _follow(directory, process, begin, Path(log.name))
        record = read_record(directory)
        if record is None or record.machine is None:
            raise HostError("bench-not-serving", "the container is gone", found=name)
        started = record.machine.started / _TICKS - begin
        url = f"https://{record.publish}"
        client = httpx2.Client(transport=AttestedTransport(AttestedPeer(url, people.trust)), timeout=60)
        stack.callback(client.close)
        run = Launched(directory, record, client, process.pid, started, seen, said)
        run.get()
        run.answered = now() - begin
        yield run


def _follow(
    directory: Directory, process: subprocess.Popen[bytes], begin: float, log: Path
) -> tuple[dict[str, float], dict[str, float]]:
    reader = StatusReader(directory.status)
    seen: dict[str, float] = {}
    said: dict[str, float] = {}
    while "serving" not in seen:
        for status in reader.read():
            if status.final:
                raise guest_error(status)
            seen[status.phase], said[status.phase] = now() - begin, status.seconds
        if process.poll() is not None or now() - begin > SECONDS:
            raise HostError("bench-not-serving", "the container does not serve", found=log.read_text()[-300:])
        time.sleep(_LOOK)
    return seen, said


def _end(home: Path, name: str, process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(HostError):
        lifecycle.stop(home, name, grace=0)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with contextlib.suppress(HostError):
        lifecycle.remove(home, name, force=True)
