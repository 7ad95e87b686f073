"""The logs' rows: entries, hashes of tiles, and what can be computed from them. Reads only."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from sqlalchemy import select

from kokon.errors import UntrustedError, UsageError
from kokon.provisioning.database.schema import ENTRIES, NODES
from kokon.provisioning.ledger.merkle import (
    HASH_SIZE,
    Frontier,
    consistency_proof,
    leaf_hash,
    verify_consistency,
)
from kokon.provisioning.ledger.tiles import hashes_between

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from kokon.provisioning.ledger.merkle import HashAt

PAGE = 1000
PAGE_BYTES = 8 << 20
_CHUNK = 512


def stored_hashes(connection: Connection, project: str, level: int, first: int, count: int) -> list[bytes]:
    """`count` hashes of tile level `level` from number `first` on.

    Raises `UsageError` (`log-proof-range`) where the log does not reach; `UntrustedError` (`log-broken`) for a gap.
    """
    if level == 0:
        query = select(ENTRIES.c.number, ENTRIES.c.leaf_hash).where(ENTRIES.c.project == project)
        number = ENTRIES.c.number
    else:
        query = select(NODES.c.number, NODES.c.hash).where(NODES.c.project == project, NODES.c.level == level)
        number = NODES.c.number
    rows = connection.execute(query.where(number >= first, number < first + count).order_by(number)).all()
    if len(rows) < count:
        raise UsageError("log-proof-range", "the log does not reach that far", found=f"level {level}, hash {first}")
    return [_hash(project, found, value) for found, value in rows]


def hash_source(connection: Connection, project: str) -> HashAt:
    """What proofs are made from: level and index to the hash of a complete subtree. Raises as `stored_hashes`."""
    return hashes_between(lambda level, first, count: stored_hashes(connection, project, level, first, count))


def root_at(connection: Connection, project: str, size: int) -> bytes:
    """The root of the log's first `size` entries, computed from stored hashes. Raises as `stored_hashes`."""
    hash_at, start, roots = hash_source(connection, project), 0, []
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            roots.append(hash_at(level, start >> level))
            start += 1 << level
    return Frontier(size, tuple(roots)).root()


def check_extends(connection: Connection, project: str, size: int, root: bytes, frontier: Frontier) -> None:
    """Check that the stored log is `frontier`'s, and begins with the one that had this size and root.

    Raises `UntrustedError` (`log-rolled-back`, `log-broken`).
    """
    if frontier.size < size:
        raise rolled_back(project, f"{size} entries or more", f"{frontier.size}")
    try:
        if not hmac.compare_digest(root_at(connection, project, frontier.size), frontier.root()):
            raise broken(project, "its hashes are not those of its head")
        path = consistency_proof(size, frontier.size, hash_source(connection, project))
    except UsageError as error:
        raise broken(project, "hashes are missing") from error
    try:
        verify_consistency(size, root, frontier.size, frontier.root(), path)
    except UntrustedError as error:
        raise rolled_back(project, f"root {root.hex()[:16]} at {size} entries", "another") from error


def follow(connection: Connection, project: str, known: Frontier, size: int) -> Frontier:
    """`known` with the leaves that were stored since, up to `size`. Raises `UntrustedError` (`log-broken`)."""
    query = (
        select(ENTRIES.c.number, ENTRIES.c.leaf_hash)
        .where(ENTRIES.c.project == project, ENTRIES.c.number >= known.size, ENTRIES.c.number < size)
        .order_by(ENTRIES.c.number)
        .execution_options(yield_per=_CHUNK)
    )
    grown = known.append(_hash(project, number, value) for number, value in connection.execute(query))
    if grown.size != size:
        raise broken(project, "entries are missing")
    return grown


def read_entries(connection: Connection, project: str, start: int, limit: int) -> list[bytes]:
    """Entries from number `start` on: at most `limit`, 1000, and some 8 MiB, whichever is least.

    Raises `UntrustedError` (`log-broken`) for a gap, and for an entry that is not what its hash says.
    """
    query = (
        select(ENTRIES.c.number, ENTRIES.c.leaf_hash, ENTRIES.c.entry)
        .where(ENTRIES.c.project == project, ENTRIES.c.number >= start)
        .order_by(ENTRIES.c.number)
        .limit(max(0, min(limit, PAGE)))
        .execution_options(yield_per=64)
    )
    found: list[bytes] = []
    size = 0
    with connection.execute(query) as rows:
        for number, hashed, entry in rows:
            if number != start + len(found):
                raise broken(project, f"entry {start + len(found)} is missing")
            found.append(_entry(project, number, hashed, entry))
            size += len(entry)
            if size > PAGE_BYTES:
                break
    return found


def read_denial(connection: Connection, project: str, identity: str) -> bytes | None:
    """The entry of a denial, or None. Raises as `read_entries`."""
    query = select(ENTRIES.c.number, ENTRIES.c.leaf_hash, ENTRIES.c.entry).where(
        ENTRIES.c.project == project, ENTRIES.c.denial == identity
    )
    row = connection.execute(query).first()
    return None if row is None else _entry(project, *row)


def all_leaves(connection: Connection, project: str) -> Iterator[bytes]:
    """The hashes of all entries, each computed from the entry anew and compared. Raises as `read_entries`."""
    query = (
        select(ENTRIES.c.number, ENTRIES.c.leaf_hash, ENTRIES.c.entry)
        .where(ENTRIES.c.project == project)
        .order_by(ENTRIES.c.number)
        .execution_options(yield_per=_CHUNK)
    )
    with connection.execute(query) as rows:
        for number, hashed, entry in rows:
            yield leaf_hash(_entry(project, number, hashed, entry))


def broken(project: str, found: str) -> UntrustedError:
    """The error for a log whose rows are not what was written."""
    return UntrustedError(
        "log-broken",
        f"the log of {project or 'the server'!r} is broken: rows were changed, removed or put in",
        found=found,
        hint="keep a copy of the database as evidence, and restore it from a backup",
    )


def rolled_back(project: str, expected: str, found: str) -> UntrustedError:
    """The error for a log that is older than the one seen before, or another one."""
    return UntrustedError(
        "log-rolled-back",
        f"the database went back in time: the log of {project or 'the server'!r} is not the one seen before",
        expected=expected,
        found=found,
        hint="put the latest database back; if a backup was restored on purpose, forget what was remembered of it",
    )


def _entry(project: str, number: int, hashed: object, entry: object) -> bytes:
    if not isinstance(entry, bytes) or leaf_hash(entry) != hashed:
        raise broken(project, f"entry {number} was changed")
    return entry


def _hash(project: str, number: int, value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) != HASH_SIZE:
        raise broken(project, f"hash {number} was changed")
    return value
