"""Replicas of the provisioning server: real processes, each with a state directory of its own."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kokon.errors import HostError
from kokon.provisioning.client import AdminAccess, AdminClient, read_access
from kokon.provisioning.ledger.checkpoint import Checkpoint, verify_checkpoint
from kokon.provisioning.ledger.keys import VerifierKey
from kokon.provisioning.tls import client_context
from kokon.tee.simulated.keys import fingerprint, load_processor
from kokon.tee.simulated.processor import GuestContext

ROOT = Path(__file__).parents[2]
MASTER = "master.key"
START_SECONDS = 60.0
MEASUREMENT = bytes(range(48))
STRANGE = bytes(range(1, 49))
POLICY = 0x30000
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Replica:
    """A server: where its state is, how it is started, and its process while there is one."""

    state: Path
    words: tuple[str, ...]
    port: int = 0
    process: subprocess.Popen[str] | None = None
    starts: int = 0

    @property
    def clock(self) -> Path:
        """The file that moves its clock."""
        return self.state.parent / f"{self.state.name}.clock"

    @property
    def log(self) -> Path:
        """What it wrote on standard error, over all starts."""
        return self.state.parent / f"{self.state.name}.log"

    def start(self, seconds: float = START_SECONDS) -> float:
        """Start it and wait until it says that it listens; the seconds that took. Raises `HostError`."""
        begin = time.monotonic()
        if not self.clock.exists():
            self.clock.write_text("0")
        command = [sys.executable, str(ROOT / "bench" / "load" / "clocked.py"), str(self.clock), "provision", "serve"]
        command += ["--state", str(self.state), "--listen", f"127.0.0.1:{self.port}", "--json", *self.words]
        environment = {**os.environ, "KOKON_HOME": str(self.state.parent)}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        self.starts += 1
        out = self.process.stdout
        if out is None or not select.select([out], [], [], seconds)[0] or not (line := out.readline()):
            self.kill()
            raise HostError("bench-server", "a replica did not start", found=self.log.read_text()[-3000:])
        self.port = int(json.loads(line)["url"].rpartition(":")[2])
        return time.monotonic() - begin

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> int:
        """End it in order; its exit status."""
        if self.process is None:
            return 0
        self.process.terminate()
        try:
            status = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            return -9
        self.process = None
        return status

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def memory(self) -> int:
        """Resident bytes."""
        return self._status("VmRSS") << 10

    def threads(self) -> int:
        """How many threads it has."""
        return self._status("Threads")

    def descriptors(self) -> int:
        """How many descriptors it has."""
        return len(list(Path(f"/proc/{self._pid}/fd").iterdir()))

    def cpu(self) -> float:
        """Seconds of processor that this process took."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def set_clock(self, text: str) -> None:
        """Move its clock: seconds from now, or `stop SECONDS`."""
        other = self.clock.with_suffix(".new")
        other.write_text(text)
        other.replace(self.clock)

    @property
    def _pid(self) -> int:
        if self.process is None:
            raise HostError("bench-server", "the replica does not run")
        return self.process.pid

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self._pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
        return 0


@dataclass(slots=True)
class Fleet:
    """Replicas of one server, a chip whose guests it knows, and what the owner holds of it from the beginning."""

    area: Path
    replicas: list[Replica]
    guest: GuestContext
    stranger: GuestContext
    access: AdminAccess = field(repr=False)
    key: VerifierKey
    head: Checkpoint
    context: ssl.SSLContext

    def admin(self, replica: Replica | None = None, timeout: float = 30.0) -> AdminClient:
        """The owner's client of one replica (default: the first that runs)."""
        chosen = replica or next(one for one in self.replicas if one.alive)
        url = f"https://127.0.0.1:{chosen.port}"
        access = AdminAccess(url, self.access.token, self.access.certificate)
        return AdminClient(access, timeout)

    @property
    def ports(self) -> list[int]:
        """Where the replicas listen."""
        return [one.port for one in self.replicas]


def workload(name: str, resources: Sequence[str], measurement: bytes = MEASUREMENT, **more: Any) -> dict[str, Any]:
    """An admission request for whatever has that measurement."""
    end = (datetime.now(UTC) + timedelta(days=3000)).isoformat()
    references = f'[[reference]]\ntee = "snp"\nmeasurement = "{measurement.hex()}"\n'
    paths = [f"kbs:///{path}" for path in resources]
    return {"name": name, "references": references, "resources": paths, "not_after": end, **more}


@contextlib.contextmanager
def fleet(area: Path, count: int, url: str | None, *more: str, state: Path | None = None) -> Iterator[Fleet]:
    """`count` replicas on the database at `url` (None: SQLite, and then one) that know the chip in `area`/processor.

    `more` are further words of the command. `state` is where the first one's state is to be.
    """
    area.mkdir(parents=True, exist_ok=True, mode=0o700)
    chip = area / "processor"
    processor = load_processor(chip, datetime.now(UTC) - timedelta(days=2))
    root = fingerprint(chip)
    words = ("--accept-simulated", root, "--offline", *(() if url is None else ("--database", url)), *more)
    replicas = [Replica(state or area / "state0", words)]
    replicas += [Replica(area / f"state{number}", words) for number in range(1, count)]
    try:
        replicas[0].start()
        for other in replicas[1:]:
            other.state.mkdir(mode=0o700)
            shutil.copy(replicas[0].state / MASTER, other.state / MASTER)
            other.start()
        access = read_access(replicas[0].state / "admin.json")
        with AdminClient(access) as admin:
            admin.put("load/start/now", b"started")
            key = admin.log_key()
            head = verify_checkpoint(admin.checkpoint(), [key])
        guests = [processor.launch(one, bytes(32), POLICY, bytes(32)) for one in (MEASUREMENT, STRANGE)]
        context = client_context(access.certificate)
        yield Fleet(area, replicas, guests[0], guests[1], access, key, head, context)
    finally:
        for one in replicas:
            one.stop()
