"""Sealed rows that were read lately, so that a busy record needs no database. Never a value in the clear."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kokon.provisioning.database.sealing import Row

LIMIT = 32 << 20


class Cache:
    """Rows by their digest, at most `limit` bytes of them, the longest unused given up first. Safe with threads."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._size = 0
        self._rows: OrderedDict[bytes, Row] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        return self._size

    def get(self, digest: bytes) -> Row | None:
        """The row with this digest, or None."""
        with self._lock:
            row = self._rows.get(digest)
            if row is not None:
                self._rows.move_to_end(digest)
            return row

    def put(self, digest: bytes, row: Row) -> None:
        """Keep a row whose digest was checked."""
        if row.size > self._limit:
            return
        with self._lock:
            if digest not in self._rows:
                self._rows[digest] = row
                self._size += row.size
            while self._size > self._limit:
                _, oldest = self._rows.popitem(last=False)
                self._size -= oldest.size
