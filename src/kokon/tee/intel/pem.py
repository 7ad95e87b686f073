"""PEM as Intel uses it: chains of certificates in quotes and beside collateral (RFC 7468). Pure."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from kokon.errors import MalformedError

PEM_LIMIT: Final = 16 << 20
"""Bytes; a large revocation list is the largest thing there is."""
BLOCKS_LIMIT: Final = 64

CERTIFICATE: Final = "CERTIFICATE"
CRL: Final = "X509 CRL"

_BLANK: Final = b"\0 \t\r\n"


def _malformed(found: object) -> MalformedError:
    return MalformedError("pem-malformed", "the PEM text or DER is malformed", found=found)


def read_blocks(data: bytes, label: str) -> tuple[bytes, ...]:
    """The DER of all PEM blocks of that `label`, or of DER objects one after the other.

    Around blocks only white space and NUL bytes may stand; so a text has nothing that is not read.
    Raises `MalformedError` (`pem-malformed`).
    """
    if len(data) > PEM_LIMIT:
        raise _malformed(f"{len(data)} bytes")
    rest = data.lstrip(_BLANK)
    read = _der_object if rest.startswith(b"\x30") else _pem_block
    blocks: list[bytes] = []
    while rest:
        if len(blocks) == BLOCKS_LIMIT:
            raise _malformed(f"more than {BLOCKS_LIMIT} blocks")
        block, rest = read(rest, label)
        blocks.append(block)
        rest = rest.lstrip(_BLANK)
    return tuple(blocks)


def _pem_block(text: bytes, label: str) -> tuple[bytes, bytes]:
    begin, end = f"-----BEGIN {label}-----".encode(), f"-----END {label}-----".encode()
    if not text.startswith(begin):
        raise _malformed(text[:40])
    body, found, rest = text[len(begin) :].partition(end)
    if not found:
        raise _malformed("no end")
    try:
        return base64.b64decode(b"".join(body.split()), validate=True), rest
    except binascii.Error as error:
        raise _malformed(error) from error


def _der_object(data: bytes, _label: str) -> tuple[bytes, bytes]:
    first = data[1] if len(data) > 1 else 0
    length_size = first & 0x7F if first > 0x7F else 0
    size = int.from_bytes(data[2 : 2 + length_size], "big") if length_size else first
    end = 2 + length_size + size
    if data[0] != 0x30 or length_size > 3 or first == 0x80 or end > len(data):
        raise _malformed(data[:8].hex())
    return data[:end], data[end:]
