"""The store: records, counters and logs of all projects, in SQLite or PostgreSQL.

What is in memory: each project's catalogue (names, versions, digests), its counters and its head, all verified when
the store is opened; and the sealed rows that were read lately. What is trusted: the key ring, and what the caller
remembered of the logs. Everything that the database says is checked against these.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from typing import TYPE_CHECKING, Self, cast

from sqlalchemy import select

from kokon.errors import UntrustedError, UsageError
from kokon.provisioning.database import sealing
from kokon.provisioning.database.batch import Context
from kokon.provisioning.database.cache import Cache
from kokon.provisioning.database.catalogue import Snapshot
from kokon.provisioning.database.draft import is_denial
from kokon.provisioning.database.engines import open_backend
from kokon.provisioning.database.leaves import (
    all_leaves,
    broken,
    hash_source,
    read_denial,
    read_entries,
)
from kokon.provisioning.database.migrate import migrate
from kokon.provisioning.database.notify import Listener
from kokon.provisioning.database.opening import begin, load_all, load_ring
from kokon.provisioning.database.reseal import heads_behind, uses
from kokon.provisioning.database.rings import RingLoader, SharedRing, change
from kokon.provisioning.database.schema import RECORDS
from kokon.provisioning.database.sealing import digest, row_of, tampered, unseal
from kokon.provisioning.database.state import SERVER, head_row, load
from kokon.provisioning.database.values import Entry, Expire, Key, StaleDecision, Work
from kokon.provisioning.database.writer import Writer
from kokon.provisioning.ledger.merkle import EMPTY_ROOT, Frontier

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future
    from datetime import datetime
    from pathlib import Path

    from sqlalchemy import Connection

    from kokon.provisioning.custody import keyring as custody
    from kokon.provisioning.database.sealing import Row
    from kokon.provisioning.database.state import State
    from kokon.provisioning.database.values import Clock, KeyRing, Kind, Meta, Receipt, Remembered, Sign

_PURGE_CHUNK = 128
_RECORD = [RECORDS.c[name] for name in sealing.COLUMNS]


class Store:
    """Safe with threads. Made by `Store.open`; given back by `close`, or by leaving it as a context."""

    def __init__(self, context: Context) -> None:
        self.backend = context.backend
        self._context = context
        self._cache = Cache()
        self._closing = threading.Lock()
        self._closed = False
        self._writer = Writer(context)
        self._listener = (
            Listener(context.backend.engine, self._writer, context.replica) if self.backend.shared else None
        )

    @classmethod
    def open(
        cls,
        location: Path | str,
        ring: KeyRing | RingLoader,
        *,
        sign: Sign,
        clock: Clock,
        remembered: Remembered | None = None,
    ) -> Store:
        """The store at a SQLite file's path or a `postgresql://` URL, made if there is none, and verified.

        A `RingLoader` has the key ring read from the database, or made in an empty one. `sign` is not called before the
        first log entry. Takes time that grows with the records (some 10 µs each), not with the logs. Raises
        `UntrustedError` (`store-tampered`, `log-rolled-back`, `log-broken`), `HostError` (`store-newer`, and those of
        `open_backend` and `failure`), `UsageError` (`store-location`), and as the ring is read.
        """
        backend = open_backend(location)
        with contextlib.ExitStack() as undo:
            undo.callback(backend.close)
            loader = ring if isinstance(ring, RingLoader) else None
            context = Context(backend, cast("KeyRing", ring), sign, clock, secrets.token_hex(8), loader)

            def prepare(connection: Connection) -> None:
                if loader is not None:
                    load_ring(connection, context, loader)
                begin(connection, context)

            migrate(backend, prepare)
            with backend.reading() as connection:
                load_all(connection, context, remembered or {})
            store = cls(context)
            undo.pop_all()
        return store

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Commit what waits, and give the database back. A second time does nothing."""
        with self._closing:
            closed, self._closed = self._closed, True
        if closed:
            return
        if self._listener is not None:
            self._listener.close()
        self._writer.close()
        self.backend.close()

    def projects(self) -> tuple[str, ...]:
        """All projects that anything was ever written for, but for the server itself, sorted."""
        return tuple(sorted(self._context.states[SERVER].projects))

    def snapshot(self, project: str) -> Snapshot:
        """A project's catalogue as of its last commit that this replica heard of."""
        state = self._context.states.get(project)
        return Snapshot(project) if state is None else state.snapshot

    def freshen(self, project: str) -> None:
        """Hear now what other replicas wrote of a project, which else is heard of a moment later. Raises as `read`."""
        self._current(project)

    def read(self, project: str, kind: Kind, name: str, version: int | None = None) -> bytes | None:
        """A record's value, the newest or that version, or None if there is none.

        Raises `UntrustedError` (`store-tampered`), and those of `failure` and of the key ring.
        """
        for last in (False, True):
            meta = _find(self.snapshot(project), kind, name, version)
            if meta is None:
                return None
            row = self._cache.get(meta.digest) or self._fetch(Key(project, kind, name), meta)
            if row is not None:
                try:
                    return unseal(self._context.ring, row)
                except UntrustedError:  # it may be under a key that was retired meanwhile; there is a newer row then
                    if last:
                        raise
            if not last:
                self._writer.refresh(project).result()
        raise tampered(f"a {kind} record is not the one that was written", f"{name} version {version or 'newest'}")

    def at_hand(self, project: str, kind: Kind, name: str, version: int) -> bool:
        """Whether `read` would not have to ask the database."""
        meta = _find(self.snapshot(project), kind, name, version)
        return meta is None or self._cache.get(meta.digest) is not None

    def submit(self, work: Work) -> Future[Receipt]:
        """Have a work committed together with others that wait; it is durable when the future is done.

        The future raises `StaleDecision`, `DeniedError` (`changed-meanwhile`, `count-exhausted`), `HostError`
        (`store-failed`, `disk-full`, `store-unreachable`: in the last case the work may have been done all the same,
        and its log entries be there), `UntrustedError` as `open`. Raises at once as `Writer.submit`.
        """
        return self._writer.submit(work)

    def write(self, work: Work) -> asyncio.Future[Receipt]:
        """`submit`, for a coroutine of the running event loop."""
        return self._writer.write(work)

    def commit(self, work: Work) -> Receipt:
        """`submit`, and wait."""
        return self.submit(work).result()

    def entries(self, project: str, start: int, limit: int) -> list[bytes]:
        """Log entries from number `start` on: at most `limit`, 1000, and some 8 MiB, whichever is least.

        Raises `UntrustedError` (`log-broken`), `UsageError` (`log-proof-range`) for a number below 0.
        """
        if start < 0:
            raise UsageError("log-proof-range", "a log's entries are numbered from 0", found=start)
        with self.backend.reading() as connection:
            return read_entries(connection, project, start, limit)

    def denial(self, project: str, identity: str) -> bytes | None:
        """The log entry of a denial, or None. Raises `UntrustedError` (`log-broken`)."""
        if not is_denial(identity):
            return None
        with self.backend.glance() as connection:
            return read_denial(connection, project, identity)

    def checkpoint(self, project: str) -> bytes:
        """The log's latest signed checkpoint."""
        state = self._current(project)
        return (state and state.head.checkpoint) or self._context.sign(project, 0, EMPTY_ROOT)

    def frontier(self, project: str) -> Frontier:
        """The right edge of the log's tree; it has the log's size and root."""
        state = self._current(project)
        return Frontier() if state is None else state.head.frontier

    def hash_at(self, project: str, level: int, index: int) -> bytes:
        """The hash of a complete subtree of a log, as proofs and tiles need it.

        Raises `UsageError` (`log-proof-range`), `UntrustedError` (`log-broken`).
        """
        with self.backend.glance() as connection:
            return hash_source(connection, project)(level, index)

    def counter(self, project: str, name: str) -> int:
        """What a counter is at, as far as this replica heard."""
        state = self._context.states.get(project)
        return 0 if state is None else state.counters.get(name, 0)

    def remember(self) -> Mapping[str, tuple[int, bytes]]:
        """What to keep outside the database and to give to `open`: each log's size and root."""
        heads = {project: state.head for project, state in tuple(self._context.states.items())}
        return {project: (head.size, head.frontier.root()) for project, head in heads.items() if head.size}

    def verify(self, project: str) -> int:
        """Read a project's whole log, hash every entry, and compare with its head; returns the number of entries.

        Raises `UntrustedError` (`log-broken`).
        """
        with self.backend.reading() as connection:
            row = head_row(connection, project)
            if row is None:
                return 0
            known = load(connection, self._context.ring, row).head.frontier
            if Frontier().append(all_leaves(connection, project)) != known:
                raise broken(project, "its entries are not those of its head")
        return known.size

    @property
    def ring(self) -> SharedRing:
        """The key ring that was read from the database. Raises `UsageError` (`ring-given`) if there is none there."""
        ring = self._context.ring
        if not isinstance(ring, SharedRing):
            raise UsageError("ring-given", "the key ring of this store is not kept in its database")
        return ring

    def add_data_key(self) -> int:
        """Add a data key, under which new rows are sealed from now on; its id. Raises as `rings.change`."""
        return self._change_ring(lambda _connection, ring: ring.add()).current

    def retire_data_keys(self) -> tuple[int, ...]:
        """Destroy older data keys under which nothing is sealed any more; their ids.

        None, unless the heads of all projects are under the newest one (`reseal`): before that another replica may be
        about to seal with any. Where other replicas write, the one before the newest stays, for those that read. Raises
        as `rings.change`.
        """
        retired: list[int] = []

        def alter(connection: Connection, ring: custody.KeyRing) -> custody.KeyRing:
            spare = 1 if self.backend.shared else 0
            for key_id in () if heads_behind(connection, ring.current) else ring.ids:
                if key_id < ring.current - spare and not uses(connection, key_id):
                    ring = ring.retire(key_id)
                    retired.append(key_id)
            return ring

        self._change_ring(alter)
        return tuple(retired)

    def _change_ring(self, alter: Callable[[Connection, custody.KeyRing], custody.KeyRing]) -> custody.KeyRing:
        shared, loader = self.ring, self._context.loader
        if loader is None:
            raise UsageError("ring-given", "the key ring of this store is not kept in its database")
        changed = change(self.backend, loader.master, alter, (shared.generation, shared.identity))
        shared.use(changed)
        return changed

    def use(self, ring: KeyRing) -> None:
        """Go on with another key ring, which has all keys of the one so far; new rows are sealed under its current one.

        Every replica must have a key before any of them seals with it.
        """
        self._context.ring = ring

    def reseal(self, limit: int) -> int:
        """Seal up to `limit` rows anew that are under an older data key; returns how many are left.

        Once none is left and no replica uses it any more, the older key can be destroyed. Raises as `read`.
        """
        return self._writer.reseal(limit).result()

    def purge(self, now: datetime) -> int:
        """Delete for good what expired by `now`, each with a log entry `record-expired`; returns how many.

        What another commit changes meanwhile is left to the next purge. Raises as `submit`.
        """
        return sum(_purge(self, project, now) for project in tuple(self._context.states))

    def observe(self, committed: Callable[[int, float], None]) -> None:
        """Have `committed` told of each transaction: how many works it did, and the seconds that it took."""
        self._writer.committed = committed

    def ping(self) -> None:
        """Whether the database answers; raises those of `failure` if not."""
        with self.backend.glance() as connection:
            connection.execute(select(1)).close()

    def _fetch(self, key: Key, meta: Meta) -> Row | None:
        """A record's row, if it is the one that the catalogue knows."""
        query = select(*_RECORD).where(
            RECORDS.c.project == key.project,
            RECORDS.c.kind == key.kind,
            RECORDS.c.name == key.name,
            RECORDS.c.version == meta.version,
        )
        with self.backend.glance() as connection:
            columns = connection.execute(query).first()
        if columns is None:
            return None
        row = row_of(key.project, columns)
        if digest(row) != meta.digest:
            return None
        self._cache.put(meta.digest, row)
        return row

    def _current(self, project: str) -> State | None:
        """A project's state, brought up to date where others write too."""
        if self.backend.shared:
            self._writer.refresh(project).result()
        return self._context.states.get(project)


def _find(snapshot: Snapshot, kind: Kind, name: str, version: int | None) -> Meta | None:
    if version is None:
        return snapshot.get(kind, name)
    return next((meta for meta in snapshot.versions(kind, name) if meta.version == version), None)


def _purge(store: Store, project: str, now: datetime) -> int:
    snapshot = store.snapshot(project)
    expired = [
        Expire(kind, name, meta.version)
        for kind, name, named in snapshot.all()
        for meta in named.versions
        if meta.expires is not None and meta.expires <= now
    ]
    purged, generation = 0, snapshot.generation
    with contextlib.suppress(StaleDecision):
        for at in range(0, len(expired), _PURGE_CHUNK):
            chunk = tuple(expired[at : at + _PURGE_CHUNK])
            generation = store.commit(Work(project, tuple(map(_told, chunk)), chunk, generation=generation)).generation
            purged += len(chunk)
    return purged


def _told(expired: Expire) -> Entry:
    return Entry("record-expired", {"kind": expired.kind, "name": expired.name, "version": expired.version})
