"""What was fetched, kept on disk for all processes of a user.

A directory (0700) with a file for each thing asked for, written beside and renamed into place, so that a reader sees
all of it or nothing. Nothing here is trusted: what is read back is parsed and examined as if it had just arrived, and
a file that does not parse is dropped. Failures are kept too, for a short while, so that an outage is not waited for
again and again. Beside them stands the highest TCB evaluation data number seen, which never goes back.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kokon.endorsements.items import from_items, to_items
from kokon.endorsements.locks import locked
from kokon.errors import KokonError, MalformedError, UnreachableError, UntrustedError
from kokon.tee.endorsements import Endorsements
from kokon.wire import Fields, canonical_json, parse_json

SIZE_LIMIT: Final = 64 << 20
ENTRY_LIMIT: Final = 24 << 20
ENTRIES_LIMIT: Final = 10_000
LOCK_PATIENCE: Final = 150.0
"""Seconds to wait for another process that asks for the same thing: longer than one may wait for its turn."""

_FORMAT: Final = "kokon endorsement cache 1"
_ITEMS_LIMIT: Final = 32
_FLOORS_LIMIT: Final = 1000
_ABANDONED: Final = 3600.0
_KINDS: Final[dict[str, type[KokonError]]] = {kind.kind: kind for kind in (UnreachableError, UntrustedError)}


@dataclass(frozen=True, slots=True)
class Entry:
    """Something kept: what it was asked for as, when it came (seconds since 1970), and what it is."""

    key: str
    fetched: float
    endorsements: Endorsements


def default_directory() -> Path:
    """`endorsements` in Kokon's home: `$KOKON_HOME`, else `~/.local/share/kokon`."""
    home = os.environ.get("KOKON_HOME") or Path.home() / ".local" / "share" / "kokon"
    return Path(home).absolute() / "endorsements"


class Cache:
    """The cache in `directory`, of at most `limit` bytes; what was not used for longest goes first.

    `clock` is the time of day in seconds. A disk that is full or cannot be written makes a cache that keeps nothing:
    `problem` then says why.
    """

    def __init__(self, directory: Path, limit: int = SIZE_LIMIT, *, clock: Callable[[], float] = time.time) -> None:
        self.directory = directory
        self.problem: str | None = None
        self._limit = limit
        self._clock = clock

    def get(self, key: str) -> Entry | None:
        """What is kept for `key`, however old."""
        path = self._path(key)
        entry = self._read_entry(path)
        if entry is None or entry.key != key:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return entry

    def put(self, key: str, endorsements: Endorsements) -> None:
        """Keep something, and forget that asking for it failed."""
        value = {"format": _FORMAT, "key": key, "fetched": int(self._clock()), "items": to_items(endorsements)}
        path = self._path(key)
        self._write(path, canonical_json(value))
        with contextlib.suppress(OSError):
            path.with_suffix(".failed").unlink(missing_ok=True)
        self._trim(path)

    def failure(self, key: str) -> KokonError | None:
        """The error with which asking for `key` failed, while it is too early to try again."""
        path = self._path(key).with_suffix(".failed")
        data = _read(path, ENTRY_LIMIT)
        if data is None:
            return None
        try:
            until, error = _parse_failure(data, key)
        except MalformedError:
            until, error = 0.0, None
        now = self._clock()
        if error is None or not now < until <= now + _ABANDONED:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        return error

    def put_failure(self, key: str, error: KokonError, seconds: float) -> None:
        """Do not ask for `key` again for so many seconds (at most an hour)."""
        if error.kind not in _KINDS:
            return
        until = int(self._clock() + min(seconds, _ABANDONED))
        value = {"format": _FORMAT, "key": key, "until": until, "error": error.as_dict()}
        self._write(self._path(key).with_suffix(".failed"), canonical_json(value))

    def lock(self, key: str) -> AbstractContextManager[bool]:
        """Ask for `key` alone, as far as other processes and threads do the same. Locks of different kinds of things
        never coincide, so one may be taken while another kind's is held."""
        name = f"{key.partition(' ')[0]}-{_digest(key)[:2]}.lock"
        with contextlib.suppress(OSError):
            self._make("locks")
        return locked(self.directory / "locks" / name, patience=LOCK_PATIENCE)

    def floor(self, name: str) -> int:
        """The highest number that was ever seen under `name`; 0 if none was."""
        return self._floors().get(name, 0)

    def raise_floor(self, name: str, number: int) -> None:
        """Remember that `number` was seen."""
        if number <= self.floor(name):
            return
        with contextlib.suppress(OSError):
            self._make("locks")
        with locked(self.directory / "locks" / "floors.lock", patience=5.0):
            floors = self._floors()
            floors[name] = max(number, floors.get(name, 0))
            self._write(self.directory / "floors.json", canonical_json({"format": _FORMAT, "floors": floors}))

    def entries(self) -> Iterator[Entry]:
        """Everything that is kept, in no particular order."""
        for path in sorted(self.directory.glob("*.json")):
            entry = self._read_entry(path) if path.name != "floors.json" else None
            if entry is not None:
                yield entry

    def everything(self) -> Endorsements:
        """All that is kept, whatever it was asked for as."""
        kept = [entry.endorsements for entry in self.entries()]
        return Endorsements(
            tuple(dict.fromkeys(der for one in kept for der in one.certificates)),
            tuple(dict.fromkeys(der for one in kept for der in one.crls)),
            tuple(dict.fromkeys(document for one in kept for document in one.documents)),
        )

    def _path(self, key: str) -> Path:
        return self.directory / f"{_digest(key)}.json"

    def _read_entry(self, path: Path) -> Entry | None:
        data = _read(path, ENTRY_LIMIT)
        if data is None:
            return None
        try:
            return _parse_entry(data)
        except MalformedError:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            return None

    def _floors(self) -> dict[str, int]:
        data = _read(self.directory / "floors.json", ENTRY_LIMIT)
        try:
            fields = Fields(parse_json(data or b"{}", limit=ENTRY_LIMIT, what="floors"), "floors")
            found = fields.table("floors", default={})
        except MalformedError:
            return {}
        numbers = {name: number for name, number in found.items() if isinstance(number, int) and 0 <= number < 2**31}
        return dict(sorted(numbers.items())[:_FLOORS_LIMIT])

    def _make(self, *names: str) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in names:
            (self.directory / name).mkdir(mode=0o700, exist_ok=True)

    def _write(self, path: Path, data: bytes) -> None:
        temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            self._make()
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            temporary.replace(path)
        except OSError as error:
            self.problem = error.strerror or str(error)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _trim(self, keep: Path) -> None:
        """Remove what nobody finished writing, and what was not used for longest, until the rest fits."""
        now = time.time()
        kept: list[tuple[float, int, Path]] = []
        for path in self.directory.iterdir() if self.directory.is_dir() else ():
            with contextlib.suppress(OSError):
                about = path.stat(follow_symlinks=False)
                if path.suffix in (".tmp", ".failed") and about.st_mtime < now - _ABANDONED:
                    path.unlink(missing_ok=True)
                elif path.suffix == ".json" and path not in (keep, self.directory / "floors.json"):
                    kept.append((about.st_mtime, about.st_size, path))
        with contextlib.suppress(OSError):
            total = keep.stat().st_size + sum(size for _, size, _ in kept)
            for count, (_, size, path) in enumerate(sorted(kept)):
                if total <= self._limit and len(kept) - count < ENTRIES_LIMIT:
                    break
                path.unlink(missing_ok=True)
                total -= size


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:40]


def _read(path: Path, limit: int) -> bytes | None:
    """The bytes of a regular file of at most `limit` bytes; None if there is none to be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            data = file.read(limit + 1)
    except OSError:
        return None
    return data if len(data) <= limit else None


def _open(data: bytes) -> tuple[Fields, str]:
    fields = Fields(parse_json(data, limit=ENTRY_LIMIT, what="cache entry"), "cache entry")
    if fields.text("format", limit=64) != _FORMAT:
        raise MalformedError("endorsement-cache-malformed", "a file in the cache is of another version")
    return fields, fields.text("key", limit=4096)


def _parse_entry(data: bytes) -> Entry:
    fields, key = _open(data)
    entry = Entry(key, float(fields.integer("fetched")), from_items(fields.array("items", limit=_ITEMS_LIMIT)))
    fields.finish()
    return entry


def _parse_failure(data: bytes, key: str) -> tuple[float, KokonError]:
    fields, found = _open(data)
    until, members = fields.integer("until"), Fields(fields.table("error"), "error")
    kind, code = _KINDS.get(members.text("kind", limit=32)), members.text("code", limit=64)
    if found != key or kind is None or not code.startswith("endorsement-"):
        raise MalformedError("endorsement-cache-malformed", "a failure in the cache is of another kind", found=code)
    texts: dict[str, Any] = {name: members.optional_text(name) for name in ("expected", "found", "hint")}
    return float(until), kind(code, members.text("message"), **texts)
