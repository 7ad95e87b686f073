"""What the store takes and gives: keys, units of work, receipts. Immutable, and checked before the writer sees them.

A unit of work is all or nothing: its preconditions hold and everything in it is done, or nothing is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from kokon.errors import HostError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Kind = str
Clock = Callable[[], datetime]
Sign = Callable[[str, int, bytes], bytes]
"""project, tree size, root (32 bytes) to the bytes of a signed checkpoint."""
Remembered = Mapping[str, tuple[int, bytes]]
"""Of each project the log's size and root (32 bytes), kept where the database cannot change it."""

NAME_LIMIT = 512
KIND_LIMIT = 64
VALUE_LIMIT = 4 << 20
ENTRIES_LIMIT = 256
CHANGES_LIMIT = 1024
PROJECT = re.compile(r"([a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?)?")
_KIND = re.compile(rf"[a-z][a-z0-9-]{{0,{KIND_LIMIT - 1}}}")
_HIGHEST = 2**63 - 1


class StaleDecision(Exception):  # noqa: N818 - a signal to decide anew, not an error for people
    """The project's records changed since the snapshot that a work was decided on: decide again on the new one."""


def busy() -> HostError:
    """What is said if the records change faster than can be decided."""
    return HostError("store-busy", "the records change all the time", hint="try again")


class KeyRing(Protocol):
    """The data keys under which rows are sealed; `current` is the id of the one for new rows."""

    @property
    def current(self) -> int:
        """The id of the key for new rows, from 0."""
        ...

    def aead(self, key_id: int) -> AESGCM:
        """The cipher of that key. Raises `KokonError` for an id that the ring does not hold."""
        ...


@dataclass(frozen=True, slots=True)
class Key:
    """Where a record is: project ("" is the server itself), kind and name."""

    project: str
    kind: Kind
    name: str


@dataclass(frozen=True, slots=True)
class Meta:
    """What is known of one version of a record without opening it; `digest` is the SHA-256 of its sealed row."""

    version: int
    created: datetime
    expires: datetime | None
    digest: bytes


@dataclass(frozen=True, slots=True)
class Put:
    """Add a version of a record. `previous`: the newest version must be this one (0: there must be none)."""

    kind: Kind
    name: str
    value: bytes = field(repr=False)
    expires: datetime | None = None
    previous: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove one version, or all (None), for good. The name's version numbers are not used again."""

    kind: Kind
    name: str
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Expire:
    """Remove a version whose time is over, and when it was the last one, also the memory of its number."""

    kind: Kind
    name: str
    version: int


@dataclass(frozen=True, slots=True)
class Count:
    """Add one to a counter of the project, which must not pass `limit` (None: no limit)."""

    name: str
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A log entry. `details` are plain JSON values without `time`, `event` and `project`; `denial` an id to find it."""

    event: str
    details: Mapping[str, Any]
    denial: str | None = None


Change = Put | Delete | Expire


@dataclass(frozen=True, slots=True)
class Work:
    """One unit of work in one project; `generation` is that of the snapshot on which it was decided."""

    project: str
    entries: tuple[Entry, ...]
    changes: tuple[Change, ...] = ()
    counts: tuple[Count, ...] = ()
    generation: int | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a work that is durable now led to.

    `first` is the index of its first log entry; `size` the log's size that `checkpoint` is signed for; `versions` the
    new version of each `Put`, in order.
    """

    project: str
    first: int
    size: int
    generation: int
    versions: tuple[int, ...]
    checkpoint: bytes


def check_work(work: Work) -> None:
    """Refuse what the store must not be asked to do: `UsageError` (`work-malformed`).

    Every work writes a log entry, so that no change of the database goes unseen by who remembers the log's size.
    """
    check_project(work.project)
    if not 1 <= len(work.entries) <= ENTRIES_LIMIT:
        raise _malformed("a work has 1 to 256 log entries", len(work.entries))
    if len(work.changes) + len(work.counts) > CHANGES_LIMIT:
        raise _malformed("a work has too many changes", len(work.changes) + len(work.counts))
    for change in work.changes:
        _check_change(change)
    for count in work.counts:
        check_name(count.name)
        if count.limit is not None and not 0 <= count.limit <= _HIGHEST:
            raise _malformed("a counter's limit is out of range", count.limit)


def check_project(project: str) -> None:
    """Refuse what is no project's name: `UsageError` (`work-malformed`)."""
    if not PROJECT.fullmatch(project):
        raise _malformed("not a project's name", repr(project[:80]))


def check_name(name: str) -> None:
    """Refuse a record's or counter's name that is empty, too long or not printable text."""
    if not 0 < len(name) <= NAME_LIMIT or not name.isprintable():
        raise _malformed("a name is 1 to 512 printable characters", repr(name[:80]))


def _check_change(change: Change) -> None:
    if not _KIND.fullmatch(change.kind):
        raise _malformed("a kind is lower-case letters, digits and dashes", repr(change.kind[:80]))
    check_name(change.name)
    if not isinstance(change, Put):
        return
    if len(change.value) > VALUE_LIMIT:
        raise _malformed("a value is too large", len(change.value))
    if change.expires is not None and change.expires.tzinfo is None:
        raise _malformed("a time without its zone", change.expires)


def _malformed(message: str, found: object) -> UsageError:
    return UsageError("work-malformed", message, found=found)
