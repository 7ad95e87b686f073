"""Everything in one stream, and back into an empty database of either kind: `kokon backup 1`.

Lines, each one JSON value and a newline:

    {"format": "kokon backup 1", "schema": revision of the tables, "tables": {table: [column, ...], ...}}
    [table, value, ...]       a row, its values in the order of the header's columns; bytes as base64, none as null
    {"rows": how many, "sha256": hex SHA-256 of all lines before this one}

Values stay sealed, and no key is in it. The closing digest finds accidents only; what an attacker changed is found by
the heads' tags when a store is opened on the database.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import LargeBinary, MetaData, Table, insert, select

from kokon.errors import MalformedError, UsageError
from kokon.provisioning.database.migrate import revision, upgrade
from kokon.provisioning.database.opening import is_empty
from kokon.provisioning.database.schema import TABLES
from kokon.wire import Fields, b64, parse_json, unb64

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from sqlalchemy import Connection

    from kokon.provisioning.database.engines import Backend

FORMAT = "kokon backup 1"
LINE_LIMIT = 8 << 20
"""Longest line in bytes."""
_CHUNK_ROWS = 500
_CHUNK_BYTES = 4 << 20


@dataclass(slots=True)
class _Sum:
    """The digest of the lines so far, and how many rows were among them."""

    rows: int = 0
    hash: Any = field(default_factory=hashlib.sha256)

    def end(self) -> dict[str, Any]:
        return {"rows": self.rows, "sha256": self.hash.hexdigest()}


def backup(backend: Backend, sink: BinaryIO) -> int:
    """Write all rows as of one moment; returns how many. The server may go on meanwhile.

    Raises those of `engines.failure`, and what `sink` raises.
    """
    total = _Sum()
    with backend.reading() as connection:
        if backend.shared:
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        for line in _lines(connection, total):
            total.hash.update(line)
            sink.write(line)
    sink.write(_line(total.end()))
    return total.rows


def restore(source: BinaryIO, backend: Backend) -> int:
    """Put a backup's rows into an empty database, all or none; returns how many.

    Raises `MalformedError` (`backup-malformed`, and those of `kokon.wire`), `UsageError` (`restore-not-empty`),
    `HostError` (`store-newer`, and those of `engines.failure`).
    """
    lines = _Lines(source)
    with backend.writing() as connection:
        if backend.shared:
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        schema, columns = _header(lines.header())
        upgrade(connection, schema)
        if not is_empty(connection):
            raise UsageError("restore-not-empty", "a backup goes into an empty database, and this one is not")
        tables = _tables(connection, columns)
        for table, values in _chunks(lines, tables):
            connection.execute(insert(table), values)
        upgrade(connection)
    return lines.total.rows


def _lines(connection: Connection, total: _Sum) -> Iterator[bytes]:
    tables = _reflected(connection)
    columns = {name: [column.name for column in table.columns] for name, table in tables.items()}
    yield _line({"format": FORMAT, "schema": revision(connection), "tables": columns})
    for name, table in tables.items():
        query = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=64)
        with connection.execute(query) as rows:
            for row in rows:
                total.rows += 1
                yield _line([name, *(b64(value) if isinstance(value, bytes) else value for value in row)])


def _line(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


class _Lines:
    """The lines of a backup, read one by one; the last must close it, and nothing may follow."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.total = _Sum()

    def header(self) -> Any:
        """The first line."""
        data = self._next()
        self.total.hash.update(data)
        return parse_json(data, limit=LINE_LIMIT, what="line of a backup")

    def rows(self) -> Iterator[tuple[list[Any], int]]:
        """The rows with their sizes, until the end was found to be right."""
        while True:
            data = self._next()
            value = parse_json(data, limit=LINE_LIMIT, what="line of a backup")
            if not isinstance(value, list):
                break
            self.total.rows += 1
            self.total.hash.update(data)
            yield value, len(data)
        fields, end = Fields(value, "end of the backup"), self.total.end()
        rows, digest = fields.integer("rows"), fields.text("sha256", limit=64)
        fields.finish()
        if rows != end["rows"] or not hmac.compare_digest(digest.encode(), end["sha256"].encode()):
            raise _malformed("its closing digest is not that of its lines")
        if self._source.read(1):
            raise _malformed("something follows its end")

    def _next(self) -> bytes:
        data = self._source.readline(LINE_LIMIT)
        if not data.endswith(b"\n"):
            raise _malformed("it is cut off, or a line is too long")
        return data


def _header(value: Any) -> tuple[str, dict[str, Any]]:
    fields = Fields(value, "header of the backup")
    if fields.text("format", limit=64) != FORMAT:
        raise _malformed("it is of another format or version")
    schema, columns = fields.text("schema", limit=64), fields.table("tables")
    fields.finish()
    return schema, columns


def _reflected(connection: Connection) -> dict[str, Table]:
    """The tables as they are in the database, whose form may be an older one."""
    metadata = MetaData()
    metadata.reflect(connection, only=TABLES)
    return {name: metadata.tables[name] for name in TABLES}


def _tables(connection: Connection, columns: dict[str, Any]) -> dict[str, tuple[Table, list[str]]]:
    """The tables to fill, and the order of their columns in the backup, which must be all that they have."""
    tables = _reflected(connection)
    for name, table in tables.items():
        found = columns.get(name)
        if not isinstance(found, list) or sorted(map(str, found)) != sorted(table.columns.keys()):
            raise _malformed(f"its columns of {name} are not those of its schema")
    if columns.keys() != tables.keys():
        raise _malformed("its tables are not those of its schema")
    return {name: (table, columns[name]) for name, table in tables.items()}


def _chunks(lines: _Lines, tables: dict[str, tuple[Table, list[str]]]) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
    """Rows of one table at a time, some hundred together."""
    chunk: list[dict[str, Any]] = []
    current, size = "", 0
    for row, length in lines.rows():
        name = row[0] if row else None
        if not isinstance(name, str) or name not in tables or len(row) != len(tables[name][1]) + 1:
            raise _malformed("a row is of no table")
        if chunk and (name != current or len(chunk) >= _CHUNK_ROWS or size > _CHUNK_BYTES):
            yield tables[current][0], chunk
            chunk, size = [], 0
        current, size = name, size + length
        chunk.append(_values(*tables[name], row[1:]))
    if chunk:
        yield tables[current][0], chunk


def _values(table: Table, names: list[str], row: list[Any]) -> dict[str, Any]:
    return {name: _value(table.columns[name].type, value) for name, value in zip(names, row, strict=True)}


def _value(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(kind, LargeBinary):
        if not isinstance(value, str):
            raise _malformed("a value is of a wrong kind")
        return unb64(value, what="value of the backup", limit=LINE_LIMIT)
    fits = isinstance(value, kind.python_type) and not isinstance(value, bool)
    if not fits or (isinstance(value, int) and not -(1 << 63) <= value < 1 << 63) or "\0" in str(value):
        raise _malformed("a value is of a wrong kind")
    return value


def _malformed(message: str) -> MalformedError:
    return MalformedError(
        "backup-malformed", f"not a backup that can be restored: {message}", hint="use another copy of the backup"
    )
