"""The server's memory: one SQLite file in WAL mode, secrets sealed with AES-256-GCM, the log beside them.

A record is sealed with its kind, name and version as associated data, so that rows cannot be swapped, renamed or put
back under another version unnoticed. A deleted record leaves its version behind: the next one continues it. What a call
has acknowledged is on the disk (synchronous=FULL), together with the log entries that tell of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kokon.errors import HostError, UntrustedError
from kokon.provisioning.log import Head, make_entry, verify_chain
from kokon.wire import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

DATABASE = "kokon.db"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
  kind TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL,
  nonce BLOB, sealed BLOB, created TEXT NOT NULL,
  PRIMARY KEY (kind, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log (
  sequence INTEGER PRIMARY KEY, digest TEXT NOT NULL, denial TEXT, entry BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS log_denial ON log (denial) WHERE denial IS NOT NULL;
CREATE TRIGGER IF NOT EXISTS log_no_update BEFORE UPDATE ON log BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER IF NOT EXISTS log_no_delete BEFORE DELETE ON log BEGIN SELECT RAISE(ABORT, 'append-only'); END;
"""


@dataclass(frozen=True, slots=True)
class RecordInfo:
    """What may be told of a record without opening it."""

    name: str
    version: int
    created: str


class Store:
    """Records and log in `directory`; one process at a time. Calls are safe from several threads.

    Opening verifies the log's whole chain, in time that grows as the log does (some 50 µs an entry). Raises `HostError`
    (`state-in-use`, `store-failed`, `disk-full`), `UntrustedError` (`store-tampered`, `log-broken`), and
    `MalformedError` for log entries that cannot be read.
    """

    def __init__(self, directory: Path, master: bytes) -> None:
        self._cipher = AESGCM(master)
        self._lock = threading.RLock()
        self._guard = _exclusive(directory)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self._guard)
            with _failures():
                self._database = sqlite3.connect(directory / DATABASE, isolation_level=None, check_same_thread=False)
                undo.callback(self._database.close)
                (directory / DATABASE).chmod(0o600)
                self._database.execute("PRAGMA journal_mode=WAL")
                self._database.execute("PRAGMA synchronous=FULL")
                self._database.execute("PRAGMA trusted_schema=OFF")
                self._database.execute("PRAGMA secure_delete=ON")
                self._database.executescript(_SCHEMA)
                self._head = verify_chain(self._entries(0, None))
            self._check_master()
            self._check_head()
            undo.pop_all()

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._database.close()
            os.close(self._guard)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All calls inside take effect together, durably, at the end, or not at all."""
        with self._lock, _failures():
            if self._database.in_transaction:
                yield
                return
            before, committed = self._head, False
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
                committed = True
            finally:
                if not committed:
                    self._head = before
                    if self._database.in_transaction:
                        self._database.execute("ROLLBACK")

    def put(self, kind: str, name: str, value: bytes, now: datetime) -> int:
        """Keep `value`, replacing an older one; returns its version."""
        with self.transaction():
            row = self._row("SELECT version FROM records WHERE kind=? AND name=?", kind, name)
            version = 1 if row is None else row[0] + 1
            nonce = os.urandom(12)
            sealed = self._cipher.encrypt(nonce, value, _associated(kind, name, version))
            self._database.execute(
                "INSERT OR REPLACE INTO records VALUES (?,?,?,?,?,?)",
                (kind, name, version, nonce, sealed, now.isoformat(timespec="seconds")),
            )
        return int(version)

    def get(self, kind: str, name: str) -> bytes | None:
        """The value kept, or None. Raises `UntrustedError` (`store-tampered`)."""
        with self._lock, _failures():
            row = self._row(
                "SELECT version, nonce, sealed FROM records WHERE kind=? AND name=? AND sealed IS NOT NULL", kind, name
            )
        return None if row is None else self._open(kind, name, *row)

    def delete(self, kind: str, name: str) -> bool:
        """Forget a value; the row stays as a mark of its last version. False: there was none."""
        with self.transaction():
            done = self._database.execute(
                "UPDATE records SET nonce=NULL, sealed=NULL WHERE kind=? AND name=? AND sealed IS NOT NULL",
                (kind, name),
            )
            return done.rowcount == 1

    def names(self, kind: str) -> list[RecordInfo]:
        """What is kept of this kind, by name."""
        with self._lock, _failures():
            rows = self._database.execute(
                "SELECT name, version, created FROM records WHERE kind=? AND sealed IS NOT NULL ORDER BY name", (kind,)
            ).fetchall()
        return [RecordInfo(*row) for row in rows]

    @property
    def head(self) -> Head:
        """Where the log ends."""
        with self._lock:
            return self._head

    def append(self, now: datetime, event: str, details: Mapping[str, Any], denial: str | None = None) -> Head:
        """Add a log entry; `denial` is the id under which `denial()` finds it."""
        with self.transaction():
            data, head = make_entry(self._head, now, event, details)
            self._database.execute("INSERT INTO log VALUES (?,?,?,?)", (head.sequence, head.digest, denial, data))
            self.put("log", "head", _head_record(head), now)
            self._head = head
        return head

    def entries(self, after: int, limit: int) -> tuple[list[bytes], Head]:
        """The entries that follow number `after`, at most `limit`, and where the log ends at this moment."""
        with self._lock, _failures():
            return list(self._entries(after, limit)), self._head

    def denial(self, identity: str) -> dict[str, Any] | None:
        """The log entry of a denial, or None."""
        with self._lock, _failures():
            row = self._row("SELECT CAST(entry AS BLOB) FROM log WHERE denial=?", identity)
        return None if row is None else parse_json(row[0], limit=1 << 20, what="log entry")

    def _entries(self, after: int, limit: int | None) -> Iterator[bytes]:
        rows = self._database.execute(
            "SELECT CAST(entry AS BLOB) FROM log WHERE sequence>? ORDER BY sequence LIMIT ?",
            (after, -1 if limit is None else limit),
        )
        for (entry,) in rows:
            yield bytes(entry)

    def _row(self, statement: str, *values: str) -> Any:
        return self._database.execute(statement, values).fetchone()

    def _open(self, kind: str, name: str, version: int, nonce: bytes, sealed: bytes) -> bytes:
        try:
            return self._cipher.decrypt(bytes(nonce), bytes(sealed), _associated(kind, name, version))
        except (InvalidTag, ValueError, TypeError) as error:
            raise UntrustedError(
                "store-tampered",
                f"a {kind} record does not open: the store was altered, or the master key is not its own",
                found=f"{name} version {version}",
                hint="restore the state directory, master.key included, from a backup",
            ) from error

    def _check_master(self) -> None:
        if self.get("check", "master") is None:
            self.put("check", "master", b"kokon", datetime.fromtimestamp(0).astimezone())

    def _check_head(self) -> None:
        """Entries cut off at the end leave a good chain: the sealed head tells."""
        sealed = self.get("log", "head")
        if sealed != (_head_record(self._head) if self._head.sequence else None):
            raise UntrustedError(
                "log-broken",
                "the log does not end where the server last left it",
                expected=(sealed or b"no entries").decode("ascii", "replace"),
                found=_head_record(self._head).decode(),
                hint="keep a copy of the state directory as evidence, and restore it from a backup",
            )


def _head_record(head: Head) -> bytes:
    return f"{head.sequence} {head.digest}".encode()


def _associated(kind: str, name: str, version: int) -> bytes:
    return f"{kind}|{name}|{version}".encode()


def _exclusive(directory: Path) -> int:
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise HostError("store-failed", "the state directory cannot be used", found=error.strerror) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise HostError(
            "state-in-use",
            "another server uses this state directory",
            hint="stop it, or give this one another --state directory",
        ) from error
    return descriptor


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise HostError(
                "disk-full", "no space is left for the server's state", hint="free space and try again"
            ) from error
        raise HostError("store-failed", "the server's store failed", found=error) from error
