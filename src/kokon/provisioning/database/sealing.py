"""Rows of records: sealed, opened, and their digests.

A value is sealed with AES-256-GCM under a data key. The associated data are the row's other columns:

    "kokon-record-1" NUL | text(project) | text(kind) | text(name) | u64 version | i64 created | i64 expires

with text(x) a u32 length and UTF-8, all big-endian, times in microseconds since 1970 (UTC), no expiry as -2^63. A row's
digest is SHA-256 over these associated data | i64 key id | u32 length and nonce | u32 length and ciphertext. A row
whose key id is `GONE` holds no value: it marks the highest version that a deleted name ever had.
"""

from __future__ import annotations

import functools
import hashlib
import os
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag

from kokon.errors import UntrustedError
from kokon.provisioning.database.values import Key, Meta

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kokon.provisioning.database.values import KeyRing

GONE = -1
NONCE = 12
_DOMAIN = b"kokon-record-1\0"
_NEVER = -(2**63)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
COLUMNS = ("kind", "name", "version", "key_id", "nonce", "sealed", "created", "expires")
"""The order in which `row_of` expects a row's columns."""


@dataclass(frozen=True, slots=True)
class Row:
    """A record's row as it stands in the database; times in microseconds since 1970."""

    key: Key
    version: int
    key_id: int
    nonce: bytes = field(repr=False)
    sealed: bytes = field(repr=False)
    created: int
    expires: int | None

    @property
    def gone(self) -> bool:
        """Whether it only marks a deleted name's highest version."""
        return self.key_id == GONE

    @property
    def size(self) -> int:
        """About what it takes in memory, in bytes."""
        return 400 + len(self.sealed)


def micros(moment: datetime) -> int:
    """Microseconds since 1970 of an aware time."""
    return (moment - _EPOCH) // _MICROSECOND


def moment(microseconds: int) -> datetime:
    """The time (UTC) of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=microseconds)


@functools.lru_cache(maxsize=256)
def text(value: str) -> bytes:
    """u32 length (big-endian) and UTF-8."""
    data = value.encode()
    return struct.pack(">I", len(data)) + data


def seal(ring: KeyRing, key: Key, version: int, value: bytes, created: int, expires: int | None) -> Row:
    """The row of a value, sealed under the ring's current key."""
    nonce, key_id = os.urandom(NONCE), ring.current
    sealed = ring.aead(key_id).encrypt(nonce, value, _associated(key, version, created, expires))
    return Row(key, version, key_id, nonce, sealed, created, expires)


def mark_gone(key: Key, version: int, created: int) -> Row:
    """The row that remembers a deleted name's highest version."""
    return Row(key, version, GONE, b"", b"", created, None)


def unseal(ring: KeyRing, row: Row) -> bytes:
    """The value of a row. Raises `UntrustedError` (`store-tampered`)."""
    associated = _associated(row.key, row.version, row.created, row.expires)
    try:
        return ring.aead(row.key_id).decrypt(row.nonce, row.sealed, associated)
    except (InvalidTag, ValueError) as error:
        raise tampered(f"a {row.key.kind} record does not open", f"{row.key.name} version {row.version}") from error


def digest(row: Row) -> bytes:
    """SHA-256 over the whole row. Raises `UntrustedError` (`store-tampered`) for columns of a wrong type or range."""
    try:
        whole = hashlib.sha256(_associated(row.key, row.version, row.created, row.expires))
        whole.update(struct.pack(">qI", row.key_id, len(row.nonce)) + row.nonce)
        whole.update(struct.pack(">I", len(row.sealed)))
        whole.update(row.sealed)
    except (struct.error, TypeError, AttributeError, ValueError) as error:
        raise tampered("a record's row has a column of a wrong kind", type(error).__name__) from error
    return whole.digest()


def meta(row: Row) -> Meta:
    """What the catalogue keeps of a row. Raises as `digest`."""
    whole = digest(row)
    try:
        expires = None if row.expires is None else moment(row.expires)
        return Meta(row.version, moment(row.created), expires, whole)
    except OverflowError as error:
        raise tampered("a record's time is out of range", row.key.name) from error


def row_of(project: str, columns: Sequence[Any]) -> Row:
    """A row from its columns in the order of `COLUMNS`; what they hold is checked by `digest`."""
    kind, name, version, key_id, nonce, sealed, created, expires = columns
    return Row(Key(project, kind, name), version, key_id, _bytes(nonce), _bytes(sealed), created, expires)


def tampered(message: str, found: object) -> UntrustedError:
    """The error for rows that are not what this server wrote."""
    return UntrustedError(
        "store-tampered",
        f"the store was altered, or its keys are not its own: {message}",
        found=found,
        hint="keep a copy of the database as evidence, and restore it with its keys from a backup",
    )


def _bytes(value: Any) -> Any:
    """Drivers give a memoryview for bytes at times."""
    return bytes(value) if isinstance(value, memoryview | bytearray) else value


def _associated(key: Key, version: int, created: int, expires: int | None) -> bytes:
    times = struct.pack(">Qqq", version, created, _NEVER if expires is None else expires)
    return _DOMAIN + text(key.project) + text(key.kind) + text(key.name) + times
