"""A PostgreSQL of the distribution's package in a directory of its own, to be killed and started again."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import psycopg

from kokon.errors import HostError

POSTGRESQL = Path("/usr/lib/postgresql")
_START = 60.0


def binaries() -> Path | None:
    """Where PostgreSQL's programs are, or None."""
    found = sorted(POSTGRESQL.glob("*/bin/postgres"))
    return found[-1].parent if found else None


class Postgres:
    """One server with everything as its package has it, `fsync` too; listens on a socket in its directory only.

    `home` is the directory to use (default: a new one below /tmp); it is removed at the end.
    """

    def __init__(self, home: Path | None = None, *options: str) -> None:
        found = binaries()
        if found is None:
            raise HostError("bench-tool-missing", "PostgreSQL is not installed", hint="scripts/setup")
        self._binaries = found
        self.home = home or Path(tempfile.mkdtemp(prefix="kokon-load-"))
        self._options = options
        self._who: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            shutil.chown(self.home, user.pw_uid, user.pw_gid)
            self._who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        make: list[str | Path] = [found / "initdb", "-D", self.home / "data", "-U", "postgres", "-A", "trust"]
        make += ["-E", "UTF8", "--no-sync", "--wal-segsize=1"]
        subprocess.run(make, check=True, capture_output=True, cwd="/", **self._who)
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def url(self) -> str:
        """The database's URL."""
        return f"postgresql://postgres@/postgres?host={self.home}"

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def start(self) -> None:
        """Start it, and wait until it answers. Raises `HostError` (`bench-server`)."""
        words: list[str | Path] = ["-D", self.home / "data", "-k", self.home, "-c", "listen_addresses="]
        words += [word for option in self._options for word in ("-c", option)]
        deadline = time.monotonic() + _START
        while time.monotonic() < deadline:
            with (self.home / "log").open("ab") as log:
                command: list[str | Path] = [self._binaries / "postgres", *words]
                self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **self._who)
            if self._answers(deadline):
                return
            time.sleep(0.2)  # what is left of one that was killed is still there
        raise HostError("bench-server", "PostgreSQL does not start", found=(self.home / "log").read_text()[-500:])

    def kill(self) -> None:
        """As the kernel does when memory is short."""
        self._process.kill()
        self._process.wait()

    def _answers(self, deadline: float) -> bool:
        while self.alive and time.monotonic() < deadline:
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.url, connect_timeout=2):
                return True
            time.sleep(0.05)
        return False
