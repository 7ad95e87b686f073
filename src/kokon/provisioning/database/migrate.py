"""Bringing a database's tables to what this program knows, whichever replica comes first."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from kokon.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from kokon.provisioning.database.engines import Backend

_LOCK = 0x6B6F6B6F6E  # "kokon"
"""The advisory lock that replicas take while they look at the tables."""


def migrate(backend: Backend, then: Callable[[Connection], None]) -> None:
    """Make or upgrade the tables and do `then`, in one transaction, under a lock that keeps others out.

    Raises `HostError` (`store-newer`) for tables of a newer program, and those of `engines.failure`.
    """
    with backend.writing() as connection:
        if backend.shared:
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        upgrade(connection)
        then(connection)


def upgrade(connection: Connection, target: str = "head") -> None:
    """Make or upgrade the tables to a revision, in the connection's transaction and without the lock.

    Raises `HostError` (`store-newer`).
    """
    known, newest = _steps()
    found = set(MigrationContext.configure(connection).get_current_heads())
    if not found | {target} - {"head"} <= known:
        raise HostError(
            "store-newer",
            "the database was made by a newer version of this program",
            expected=newest,
            found=", ".join(sorted(found | {target} - {"head"}))[:80],
            hint="start that version or a newer one, or restore a backup that was made before the upgrade",
        )
    if found != {newest}:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, target)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


@functools.cache
def _steps() -> tuple[frozenset[str], str | None]:
    """All revisions that this program knows, and the newest of them."""
    script = ScriptDirectory.from_config(_config())
    return frozenset(step.revision for step in script.walk_revisions()), script.get_current_head()


def revision(connection: Connection) -> str:
    """Which form the tables have."""
    return MigrationContext.configure(connection).get_current_revision() or ""
