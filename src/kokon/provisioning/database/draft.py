"""What a batch does to one project, worked out in memory before anything is written.

Works are applied in turn; one whose preconditions do not hold leaves no trace.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING

from kokon.errors import DeniedError, MalformedError
from kokon.provisioning.database.catalogue import Named
from kokon.provisioning.database.sealing import mark_gone, meta, micros, seal
from kokon.provisioning.database.state import Moves
from kokon.provisioning.database.values import Delete, Expire, Key, Put, Receipt, StaleDecision, check_work
from kokon.provisioning.ledger.entry import check_entry_size
from kokon.provisioning.ledger.merkle import leaf_hash
from kokon.wire import canonical_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime
    from typing import Any

    from kokon.provisioning.database.awaited import Awaited
    from kokon.provisioning.database.catalogue import Names
    from kokon.provisioning.database.sealing import Row
    from kokon.provisioning.database.state import State
    from kokon.provisioning.database.values import Change, Count, Entry, KeyRing, Work

_OWN = frozenset({"time", "event", "project"})
_TIME_SIZE = len("2026-05-01T12:00:00.000Z")
DENIAL_LIMIT = 64
EVENT_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Rendered:
    """A log entry but for its time, which goes between the two parts."""

    before: bytes
    after: bytes
    denial: str | None

    def at(self, time: bytes) -> bytes:
        """The entry's bytes, as `ledger.entry.make_entry` would make them."""
        return self.before + time + self.after


def is_denial(identity: str) -> bool:
    """Whether a text can be a denial's id: 1 to 64 printable characters."""
    return 0 < len(identity) <= DENIAL_LIMIT and identity.isprintable()


def render(project: str, entry: Entry) -> Rendered:
    """Raises `MalformedError` (`log-entry-malformed`, `json-not-canonical`)."""
    if _OWN & entry.details.keys():
        raise MalformedError("log-entry-malformed", "an event must not set the log's own members")
    if not all(isinstance(name, str) for name in entry.details):
        raise MalformedError("log-entry-malformed", "an entry's members must have texts as names")
    if not 0 < len(entry.event) <= EVENT_LIMIT:
        raise MalformedError("log-entry-malformed", "an event's name is 1 to 64 characters", found=entry.event[:80])
    if entry.denial is not None and not is_denial(entry.denial):
        raise MalformedError("log-entry-malformed", "a denial's id is 1 to 64 characters", found=entry.denial[:80])
    members: Mapping[str, Any] = {**entry.details, "event": entry.event, "project": project}
    first = canonical_json({name: value for name, value in members.items() if name < "time"})
    rest = canonical_json({name: value for name, value in members.items() if name > "time"})
    tail = b"}" if rest == b"{}" else b"," + rest[1:]
    rendered = Rendered(first[:-1] + b',"time":"', b'"' + tail, entry.denial)
    check_entry_size(rendered.at(bytes(_TIME_SIZE)))
    return rendered


def time_text(now: datetime) -> bytes:
    """RFC 3339 in UTC with milliseconds."""
    return (now.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z").encode()


@dataclass(frozen=True, slots=True)
class Job:
    """A work that was checked, its entries rendered, and who waits for it."""

    work: Work
    entries: tuple[Rendered, ...]
    future: Future[Receipt] | Awaited

    @property
    def size(self) -> int:
        """About how many bytes it will write."""
        texts = sum(len(entry.before) + len(entry.after) for entry in self.entries)
        return texts + sum(len(change.value) for change in self.work.changes if isinstance(change, Put))


def prepare(work: Work, awaited: Awaited | None = None) -> Job:
    """The job, whose outcome is `awaited`, or that of a new future. Raises `UsageError` (`work-malformed`), and as
    `render`."""
    check_work(work)
    return Job(work, tuple([render(work.project, entry) for entry in work.entries]), awaited or Future())


@dataclass(frozen=True, slots=True)
class Done:
    """What a work comes to once the batch is committed."""

    first: int
    generation: int
    versions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Leaf:
    """An entry that is to be stored."""

    hash: bytes
    denial: str | None
    entry: bytes


class Draft:
    """The changes of one project in one batch. `fresh`: the project has no row in the database yet."""

    def __init__(self, state: State, ring: KeyRing, now: datetime, *, fresh: bool) -> None:
        self.state = state
        self.fresh = fresh
        self.generation = state.snapshot.generation
        self.moves = Moves()
        self.rows: dict[tuple[str, str, int], Row | None] = {}
        self.leaves: list[Leaf] = []
        self.removes = False
        self._ring = ring
        self._now = micros(now)
        self._time = time_text(now)

    @property
    def project(self) -> str:
        """Whose changes these are."""
        return self.state.snapshot.project

    def apply(self, job: Job) -> Done:
        """Take a work in.

        Raises `StaleDecision`, `DeniedError` (`changed-meanwhile`, `count-exhausted`), and what the key ring raises.
        """
        work = job.work
        if work.generation is not None and work.generation != self.generation:
            raise StaleDecision
        versions: list[int] = []
        if work.changes or work.counts:
            with self._all_or_nothing():
                versions += [self._change(change) for change in work.changes]
                for count in work.counts:
                    self._count(count)
        self.generation += bool(work.changes)
        first = self.state.head.size + len(self.leaves)
        for entry in job.entries:
            self.add(entry)
        return Done(first, self.generation, tuple(version for version in versions if version))

    def add(self, entry: Rendered) -> None:
        """Take a log entry in."""
        data = entry.at(self._time)
        self.leaves.append(Leaf(leaf_hash(data), entry.denial, data))

    def named(self, kind: str, name: str) -> Named:
        """A name as it stands in this draft."""
        return self.moves.names.get((kind, name)) or self.state.snapshot.named(kind, name)

    def replace(self, row: Row) -> None:
        """Put another sealing of a version in its place."""
        kind, name, new = row.key.kind, row.key.name, meta(row)
        named = self.named(kind, name)
        versions = tuple(new if old.version == new.version else old for old in named.versions)
        self.moves.names[kind, name] = Named(versions, named.gone)
        self.rows[kind, name, row.version] = row
        self.removes = True

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        saved = dict(self.moves.names), dict(self.moves.counters), dict(self.rows)
        with contextlib.ExitStack() as undo:
            undo.callback(self._restore, *saved)
            yield
            undo.pop_all()

    def _restore(self, names: Names, counters: dict[str, int], rows: dict[tuple[str, str, int], Row | None]) -> None:
        self.moves.names, self.moves.counters, self.rows = names, counters, rows

    def _change(self, change: Change) -> int:
        """The new version of a `Put`, 0 for the others."""
        if isinstance(change, Put):
            return self._put(change)
        self._remove(change)
        return 0

    def _put(self, put: Put) -> int:
        named = self.named(put.kind, put.name)
        if put.previous is not None and put.previous != named.newest:
            raise _changed(put, f"version {put.previous}", f"version {named.newest}")
        version = named.highest + 1
        expires = None if put.expires is None else micros(put.expires)
        row = seal(self._ring, self._key(put), version, put.value, self._now, expires)
        self.rows[put.kind, put.name, version] = row
        if named.gone:
            self.rows[put.kind, put.name, named.gone.version] = None
        self.moves.names[put.kind, put.name] = Named((*named.versions, meta(row)))
        return version

    def _remove(self, change: Delete | Expire) -> None:
        named = self.named(change.kind, change.name)
        removed = [old.version for old in named.versions if change.version in (None, old.version)]
        if not removed:
            raise _changed(change, "a version to delete", "none")
        kept = tuple(old for old in named.versions if old.version not in removed)
        self.removes = True
        for version in removed:
            self.rows[change.kind, change.name, version] = None
        gone = named.gone
        if isinstance(change, Expire) and not kept:
            if gone:
                self.rows[change.kind, change.name, gone.version] = None
            gone = None
        elif Named(kept, gone).highest < named.highest:
            row = mark_gone(self._key(change), named.highest, self._now)
            self.rows[change.kind, change.name, row.version] = row
            gone = meta(row)
        self.moves.names[change.kind, change.name] = Named(kept, gone)

    def _count(self, count: Count) -> None:
        counters = self.moves.counters
        value = counters.get(count.name, self.state.counters.get(count.name, 0)) + 1
        if count.limit is not None and value > count.limit:
            raise DeniedError(
                "count-exhausted", f"counter {count.name!r} is at its limit", expected=f"<= {count.limit}", found=value
            )
        counters[count.name] = value

    def _key(self, change: Change) -> Key:
        return Key(self.project, change.kind, change.name)


def _changed(change: Change, expected: str, found: str) -> DeniedError:
    return DeniedError(
        "changed-meanwhile",
        f"{change.kind} {change.name!r} is not what the change was made for",
        expected=expected,
        found=found,
        hint="look at what there is now, and decide again",
    )
