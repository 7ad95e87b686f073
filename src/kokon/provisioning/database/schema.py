"""The tables, as SQLAlchemy Core sees them; `migrations` makes them, and a test compares the two.

| Table | Holds |
|---|---|
| records | one row for each version of a record, its value sealed |
| counters | plain numbers, covered by the head's total |
| entries | the logs' entries, one row each, never changed |
| nodes | hashes of complete subtrees of 256, 65536, ... leaves, so that a proof reads a few hundred rows at most |
| heads | one row for each project, which vouches for the rest |
| documents | the key ring, wrapped by the master key |

`changed` is the log's size after the commit that wrote the row: a hint for other replicas on what to read again.
Nothing trusts it.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, Table, Text

METADATA = MetaData()
INTEGER = BigInteger().with_variant(Integer(), "sqlite")
VOUCHED = ("heads", "records", "counters", "entries", "nodes")
"""The tables that the heads vouch for."""
TABLES = ("documents", *VOUCHED)
"""All tables, in the order of a backup."""

RECORDS = Table(
    "records",
    METADATA,
    Column("project", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("version", INTEGER, primary_key=True, autoincrement=False),
    Column("key_id", INTEGER, nullable=False),
    Column("nonce", LargeBinary, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("created", INTEGER, nullable=False),
    Column("expires", INTEGER),
    Column("changed", INTEGER, nullable=False),
    sqlite_strict=True,
)
Index("records_changed", RECORDS.c.project, RECORDS.c.changed)
Index("records_key", RECORDS.c.key_id)

COUNTERS = Table(
    "counters",
    METADATA,
    Column("project", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", INTEGER, nullable=False),
    Column("changed", INTEGER, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
Index("counters_changed", COUNTERS.c.project, COUNTERS.c.changed)

ENTRIES = Table(
    "entries",
    METADATA,
    Column("project", Text, primary_key=True),
    Column("number", INTEGER, primary_key=True, autoincrement=False),
    Column("leaf_hash", LargeBinary, nullable=False),
    Column("denial", Text),
    Column("entry", LargeBinary, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
Index(
    "entries_denial",
    ENTRIES.c.project,
    ENTRIES.c.denial,
    unique=True,
    sqlite_where=ENTRIES.c.denial.is_not(None),
    postgresql_where=ENTRIES.c.denial.is_not(None),
)

NODES = Table(
    "nodes",
    METADATA,
    Column("project", Text, primary_key=True),
    Column("level", INTEGER, primary_key=True, autoincrement=False),
    Column("number", INTEGER, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

HEADS = Table(
    "heads",
    METADATA,
    Column("project", Text, primary_key=True),
    Column("size", INTEGER, nullable=False),
    Column("generation", INTEGER, nullable=False),
    Column("key_id", INTEGER, nullable=False),
    Column("nonce", LargeBinary, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("frontier", LargeBinary, nullable=False),
    Column("checkpoint", LargeBinary, nullable=False),
    Column("tag", LargeBinary, nullable=False),
    sqlite_strict=True,
)

DOCUMENTS = Table(
    "documents",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    sqlite_strict=True,
)
