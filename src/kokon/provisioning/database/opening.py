"""What happens to a database when a store is opened on it: the server's head is made, everything is verified."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from kokon.provisioning.database.batch import finish, open_draft
from kokon.provisioning.database.leaves import check_extends, rolled_back
from kokon.provisioning.database.rings import RingLoader, SharedRing
from kokon.provisioning.database.schema import METADATA, TABLES, VOUCHED
from kokon.provisioning.database.sealing import tampered
from kokon.provisioning.database.state import SERVER, all_projects, head_row, load
from kokon.provisioning.database.writing import write
from kokon.provisioning.ledger.merkle import EMPTY_ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from kokon.provisioning.database.batch import Context
    from kokon.provisioning.database.values import Remembered


def is_empty(connection: Connection, names: Sequence[str] = TABLES) -> bool:
    """Whether no table of these has a row."""
    tables = (METADATA.tables[name] for name in names)
    return all(connection.execute(select(1).select_from(table).limit(1)).first() is None for table in tables)


def load_ring(connection: Connection, context: Context, ring: RingLoader) -> None:
    """Have the context use the ring of the database. Raises as `RingLoader.load`."""
    found = ring.load(connection, empty=is_empty(connection, VOUCHED))
    context.ring = SharedRing(found, lambda *known: ring.fetch(context.backend, *known))


def begin(connection: Connection, context: Context) -> None:
    """Make the server's own head in an empty database. Raises `UntrustedError` (`store-tampered`) if it is gone."""
    if head_row(connection, SERVER) is not None:
        return
    if not is_empty(connection, VOUCHED):
        raise tampered("the server's own head is missing", "other rows")
    draft = open_draft(connection, context, SERVER, context.clock())
    write(connection, context.backend, context.replica, draft, finish(context, draft))


def load_all(connection: Connection, context: Context, remembered: Remembered) -> None:
    """Read and verify every project's records and head, and that each log goes on from what is remembered of it.

    Raises `UntrustedError` (`store-tampered`, `log-rolled-back`, `log-broken`).
    """
    for project in all_projects(connection):
        row = head_row(connection, project)
        if row is None:
            continue
        state = load(connection, context.ring, row)
        size, root = remembered.get(project, (0, EMPTY_ROOT))
        check_extends(connection, project, size, root if size else EMPTY_ROOT, state.head.frontier)
        context.states[project] = state
    for project, (size, _) in remembered.items():
        if size and project not in context.states:
            raise rolled_back(project, f"{size} entries or more", "no such log")
