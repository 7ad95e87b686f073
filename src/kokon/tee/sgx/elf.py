"""Just enough of ELF-64 to lay out Gramine's loader in an enclave: entry point and loadable segments. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from kokon.errors import MalformedError

FILE_LIMIT: Final = 256 << 20
SEGMENTS_LIMIT: Final = 64
MEMORY_LIMIT: Final = 1 << 32
"""Bytes that all segments together may span."""

EXECUTE: Final = 1
WRITE: Final = 2
READ: Final = 4
"""Segment flags (p_flags)."""

_LOAD: Final = 1
_HEADER = struct.Struct("<HHIQQQIHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")


@dataclass(frozen=True, slots=True)
class Segment:
    """A PT_LOAD segment: `data` comes to `address`, zeros behind it up to `memory` bytes."""

    address: int
    offset: int
    data: bytes
    memory: int
    flags: int


@dataclass(frozen=True, slots=True)
class Elf:
    """Entry point and PT_LOAD segments in the file's order, at least one."""

    entry: int
    segments: tuple[Segment, ...]


def _broken(message: str, found: object = None) -> MalformedError:
    return MalformedError("enclave-elf", f"not a loader that can be measured: {message}", found=found)


def parse_elf(data: bytes) -> Elf:
    """The file's layout. Raises `MalformedError` (`enclave-elf`)."""
    if not 64 <= len(data) <= FILE_LIMIT or data[:7] != b"\x7fELF\x02\x01\x01":
        raise _broken("no 64-bit little-endian ELF file", data[:7].hex())
    _kind, _machine, _version, entry, table, _sections, _flags, _size, entry_size, count = _HEADER.unpack_from(data, 16)
    if entry_size != _SEGMENT.size or count > SEGMENTS_LIMIT or table + count * entry_size > len(data):
        raise _broken("its program headers are malformed", f"{count} of {entry_size} bytes at {table}")
    segments = []
    for index in range(count):
        kind, flags, offset, address, _physical, size, memory, _align = _SEGMENT.unpack_from(
            data, table + index * entry_size
        )
        if kind != _LOAD:
            continue
        outside = offset + size > len(data) or size > memory or address + memory > MEMORY_LIMIT
        if outside or (address - offset) % 4096:
            raise _broken("a segment lies outside the file", f"{size} bytes at {offset}")
        segments.append(Segment(address, offset, data[offset : offset + size], memory, flags))
    if not segments:
        raise _broken("it has no loadable segment")
    return Elf(entry, tuple(segments))
