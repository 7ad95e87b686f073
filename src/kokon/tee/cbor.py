"""CBOR (RFC 8949) read strictly and within bounds, and written in its shortest form. Pure, standard library only.

Read are integers, byte and text strings, arrays, maps, tags, false, true, null and finite floats: what COSE, AWS Nitro,
RA-TLS and CoRIM are made of. A tag stays a `Tag`: general readers turn registered tags into dates, fractions, regular
expressions and shared references, which even make cycles, and evidence comes from strangers.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from kokon.errors import MalformedError

DEPTH: Final = 16
"""How deep arrays, maps and tags may be nested."""
ITEMS_LIMIT: Final = 65_536
"""Items in one document."""

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _OTHER = range(8)
_INDEFINITE: Final = 31
_BREAK: Final = 0xFF
_SIZES: Final = {24: 1, 25: 2, 26: 4, 27: 8}
_SIMPLE: Final[Mapping[int, Any]] = {20: False, 21: True, 22: None}
_FLOATS: Final = {25: ">e", 26: ">f", 27: ">d"}


@dataclass(frozen=True, slots=True)
class Tag:
    """A tagged item (RFC 8949 section 3.4), not interpreted."""

    number: int
    value: Any


def read_cbor(data: bytes, *, limit: int, what: str, indefinite: bool = False, depth: int = DEPTH) -> Any:
    """The one item in `data`, of at most `limit` bytes; `what` names it in errors.

    Maps become dicts whose keys are integers, texts or bytes. Refused with `MalformedError` (`cbor-too-large`,
    `cbor-malformed`): duplicate and other keys, deep nesting, bytes after the item, text that is not UTF-8, `undefined`
    and other simple values, NaN and infinities; and indefinite lengths unless `indefinite`.
    """
    if len(data) > limit:
        raise MalformedError("cbor-too-large", f"{what} is too large", expected=f"<= {limit} bytes", found=len(data))
    reader = _Reader(data, indefinite=indefinite)
    try:
        value = reader.item(depth)
        if reader.position != len(data):
            raise ValueError(f"{len(data) - reader.position} bytes after the end")
    except (ValueError, IndexError, struct.error) as error:
        raise MalformedError(
            "cbor-malformed", f"{what} is not strict CBOR", found=f"{error} at byte {reader.position}"
        ) from error
    return value


class _Reader:
    """One pass over the bytes. Raises `ValueError` and, at the end of the bytes, `IndexError`."""

    __slots__ = ("data", "indefinite", "items", "position")

    def __init__(self, data: bytes, *, indefinite: bool) -> None:
        self.data = data
        self.position = 0
        self.items = 0
        self.indefinite = indefinite

    def item(self, depth: int) -> Any:
        self.items += 1
        if self.items > ITEMS_LIMIT:
            raise ValueError("too many items")
        if depth == 0:
            raise ValueError("nested too deep")
        initial = self.data[self.position]
        self.position += 1
        kind, detail = initial >> 5, initial & 31
        if kind == _OTHER:
            return self._other(detail)
        number = self._number(kind, detail)
        if kind == _UNSIGNED:
            return number
        if kind == _NEGATIVE:
            return -1 - self._counted(number)
        if kind in (_BYTES, _TEXT):
            return self._string(kind, number)
        if kind == _ARRAY:
            return self._array(number, depth)
        if kind == _MAP:
            return self._map(number, depth)
        return Tag(self._counted(number), self.item(depth - 1))

    def _number(self, kind: int, detail: int) -> int | None:
        """The argument of a head, None for an indefinite length."""
        if detail < 24:
            return detail
        if detail in _SIZES:
            return int.from_bytes(self._take(_SIZES[detail]), "big")
        if detail == _INDEFINITE and self.indefinite and kind in (_BYTES, _TEXT, _ARRAY, _MAP):
            return None
        raise ValueError(f"head {kind << 5 | detail:#04x}")

    @staticmethod
    def _counted(number: int | None) -> int:
        if number is None:
            raise ValueError("indefinite length")
        return number

    def _take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self.data):
            raise ValueError("cut short")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def _at_break(self) -> bool:
        if self.data[self.position] != _BREAK:
            return False
        self.position += 1
        return True

    def _string(self, kind: int, size: int | None) -> bytes | str:
        if size is not None:
            return self._text_or_bytes(kind, size)
        chunks = []
        while not self._at_break():
            self.items += 1
            head = self.data[self.position]
            self.position += 1
            if head >> 5 != kind:
                raise ValueError("a chunk of another kind")
            chunks.append(self._text_or_bytes(kind, self._counted(self._number(kind, head & 31))))
        return b"".join(chunks) if kind == _BYTES else "".join(chunks)  # type: ignore[arg-type]

    def _text_or_bytes(self, kind: int, size: int) -> bytes | str:
        taken = self._take(size)
        return taken if kind == _BYTES else taken.decode("utf-8")

    def _array(self, count: int | None, depth: int) -> list[Any]:
        if count is None:
            found = []
            while not self._at_break():
                found.append(self.item(depth - 1))
            return found
        self._check_count(count)
        return [self.item(depth - 1) for _ in range(count)]

    def _map(self, count: int | None, depth: int) -> dict[int | str | bytes, Any]:
        members: dict[int | str | bytes, Any] = {}
        if count is None:
            while not self._at_break():
                self._member(members, depth)
            return members
        self._check_count(2 * count)
        for _ in range(count):
            self._member(members, depth)
        return members

    def _member(self, members: dict[int | str | bytes, Any], depth: int) -> None:
        key = self.item(depth - 1)
        if isinstance(key, bool) or not isinstance(key, int | str | bytes):
            raise ValueError(f"a key of type {type(key).__name__}")
        if key in members:
            raise ValueError("duplicate key")
        members[key] = self.item(depth - 1)

    def _check_count(self, count: int) -> None:
        """Each item has a byte at least: what cannot fit is refused before anything is made of it."""
        if count > len(self.data) - self.position:
            raise ValueError("cut short")

    def _other(self, detail: int) -> Any:
        if detail in _SIMPLE:
            return _SIMPLE[detail]
        if detail not in _FLOATS:
            raise ValueError(f"simple value or break {detail}")
        (number,) = struct.unpack(_FLOATS[detail], self._take(_SIZES[detail]))
        if not math.isfinite(number):
            raise ValueError("a number that is not finite")
        return number


def write_cbor(value: Any) -> bytes:
    """`value` in the shortest form with definite lengths; maps keep the order of their members.

    Values are those that `read_cbor` returns, integers within 64 bits. Raises `MalformedError` (`cbor-unwritable`).
    """
    if value is None or isinstance(value, bool):
        return {False: b"\xf4", True: b"\xf5", None: b"\xf6"}[value]
    if isinstance(value, int):
        return _head(_UNSIGNED, value) if value >= 0 else _head(_NEGATIVE, -1 - value)
    if isinstance(value, float):
        return b"\xfb" + struct.pack(">d", value)
    if isinstance(value, bytes):
        return _head(_BYTES, len(value)) + value
    if isinstance(value, str):
        return _head(_TEXT, len(value.encode())) + value.encode()
    if isinstance(value, Tag):
        return _head(_TAG, value.number) + write_cbor(value.value)
    if isinstance(value, Mapping):
        members = (write_cbor(key) + write_cbor(member) for key, member in value.items())
        return _head(_MAP, len(value)) + b"".join(members)
    if isinstance(value, list | tuple):
        return _head(_ARRAY, len(value)) + b"".join(map(write_cbor, value))
    raise MalformedError("cbor-unwritable", "a value has no CBOR form here", found=type(value).__name__)


def _head(kind: int, number: int) -> bytes:
    if number < 24:
        return bytes([kind << 5 | number])
    for detail, size in _SIZES.items():
        if number < 1 << 8 * size:
            return bytes([kind << 5 | detail]) + number.to_bytes(size, "big")
    raise MalformedError("cbor-unwritable", "a number is too large for CBOR", found=number)
