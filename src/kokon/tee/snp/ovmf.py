"""What a measured launch needs to know of an OVMF firmware image: its footer table and its SEV metadata. No I/O.

The footer (OvmfPkg/ResetVector) ends 32 bytes before the image's end with a table read backwards: data, u16 length of
the whole entry, GUID in little-endian form. The SEV metadata block ("ASEV", length, version 1, count) lists (address
u32, size u32, kind u32).
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kokon.errors import MalformedError
from kokon.tee.snp.pages import PAGE

SIZE_LIMIT: Final = 32 << 20
SECTIONS_LIMIT: Final = 64
FOUR_GIB: Final = 1 << 32

SECTION_MEMORY: Final = 1
SECTION_SECRETS: Final = 2
SECTION_CPUID: Final = 3
SECTION_SVSM_CAA: Final = 4
SECTION_KERNEL_HASHES: Final = 0x10

_FOOTER_GUID = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
_HASHES_GUID = uuid.UUID("7255371f-3a3b-4b04-927b-1da6efa8d454").bytes_le
_RESET_GUID = uuid.UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e").bytes_le
_METADATA_GUID = uuid.UUID("dc886566-984a-4798-a75e-5585a7bf67cc").bytes_le
_ENTRY = struct.Struct("<H16s")
_FOOTER_END = 32


@dataclass(frozen=True, slots=True)
class Section:
    """A range of guest memory that the firmware wants prepared at launch."""

    address: int
    size: int
    kind: int


@dataclass(frozen=True, slots=True)
class Ovmf:
    """A firmware image: its bytes, where they are loaded, and what its metadata says.

    `hashes_address` is where the kernel-hashes table goes, None if the image has no place for it; `reset_eip` is
    where the other CPUs start, None if not told.
    """

    data: bytes
    address: int
    sections: tuple[Section, ...]
    hashes_address: int | None
    reset_eip: int | None


def _broken(message: str, found: object = None) -> MalformedError:
    return MalformedError("ovmf-malformed", message, found=found)


def footer_entries(data: bytes) -> dict[bytes, bytes]:
    """The entries of the footer table by their GUID (16 bytes as stored) of an image of at least a page.

    Raises `MalformedError` (`ovmf-malformed`).
    """
    end = len(data) - _FOOTER_END
    length, guid = _ENTRY.unpack_from(data, end - _ENTRY.size)
    if guid != _FOOTER_GUID:
        raise _broken("the firmware has no OVMF footer table", guid.hex())
    bottom = end - length
    end -= _ENTRY.size
    if not 0 <= bottom <= end:
        raise _broken("the OVMF footer table has a wrong length", length)
    entries: dict[bytes, bytes] = {}
    while end - _ENTRY.size >= bottom:
        length, guid = _ENTRY.unpack_from(data, end - _ENTRY.size)
        if length < _ENTRY.size or end - length < bottom or guid in entries:
            raise _broken("an entry of the OVMF footer table is malformed", length)
        entries[guid] = data[end - length : end - _ENTRY.size]
        end -= length
    if end != bottom:
        raise _broken("the OVMF footer table has bytes that belong to no entry", end - bottom)
    return entries


def _word(entries: Mapping[bytes, bytes], guid: bytes, size: int) -> int | None:
    """The first u32 of an entry of exactly `size` bytes, None if there is no such entry."""
    if guid not in entries:
        return None
    if len(entries[guid]) != size:
        raise _broken("an entry of the OVMF footer table has a wrong size", len(entries[guid]))
    return int.from_bytes(entries[guid][:4], "little")


def _metadata(data: bytes, from_end: int) -> tuple[Section, ...]:
    start = len(data) - from_end
    if not 0 <= start <= len(data) - 16:
        raise _broken("the SEV metadata lie outside the firmware", from_end)
    magic, size, version, count = struct.unpack_from("<4sIII", data, start)
    if magic != b"ASEV" or version != 1 or count > SECTIONS_LIMIT or size != 16 + 12 * count:
        raise _broken("the SEV metadata have an unknown form", magic.hex())
    if start + size > len(data):
        raise _broken("the SEV metadata are cut off", size)
    sections = tuple(Section(*struct.unpack_from("<III", data, start + 16 + 12 * index)) for index in range(count))
    for section in sections:
        if section.address % PAGE or section.size % PAGE or not 0 < section.size <= 256 << 20:
            raise _broken("a section of the SEV metadata is not made of whole pages", hex(section.address))
    return sections


def parse_ovmf(data: bytes) -> Ovmf:
    """What the image says of itself; its end is loaded at 4 GiB. Raises `MalformedError` (`ovmf-malformed`)."""
    if not PAGE <= len(data) <= SIZE_LIMIT or len(data) % PAGE:
        raise _broken("the firmware has a wrong size", len(data))
    entries = footer_entries(data)
    from_end = _word(entries, _METADATA_GUID, 4)
    hashes = _word(entries, _HASHES_GUID, 8)
    return Ovmf(
        data=data,
        address=FOUR_GIB - len(data),
        sections=() if from_end is None else _metadata(data, from_end),
        hashes_address=hashes or None,
        reset_eip=_word(entries, _RESET_GUID, 4),
    )
