"""Just enough of ELF-64 to find out which shared libraries a program needs (System V ABI, chapters 4 and 5)."""

from __future__ import annotations

import struct
from pathlib import Path

from kokon.errors import MalformedError

MAGIC = b"\x7fELF"
_LITTLE_64 = b"\x02\x01"
_LOAD, _DYNAMIC = 1, 2
_NEEDED, _STRING_TABLE = 1, 5
_MOST_ENTRIES = 4096


def needed_libraries(path: Path) -> tuple[str, ...] | None:
    """File names in the DT_NEEDED entries of the ELF file at `path`; None if it is no ELF file.

    Raises `MalformedError` (`elf-malformed`).
    """
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            return None
        data = MAGIC + file.read()
    try:
        return _needed(data)
    except (struct.error, ValueError, OverflowError) as error:
        raise MalformedError("elf-malformed", f"{path.name} is not a readable ELF file", found=error) from error


def _needed(data: bytes) -> tuple[str, ...]:
    if data[4:6] != _LITTLE_64:
        raise ValueError("not 64-bit little-endian")
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    segments = [_segment(data, table + index * size) for index in range(count)]
    for kind, offset, _address, length in segments:
        if kind == _DYNAMIC:
            return _names(data, _entries(data, offset, length), segments)
    return ()


def _segment(data: bytes, at: int) -> tuple[int, int, int, int]:
    kind, _flags, offset, address, _physical, length = struct.unpack_from("<IIQQQQ", data, at)
    return kind, offset, address, length


def _entries(data: bytes, offset: int, length: int) -> list[tuple[int, int]]:
    if length // 16 > _MOST_ENTRIES:
        raise ValueError("dynamic section too large")
    return [struct.unpack_from("<qQ", data, offset + at) for at in range(0, length - 15, 16)]


def _names(data: bytes, entries: list[tuple[int, int]], segments: list[tuple[int, int, int, int]]) -> tuple[str, ...]:
    wanted = [value for tag, value in entries if tag == _NEEDED]
    if not wanted:
        return ()
    tables = [_file_offset(value, segments) for tag, value in entries if tag == _STRING_TABLE]
    if len(tables) != 1:
        raise ValueError("no single string table")
    return tuple(_text(data, tables[0] + offset) for offset in wanted)


def _file_offset(address: int, segments: list[tuple[int, int, int, int]]) -> int:
    for kind, offset, start, length in segments:
        if kind == _LOAD and start <= address < start + length:
            return address - start + offset
    raise ValueError("address outside of every segment")


def _text(data: bytes, at: int) -> str:
    end = data.find(b"\0", at, at + 256)
    if end < 0:
        raise ValueError("unterminated name")
    return data[at:end].decode("ascii")
