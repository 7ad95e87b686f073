"""Where the two kinds of database differ: how they are opened, how a transaction begins, what their failures mean.

SQLite: one file in WAL mode, for one process at a time, each commit on the disk before it is acknowledged.
PostgreSQL: any number of replicas; a commit locks the heads that it moves.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError

from kokon.errors import HostError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection, Engine

FAILURES = (SQLAlchemyError, sqlite3.Error, psycopg.Error)
"""What a database's failure is raised as."""
REFUSALS = (IntegrityError, sqlite3.IntegrityError, psycopg.IntegrityError)
"""What a row that contradicts another is raised as."""
_BUSY = 10000
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "trusted_schema=OFF", f"busy_timeout={_BUSY}")
_SESSION = (
    "SELECT set_config('statement_timeout', '60s', false), set_config('lock_timeout', '20s', false),"
    " set_config('idle_in_transaction_session_timeout', '15s', false),"
    " CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', false) END"
)
_CONNECT = {"connect_timeout": 5, "keepalives_idle": 20, "keepalives_interval": 5, "tcp_user_timeout": 15000}
_LOCAL = ("localhost", "127.0.0.1", "::1")
_UNREACHABLE = ("08", "57P", "53300")
_RETRY = ("40001", "40P01")
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
"""No space for the file, and none for the index of its write-ahead log."""


@dataclass(frozen=True, slots=True)
class Backend:
    """An open database. `shared` is True for PostgreSQL, where other replicas write as well."""

    engine: Engine
    shared: bool
    guard: int | None = None

    def execute(self, connection: Connection, text: str, *rows: Sequence[object]) -> Any:
        """Run a statement with `?` for its values, once for each row of them; the driver's cursor.

        This passes SQLAlchemy by, which would take ten times as long as the statement. Raises the driver's errors.
        """
        cursor = connection.connection.cursor()
        text = text.replace("?", "%s") if self.shared else text
        if len(rows) > 1:
            cursor.executemany(text, rows)
        else:
            cursor.execute(text, *rows)
        return cursor

    @contextlib.contextmanager
    def glance(self) -> Iterator[Connection]:
        """A connection for single reads, each of which sees what is committed by then."""
        with failures(), self.engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT") if self.shared else connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction whose reads all see the same moment."""
        with failures(), self.engine.connect() as connection:
            if self.shared:
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes, committed at the end."""
        with failures(), self.writer() as connection, connection.begin():
            yield connection

    def writer(self) -> Connection:
        """A connection whose transactions may write. Raises what SQLAlchemy raises."""
        return self.engine.connect().execution_options(kokon_write=True)

    def scrub(self, connection: Connection) -> None:
        """After a removal: take its old pages out of SQLite's write-ahead log, if no reader is in the way."""
        raw = connection.connection.driver_connection
        if isinstance(raw, sqlite3.Connection):
            with contextlib.suppress(sqlite3.Error):
                for pragma in ("busy_timeout=0", "wal_checkpoint(TRUNCATE)", f"busy_timeout={_BUSY}"):
                    raw.execute(f"PRAGMA {pragma}").close()

    def close(self) -> None:
        """Give everything back."""
        self.engine.dispose()
        if self.guard is not None:
            os.close(self.guard)


def open_backend(location: Path | str, *, alone: bool = True) -> Backend:
    """The database at a path (SQLite) or at a URL `postgresql://...`; it need not exist as a file yet.

    `alone` is False only for reading a SQLite file that another process serves. To another machine PostgreSQL is
    spoken to over TLS with the system's anchors, unless the URL has its own `sslmode`. Raises `HostError`
    (`state-in-use`, `store-failed`), `UsageError` (`store-location`).
    """
    if isinstance(location, str) and "://" in location:
        return _open_postgresql(location)
    path = Path(location).absolute()
    guard = _exclusive(path) if alone else None
    url = URL.create("sqlite+pysqlite", database=str(path))
    engine = create_engine(url, hide_parameters=True, connect_args={"check_same_thread": False, "timeout": 10})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return Backend(engine, shared=False, guard=guard)


def _open_postgresql(location: str) -> Backend:
    try:
        url = make_url(location)
    except (ArgumentError, ValueError):
        raise _no_location("not a URL") from None  # the cause quotes the URL, and with it the password
    if url.get_backend_name() != "postgresql":
        raise _no_location(url.drivername[:40])
    host = url.host or url.query.get("host") or ""
    if "sslmode" not in url.query and not (host in ("", *_LOCAL) or str(host).startswith("/")):
        url = url.update_query_dict({"sslmode": "verify-full", "sslrootcert": "system"})
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        hide_parameters=True,
        connect_args=_CONNECT,
        pool_size=5,
        max_overflow=5,
        pool_timeout=10,
        pool_pre_ping=True,
    )
    event.listen(engine, "connect", _prepare_postgresql)
    return Backend(engine, shared=True)


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("kokon_write", False)
    connection.connection.cursor().execute("BEGIN IMMEDIATE" if write else "BEGIN")


def _prepare_postgresql(connection: psycopg.Connection[Any], _: object) -> None:
    connection.autocommit = True
    connection.execute(_SESSION)
    connection.autocommit = False


def _exclusive(path: Path) -> int:
    """Take the lock beside a SQLite file, and make the file for its owner alone."""
    try:
        guard = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError("store-failed", "the database's directory cannot be used", found=error.strerror) from error
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.touch(0o600)
        path.chmod(0o600)
    except BlockingIOError as error:
        os.close(guard)
        raise HostError(
            "state-in-use", "another server uses this database", hint="stop it, or give this one another --state"
        ) from error
    except OSError as error:
        os.close(guard)
        raise HostError("store-failed", "the database's file cannot be used", found=error.strerror) from error
    return guard


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Turns the drivers' errors into those of `failure`."""
    try:
        yield
    except FAILURES as error:
        raise failure(error) from error


def failure(error: Exception) -> HostError:
    """What a database's error means: `disk-full`, `store-unreachable` or `store-failed`. Never a value out of a row."""
    original = _original(error)
    state = getattr(original, "sqlstate", None) or ""
    if getattr(original, "sqlite_errorcode", None) in _FULL or state == "53100":
        return HostError("disk-full", "no space is left for the server's database", hint="free space and try again")
    if lost(error):
        return HostError(
            "store-unreachable",
            "the database cannot be reached, or broke off; whether a write that was under way is kept is not known",
            found=_said(original),
            hint="the server goes on by itself when the database is back",
        )
    return HostError("store-failed", "the database failed", found=_said(original))


def lost(error: Exception) -> bool:
    """Whether the connection is gone, or none was to be had."""
    original = _original(error)
    state = getattr(original, "sqlstate", None)
    if isinstance(original, psycopg.OperationalError) and (state is None or state.startswith(_UNREACHABLE)):
        return True
    return isinstance(error, DBAPIError) and error.connection_invalidated


def worth_retrying(error: Exception) -> bool:
    """Whether a transaction that was not committed may be tried once more."""
    return lost(error) or getattr(_original(error), "sqlstate", None) in _RETRY


def _original(error: Exception) -> BaseException | None:
    """The driver's own error, be it wrapped by SQLAlchemy or not."""
    return error.orig if isinstance(error, DBAPIError) else error


def _said(original: BaseException | None) -> str:
    """The driver's words without the values that some errors quote."""
    primary = getattr(getattr(original, "diag", None), "message_primary", None)
    return str(primary or original).splitlines()[0] if str(original) else type(original).__name__


def _no_location(found: str) -> UsageError:
    return UsageError(
        "store-location",
        "a database is given as a file's path or as postgresql://...",
        found=found,
    )
