"""The few encodings that vendors' formats are made of, written once more: DER, CBOR, Protocol Buffers. Pure.

Writers only, and none of them shares a line with the readers in `kokon.tee`: what one of the two gets wrong, the
other shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

SEQUENCE: Final = 0x30
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
OBJECT_IDENTIFIER: Final = 0x06
ENUMERATED: Final = 0x0A
BOOLEAN: Final = 0x01
IA5_STRING: Final = 0x16


def der(tag: int, *contents: bytes) -> bytes:
    """One DER element with definite length (X.690, section 8.1)."""
    body = b"".join(contents)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + body


def der_integer(value: int, tag: int = INTEGER) -> bytes:
    """A DER INTEGER; values whose highest bit is set take a further byte (X.690, section 8.3)."""
    return der(tag, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def der_boolean(value: bool) -> bytes:
    """A DER BOOLEAN."""
    return der(BOOLEAN, b"\xff" if value else b"\0")


def der_oid(dotted: str) -> bytes:
    """A DER OBJECT IDENTIFIER (X.690, section 8.19)."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    body = b""
    for arc in (first * 40 + second, *rest):
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(0x80 | arc & 0x7F)
        body += bytes(reversed(septets))
    return der(OBJECT_IDENTIFIER, body)


def cbor_head(major: int, value: int) -> bytes:
    """The head of a CBOR data item in its shortest form (RFC 8949, section 3)."""
    if value < 24:
        return bytes([major << 5 | value])
    for extra, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if value < 1 << 8 * size:
            return bytes([major << 5 | extra]) + value.to_bytes(size, "big")
    raise OverflowError("CBOR heads hold 64 bits")


def cbor(value: object) -> bytes:
    """A CBOR data item: integers, byte and text strings, arrays, maps in the given order, null."""
    if value is None:
        return b"\xf6"
    if isinstance(value, int):
        return cbor_head(0, value) if value >= 0 else cbor_head(1, -1 - value)
    if isinstance(value, bytes):
        return cbor_head(2, len(value)) + value
    if isinstance(value, str):
        text = value.encode()
        return cbor_head(3, len(text)) + text
    if isinstance(value, Mapping):
        return cbor_head(5, len(value)) + b"".join(cbor(key) + cbor(item) for key, item in value.items())
    if isinstance(value, Sequence):
        return cbor_head(4, len(value)) + b"".join(cbor(item) for item in value)
    raise TypeError(f"no CBOR form for {type(value).__name__}")


def cbor_tag(tag: int, value: object) -> bytes:
    """A tagged CBOR data item."""
    return cbor_head(6, tag) + cbor(value)


def cbor_indefinite_map(value: Mapping[str, object]) -> bytes:
    """A CBOR map of indefinite length, as AWS's hypervisor writes it (RFC 8949, section 3.2.2)."""
    return b"\xbf" + b"".join(cbor(key) + cbor(item) for key, item in value.items()) + b"\xff"


def _varint(value: int) -> bytes:
    septets = [value & 0x7F]
    while value := value >> 7:
        septets[-1] |= 0x80
        septets.append(value & 0x7F)
    return bytes(septets)


def proto_bytes(number: int, value: bytes) -> bytes:
    """A length-delimited Protocol Buffers field."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def proto_varint(number: int, value: int) -> bytes:
    """A varint Protocol Buffers field."""
    return _varint(number << 3) + _varint(value)
