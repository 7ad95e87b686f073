"""Rotation: rows that are under an older data key are sealed anew under the current one, a few at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select, union

from kokon.provisioning.database import sealing
from kokon.provisioning.database.batch import finish, open_draft
from kokon.provisioning.database.draft import render
from kokon.provisioning.database.head import Secret
from kokon.provisioning.database.schema import HEADS, RECORDS
from kokon.provisioning.database.sealing import GONE, digest, row_of, seal, tampered, unseal
from kokon.provisioning.database.values import Entry
from kokon.provisioning.database.writing import write

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection

    from kokon.provisioning.database.batch import Context
    from kokon.provisioning.database.draft import Draft
    from kokon.provisioning.database.sealing import Row
    from kokon.provisioning.database.state import State
    from kokon.provisioning.database.values import KeyRing

_BYTES = 16 << 20
_RECORD = [RECORDS.c[name] for name in sealing.COLUMNS]


@dataclass(frozen=True, slots=True)
class Resealed:
    """The states after, which hold once the transaction is committed, and how many rows are left."""

    states: dict[str, State]
    left: int


def reseal(connection: Connection, context: Context, limit: int) -> Resealed:
    """Seal up to `limit` rows anew, a project's head counted as one, in the connection's transaction.

    Each project that it touches gets a log entry `records-resealed`. Raises `UntrustedError` as reading a record does.
    """
    ring, now = context.ring, context.clock()
    current = ring.current
    states: dict[str, State] = {}
    for project in _projects(connection, current):
        if limit <= 0:
            break
        draft = open_draft(connection, context, project, now)
        secret = None
        if draft.state.head.secret.key_id != current:
            secret, limit = Secret.new(ring, project), limit - 1
        rows = _rows(connection, project, current, limit)
        if not rows and secret is None:
            continue
        for row in rows:
            draft.replace(_again(ring, draft, row))
        draft.generation += 1
        draft.add(render(project, Entry("records-resealed", {"records": len(rows), "key": current})))
        states[project] = finish(context, draft, secret)
        write(connection, context.backend, context.replica, draft, states[project])
        limit -= len(rows)
    return Resealed(states, _left(connection, current))


def _again(ring: KeyRing, draft: Draft, row: Row) -> Row:
    known = draft.named(row.key.kind, row.key.name).find(row.version)
    if known is None or known.digest != digest(row):
        raise tampered("a record is not the one that was written", f"{row.key.name} version {row.version}")
    return seal(ring, row.key, row.version, unseal(ring, row), row.created, row.expires)


def _rows(connection: Connection, project: str, current: int, limit: int) -> list[Row]:
    query = select(*_RECORD).where(RECORDS.c.project == project, _stale(current)).limit(limit)
    rows: list[Row] = []
    size = 0
    with connection.execute(query.execution_options(yield_per=64)) as found:
        for columns in found:
            rows.append(row_of(project, columns))
            size += rows[-1].size
            if size > _BYTES:
                break
    return rows


def _stale(current: int) -> ColumnElement[bool]:
    return RECORDS.c.key_id.not_in((current, GONE))


def _projects(connection: Connection, current: int) -> list[str]:
    records = select(RECORDS.c.project).where(_stale(current))
    stale = union(records, select(HEADS.c.project).where(HEADS.c.key_id != current))
    return sorted(connection.execute(stale).scalars())


def uses(connection: Connection, key_id: int) -> bool:
    """Whether anything is sealed under that data key."""
    tables = (RECORDS.c.key_id, HEADS.c.key_id)
    return any(connection.execute(select(1).where(column == key_id).limit(1)).first() for column in tables)


def heads_behind(connection: Connection, current: int) -> bool:
    """Whether a project's head is under an older data key than that. Once none is, no replica seals with an older one:
    whoever writes reads the head first, and needs its key for that."""
    return connection.execute(select(1).where(HEADS.c.key_id != current).limit(1)).first() is not None


def _left(connection: Connection, current: int) -> int:
    records = select(func.count()).select_from(RECORDS).where(_stale(current))
    heads = select(func.count()).select_from(HEADS).where(HEADS.c.key_id != current)
    return sum(connection.execute(query).scalar_one() for query in (records, heads))
