"""The first form of the tables, and triggers that keep the logs' rows as they were written."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_APPEND_ONLY = ("entries", "nodes")


def upgrade() -> None:
    """Make all tables."""
    _make_heads()
    _make_records()
    _make_counters()
    _make_entries()
    _make_nodes()
    _make_documents()
    _make_triggers()


def _make_heads() -> None:
    op.create_table(
        "heads",
        _text("project"),
        *(_number(name) for name in ("size", "generation", "key_id")),
        *(_blob(name) for name in ("nonce", "wrapped", "frontier", "checkpoint", "tag")),
        sa.PrimaryKeyConstraint("project"),
        sqlite_strict=True,
    )


def _make_records() -> None:
    op.create_table(
        "records",
        *(_text(name) for name in ("project", "kind", "name")),
        _number("version"),
        _number("key_id"),
        _blob("nonce"),
        _blob("sealed"),
        _number("created"),
        sa.Column("expires", _INTEGER),
        _number("changed"),
        sa.PrimaryKeyConstraint("project", "kind", "name", "version"),
        sqlite_strict=True,
    )
    op.create_index("records_changed", "records", ["project", "changed"])
    op.create_index("records_key", "records", ["key_id"])


def _make_counters() -> None:
    op.create_table(
        "counters",
        *(_text(name) for name in ("project", "name")),
        *(_number(name) for name in ("value", "changed")),
        sa.PrimaryKeyConstraint("project", "name"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index("counters_changed", "counters", ["project", "changed"])


def _make_entries() -> None:
    op.create_table(
        "entries",
        _text("project"),
        _number("number"),
        _blob("leaf_hash"),
        sa.Column("denial", sa.Text),
        _blob("entry"),
        sa.PrimaryKeyConstraint("project", "number"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    some = sa.text("denial IS NOT NULL")
    op.create_index(
        "entries_denial", "entries", ["project", "denial"], unique=True, sqlite_where=some, postgresql_where=some
    )


def _make_nodes() -> None:
    op.create_table(
        "nodes",
        _text("project"),
        _number("level"),
        _number("number"),
        _blob("hash"),
        sa.PrimaryKeyConstraint("project", "level", "number"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )


def _make_documents() -> None:
    op.create_table("documents", _text("name"), _blob("value"), sa.PrimaryKeyConstraint("name"), sqlite_strict=True)


def _make_triggers() -> None:
    """Nothing that an attacker could not take away: they catch mistakes."""
    if op.get_bind().dialect.name == "sqlite":
        for table in _APPEND_ONLY:
            for verb in ("update", "delete"):
                op.execute(
                    f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table} "
                    "BEGIN SELECT RAISE(ABORT, 'append-only'); END"
                )
        return
    op.execute(
        "CREATE FUNCTION kokon_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'append-only'; END $$"
    )
    for table in _APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION kokon_append_only()"
        )


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, _INTEGER, nullable=False)


def _blob(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=False)
