"""A project's state in memory, read from the database and verified, and brought up to date after another replica wrote.

What is read counts only if the head's tag holds over it; how it was found out what to read is a matter of speed.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from sqlalchemy import select

from kokon.provisioning.database import head as heads
from kokon.provisioning.database import sealing
from kokon.provisioning.database.catalogue import Names, Snapshot, with_row
from kokon.provisioning.database.head import Head, HeadRow
from kokon.provisioning.database.leaves import broken, follow, rolled_back
from kokon.provisioning.database.schema import COUNTERS, HEADS, RECORDS
from kokon.provisioning.database.sealing import meta, row_of, tampered

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import Connection, Select

    from kokon.provisioning.database.head import Secret
    from kokon.provisioning.database.sealing import Row
    from kokon.provisioning.database.values import KeyRing

SERVER = ""
_HEAD = [HEADS.c[name] for name in heads.COLUMNS]
_RECORD = [RECORDS.c[name] for name in sealing.COLUMNS]
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class State:
    """All of a project that is kept in memory. `projects`, in the server's own state, are the others with a head."""

    snapshot: Snapshot
    head: Head
    counters: Mapping[str, int] = field(default_factory=dict, repr=False)
    projects: frozenset[str] = frozenset()

    def total(self, secret: Secret) -> int:
        """The multiset hash of all this under a secret."""
        return secret.total(self.snapshot.digests(), self.counters, self.projects)


@dataclass(slots=True)
class Moves:
    """What is to change in a state: names and counters as they will be, and projects that are new."""

    names: Names = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    projects: set[str] = field(default_factory=set)

    def total(self, state: State) -> int:
        """The multiset hash of `state` after these moves, under its own secret."""
        secret, total = state.head.secret, state.head.total
        for place, named in self.names.items():
            total += sum(secret.row(row.digest) for row in named.all)
            total -= sum(secret.row(row.digest) for row in state.snapshot.named(*place).all)
        for name, value in self.counters.items():
            total += secret.total((), {name: value}, ())
            if name in state.counters:
                total -= secret.counter(name, state.counters[name])
        return total + sum(map(secret.project, self.projects - state.projects))

    def apply(self, state: State, generation: int) -> State:
        """The state after these moves, with the old head still."""
        counters = MappingProxyType({**state.counters, **self.counters}) if self.counters else state.counters
        snapshot = state.snapshot.changed(self.names, generation)
        return State(snapshot, state.head, counters, state.projects | self.projects)


def head_row(connection: Connection, project: str) -> HeadRow | None:
    """A project's head as it stands, not yet verified."""
    columns = connection.execute(select(*_HEAD).where(HEADS.c.project == project)).first()
    return None if columns is None else HeadRow.of(columns)


def all_projects(connection: Connection) -> list[str]:
    """The projects that have a head, the server itself included."""
    return list(connection.execute(select(HEADS.c.project).order_by(HEADS.c.project)).scalars())


def load(connection: Connection, ring: KeyRing, row: HeadRow) -> State:
    """A project's state, from all its rows. Raises `UntrustedError` (`store-tampered`)."""
    secret, names = row.secret(ring), Names()
    total = 0
    for found in _rows(connection, row.project):
        total += secret.row(_gather(names, Snapshot(row.project), found))
    counters = _counters(connection, row.project, -1)
    projects = _projects(connection, row.project)
    head = Head.verified(row, secret, total + secret.total((), counters, projects))
    if head is None:
        raise tampered("rows were put in, taken out, put back or changed", repr(row.project))
    snapshot = Snapshot(row.project).changed(names, row.generation)
    return State(snapshot, head, MappingProxyType(counters), projects)


def refresh(connection: Connection, ring: KeyRing, row: HeadRow, known: State | None) -> State:
    """The state after other replicas wrote, from what changed; from everything if none is known.

    Raises `UntrustedError` (`store-tampered`, and `log-rolled-back` or `log-broken` if the log does not go on from the
    one that is known).
    """
    if known is None:
        return load(connection, ring, row)
    if hmac.compare_digest(row.tag, known.head.tag):
        return known
    _check_advance(connection, row, known)
    secret = known.head.secret if _same_secret(row, known) else row.secret(ring)
    if secret is known.head.secret:
        head = Head.verified(row, secret, known.head.total)
        if head is not None and head.generation == known.head.generation:
            return replace(known, head=head)
    moves = _moves(connection, row, known)
    updated = moves.apply(known, row.generation)
    total = moves.total(known) if secret is known.head.secret else updated.total(secret)
    head = Head.verified(row, secret, total)
    return load(connection, ring, row) if head is None else replace(updated, head=head)


def _check_advance(connection: Connection, row: HeadRow, known: State) -> None:
    if row.size < known.head.size or row.generation < known.head.generation:
        raise rolled_back(row.project, f"{known.head.size} entries or more", f"{row.size}")
    if follow(connection, row.project, known.head.frontier, row.size) != row.read_frontier():
        raise broken(row.project, "the log does not go on from the one that is known")


def _same_secret(row: HeadRow, known: State) -> bool:
    secret = known.head.secret
    return (row.key_id, row.nonce, row.wrapped) == (secret.key_id, secret.nonce, secret.wrapped)


def _moves(connection: Connection, row: HeadRow, known: State) -> Moves:
    """The rows that were written since; removals go unseen, but for those that a newer row implies."""
    names: Names = {}
    for changed in _rows(connection, row.project, known.head.size):
        _gather(names, known.snapshot, changed)
    counters = _counters(connection, row.project, known.head.size)
    return Moves(names, counters, set(_projects(connection, row.project)))


def _gather(names: Names, snapshot: Snapshot, row: Row) -> bytes:
    """Put a row in its place among `names`, which begin as they are in the snapshot; returns its digest."""
    place, known = (row.key.kind, row.key.name), meta(row)
    names[place] = with_row(names.get(place) or snapshot.named(*place), known, gone=row.gone)
    return known.digest


def _rows(connection: Connection, project: str, after: int = -1) -> Iterator[Row]:
    query: Select[tuple[object, ...]] = select(*_RECORD).where(RECORDS.c.project == project)
    if after >= 0:
        query = query.where(RECORDS.c.changed > after)
    query = query.order_by(RECORDS.c.kind, RECORDS.c.name, RECORDS.c.version)
    with connection.execute(query.execution_options(yield_per=_CHUNK)) as found:
        for columns in found:
            yield row_of(project, columns)


def _counters(connection: Connection, project: str, after: int) -> dict[str, int]:
    query = select(COUNTERS.c.name, COUNTERS.c.value).where(COUNTERS.c.project == project, COUNTERS.c.changed > after)
    return dict(iter(connection.execute(query).all()))


def _projects(connection: Connection, project: str) -> frozenset[str]:
    return frozenset(all_projects(connection)) - {SERVER} if project == SERVER else frozenset()
