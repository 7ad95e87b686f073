"""A PostgreSQL for the tests, a key ring, a clock, and a database of either kind that can be opened and attacked."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kokon.errors import UntrustedError
from kokon.provisioning.custody.master import MasterKey
from kokon.provisioning.database import Entry, Put, Store, Work
from kokon.provisioning.database.batch import Context
from kokon.provisioning.database.engines import Backend, open_backend
from kokon.provisioning.database.opening import begin, load_all
from kokon.provisioning.database.rings import RingLoader
from kokon.provisioning.database.schema import TABLES

BINARIES = Path("/usr/lib/postgresql/15/bin")
_SETTINGS = {"listen_addresses": "", "fsync": "off", "full_page_writes": "off", "max_connections": "60"}


class Ring:
    """Data keys in memory."""

    def __init__(self) -> None:
        self.current = 1
        self.keys = {1: AESGCM(os.urandom(32))}

    def aead(self, key_id: int) -> AESGCM:
        if key_id not in self.keys:
            raise UntrustedError("test-key-unknown", "no such data key")
        return self.keys[key_id]

    def rotate(self) -> None:
        self.current += 1
        self.keys[self.current] = AESGCM(os.urandom(32))


@dataclass
class Clock:
    now: datetime = datetime(2026, 11, 23, 10, 0, 0, 123456, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now


def sign(project: str, size: int, root: bytes) -> bytes:
    return f"{project}\n{size}\n{root.hex()}\n".encode()


def put(name: str, value: bytes = b"value", project: str = "default", **options: Any) -> Work:
    return Work(project, (Entry("put", {"name": name}),), (Put("secret", name, value, **options),))


def log(event: str = "handshake", project: str = "default", **options: Any) -> Work:
    return Work(project, (Entry(event, {"verdict": "affirming"}),), **options)


class Postgres:
    """A server of Debian's package that listens on a socket only, run as `postgres` where the tests are root."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="kokon-postgres-"))
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            shutil.chown(self.home, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._names = (f"test{number}" for number in itertools.count())
        self._used: str | None = None
        self._run("initdb", "-D", self.home / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        self.start()

    def start(self) -> None:
        options = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        command = [BINARIES / "postgres", "-D", self.home / "data", "-k", self.home, *options]
        for _ in range(100):
            with (self.home / "log").open("ab") as log:
                self._server = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **self._as)
            if self._answers():
                return
            self._server.wait(20)  # children of one that was killed are still there: try again
            time.sleep(0.1)
        raise RuntimeError((self.home / "log").read_text())

    def kill(self) -> None:
        """As the kernel would, out of memory."""
        _back_door.cache_clear()
        self._server.send_signal(signal.SIGKILL)
        self._server.wait()

    def stop(self) -> None:
        self._server.send_signal(signal.SIGQUIT)
        self._server.wait()
        shutil.rmtree(self.home)

    def url(self, schema: str) -> str:
        return f"postgresql://postgres@/postgres?host={self.home}&options=-csearch_path%3D{schema}"

    def create(self) -> str:
        """The URL of what looks like a new, empty database: a schema takes less time."""
        name = next(self._names)
        with psycopg.connect(self.url("public"), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}".encode())
        return self.url(name)

    def reuse(self) -> str:
        """The URL of a database whose tables are there and empty."""
        if self._used is None:
            self._used = self.create()
            Lab(self._used).open().close()
        for table in TABLES:
            Lab(self._used).sql(f"DELETE FROM {table}")  # quicker than TRUNCATE
        return self._used

    @contextlib.contextmanager
    def on_disk(self, place: Path) -> Iterator[str]:
        """The URL of a new database whose tables and indexes are in a directory."""
        if self._as:
            shutil.chown(place, self._as["user"], self._as["group"])
            place.parent.chmod(0o711)
        url, name = self.create(), next(self._names)
        with psycopg.connect(self.url("public"), autocommit=True) as connection:
            connection.execute(f"CREATE TABLESPACE {name} LOCATION '{place}'".encode())
            yield f"{url}%20-cdefault_tablespace%3D{name}"
            schema = url.rpartition("%3D")[2]
            connection.execute(f"DROP SCHEMA {schema} CASCADE".encode())
            connection.execute(f"DROP TABLESPACE {name}".encode())

    def _answers(self) -> bool:
        while self._server.poll() is None:
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.url("public")):
                return True
            time.sleep(0.05)
        return False

    def _run(self, program: str, *words: str | Path) -> None:
        subprocess.run([BINARIES / program, *words], check=True, cwd="/", stdout=subprocess.DEVNULL, **self._as)


@dataclass
class Lab:
    """A database, what is needed to open a store on it, and a back door."""

    location: str | Path
    ring: Ring = field(default_factory=Ring)
    clock: Clock = field(default_factory=Clock)

    @property
    def shared(self) -> bool:
        return isinstance(self.location, str)

    def open(self, **options: Any) -> Store:
        return Store.open(self.location, self.ring, **{"sign": sign, "clock": self.clock, **options})

    def open_with(self, master: MasterKey, known: tuple[int, str] | None = None, **options: Any) -> Store:
        """With the key ring that the database has."""
        loader = RingLoader(master, known)
        return Store.open(self.location, loader, **{"sign": sign, "clock": self.clock, **options})

    def check(self) -> None:
        """What `open` does to verify, without the rest of it, which takes much longer."""
        backend = _backend(self.location)
        context = Context(backend, self.ring, sign, self.clock, "check")
        with backend.writing() as connection:
            begin(connection, context)
            load_all(connection, context, {})

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """As whoever holds the database, triggers out of the way."""
        if isinstance(self.location, str):
            cursor = _back_door(self.location).execute(statement.replace("?", "%s").encode(), values)
            return cursor.fetchall() if cursor.description else []
        with contextlib.closing(sqlite3.connect(self.location, isolation_level=None)) as file:
            for (trigger,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                file.execute(f"DROP TRIGGER {trigger}")
            return file.execute(statement, values).fetchall()

    def table(self, name: str) -> list[tuple[Any, ...]]:
        return self.sql(f"SELECT * FROM {name}")

    def put_back(self, name: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Make a table what it was."""
        self.sql(f"DELETE FROM {name}")
        for row in rows:
            self.insert(name, row)

    def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        return {name: self.table(name) for name in TABLES}

    def load(self, tables: Mapping[str, Sequence[tuple[Any, ...]]]) -> None:
        for name, rows in tables.items():
            if self.table(name) != rows:
                self.put_back(name, rows)

    def insert(self, name: str, row: Sequence[Any]) -> None:
        self.sql(f"INSERT INTO {name} VALUES ({', '.join('?' * len(row))})", *row)


@functools.lru_cache(maxsize=8)
def _backend(location: str | Path) -> Backend:
    return open_backend(location, alone=False)


@functools.lru_cache(maxsize=8)
def _back_door(location: str) -> psycopg.Connection[Any]:
    connection = psycopg.connect(location, autocommit=True)
    connection.execute("SET session_replication_role = replica")
    return connection


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    server = Postgres()
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        yield server
