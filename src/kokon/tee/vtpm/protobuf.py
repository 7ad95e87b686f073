"""As much of protocol buffers as a quote's container needs: the wire format, read strictly and within bounds. Pure.

(Protocol Buffers, "Encoding".) Fields of unknown numbers are passed over, as the format wants it; groups and varints
that are longer than needed are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NoReturn

from kokon.errors import MalformedError

FIELDS_LIMIT: Final = 4096
Message = Mapping[int, tuple[int | bytes, ...]]
"""Values by field number in their order: integers of varint and fixed fields, bytes of the rest."""


def _malformed(problem: str, found: object) -> NoReturn:
    raise MalformedError("protobuf-malformed", f"protocol buffer: {problem}", found=found)


def parse_message(data: bytes) -> Message:
    """One message. Raises `MalformedError` (`protobuf-malformed`)."""
    message: dict[int, list[int | bytes]] = {}
    position = count = 0
    while position < len(data):
        tag, position = _varint(data, position)
        value, position = _value(data, position, tag & 7)
        message.setdefault(tag >> 3, []).append(value)
        count += 1
        if tag >> 3 == 0 or count > FIELDS_LIMIT:
            _malformed("field number 0, or too many fields", count)
    return {number: tuple(values) for number, values in message.items()}


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index in range(10):
        if position + index >= len(data):
            _malformed("it ends within a number", len(data))
        byte = data[position + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if (byte == 0 and index) or value >= 1 << 64:
                _malformed("a number is not in its shortest form", value)
            return value, position + index + 1
    _malformed("a number is too long", "more than 10 bytes")


def _value(data: bytes, position: int, kind: int) -> tuple[int | bytes, int]:
    if kind == 0:
        return _varint(data, position)
    if kind == 2:
        size, position = _varint(data, position)
    elif kind in (1, 5):
        size = 8 if kind == 1 else 4
    else:
        _malformed("unknown kind of field", kind)
    if size > len(data) - position:
        _malformed("it ends within a field", len(data))
    content = data[position : position + size]
    return content if kind == 2 else int.from_bytes(content, "little"), position + size


def all_bytes(message: Message, number: int) -> tuple[bytes, ...]:
    """All values of a repeated field of bytes or messages. Raises `MalformedError` (`protobuf-malformed`)."""
    values = tuple(value for value in message.get(number, ()) if isinstance(value, bytes))
    if len(values) != len(message.get(number, ())):
        _malformed("a field has a wrong type", number)
    return values


def one_bytes(message: Message, number: int) -> bytes:
    """A field of bytes that stands at most once, b"" if absent. Raises `MalformedError` (`protobuf-malformed`)."""
    values = all_bytes(message, number)
    if len(values) > 1:
        _malformed("a field stands twice", number)
    return values[0] if values else b""


def one_number(message: Message, number: int) -> int:
    """A number that stands at most once, 0 if absent. Raises `MalformedError` (`protobuf-malformed`)."""
    values = message.get(number, (0,))
    if len(values) > 1 or not isinstance(values[0], int):
        _malformed("a field stands twice or has a wrong type", number)
    return values[0]
