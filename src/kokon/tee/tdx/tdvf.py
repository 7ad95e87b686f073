"""What a TD launch needs to know of a firmware file: its TDX metadata. Pure.

Intel TDX Virtual Firmware Design Guide (344991), section 11: the firmware's footer table (`kokon.tee.snp.ovmf`) holds,
under a GUID, how far before the end of the file the descriptor stands: "TDVF", length, version 1, number of sections,
then 32 bytes for each section.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from typing import Final

from kokon.errors import MalformedError
from kokon.tee.snp.ovmf import SIZE_LIMIT, footer_entries
from kokon.tee.snp.pages import PAGE

SECTIONS_LIMIT: Final = 64
MEMORY_LIMIT: Final = 1 << 30
"""Bytes that all sections together may have: a real firmware asks for less than 8 MiB."""

BOOT_VOLUME: Final = 0
CONFIGURATION_VOLUME: Final = 1
HAND_OFF_BLOCK: Final = 2
TEMPORARY_MEMORY: Final = 3
SECTION_NAMES: Final = ("BFV", "CFV", "TD_HOB", "TempMem", "PermMem", "Payload", "PayloadParam")

MR_EXTEND: Final = 1
"""Attribute bit 0: the section's contents are measured, not only its pages' addresses."""
PAGE_AUG: Final = 2
"""Attribute bit 1: the pages are added after the launch, so that they are not measured at all."""

_OFFSET_GUID: Final = uuid.UUID("e47a6535-984a-4798-865e-4685a7bf8ec2").bytes_le
_DESCRIPTOR = struct.Struct("<4sIII")
_SECTION = struct.Struct("<IIQQII")


@dataclass(frozen=True, slots=True)
class TdvfSection:
    """A range of guest memory: `data` is what the file has for it, from its first byte on (b"": nothing).

    `address` and `size` are guest physical and in bytes, whole pages; `kind` is an index of `SECTION_NAMES`.
    """

    kind: int
    address: int
    size: int
    attributes: int
    data: bytes

    @property
    def name(self) -> str:
        """The kind by Intel's name."""
        return SECTION_NAMES[self.kind]


def _broken(message: str, found: object = None) -> MalformedError:
    return MalformedError("tdvf-malformed", message, found=found)


def _section(firmware: bytes, at: int) -> TdvfSection:
    offset, raw, address, size, kind, attributes = _SECTION.unpack_from(firmware, at)
    if kind >= len(SECTION_NAMES):
        raise _broken("the TDX metadata name an unknown kind of section", kind)
    if address % PAGE or size % PAGE or not 0 < size <= MEMORY_LIMIT or address + size > 1 << 52:
        raise _broken("a section of the TDX metadata is not made of whole pages", f"{size} bytes at {address:#x}")
    if attributes & ~(MR_EXTEND | PAGE_AUG):
        raise _broken("a section of the TDX metadata has unknown attributes", f"{attributes:#x}")
    if raw > size or offset + raw > len(firmware):
        raise _broken("a section of the TDX metadata lies outside the firmware", f"{raw} bytes at {offset:#x}")
    if attributes & MR_EXTEND and (raw != size or attributes & PAGE_AUG):
        raise _broken("a measured section of the TDX metadata lacks contents", SECTION_NAMES[kind])
    if kind in (HAND_OFF_BLOCK, TEMPORARY_MEMORY) and raw:
        raise _broken("a section of the TDX metadata must not have contents", SECTION_NAMES[kind])
    return TdvfSection(kind, address, size, attributes, firmware[offset : offset + raw])


def parse_tdvf(firmware: bytes) -> tuple[TdvfSection, ...]:
    """The sections of a TDX firmware file, in the order in which they are added to the guest.

    Raises `MalformedError`: `ovmf-malformed`, `firmware-no-tdx` (none for TDX), `tdvf-malformed`.
    """
    if not PAGE <= len(firmware) <= SIZE_LIMIT or len(firmware) % PAGE:
        raise _broken("the firmware has a wrong size", len(firmware))
    pointer = footer_entries(firmware).get(_OFFSET_GUID)
    if pointer is None:
        raise MalformedError(
            "firmware-no-tdx",
            "the firmware has no TDX metadata, a TD cannot be launched with it",
            hint="use a build of OVMF with TDX, such as Debian's OVMF.fd",
        )
    if len(pointer) != 4:
        raise _broken("the pointer to the TDX metadata has a wrong size", len(pointer))
    start = len(firmware) - int.from_bytes(pointer, "little")
    if not 0 <= start <= len(firmware) - _DESCRIPTOR.size:
        raise _broken("the TDX metadata lie outside the firmware", start)
    magic, length, version, count = _DESCRIPTOR.unpack_from(firmware, start)
    if magic != b"TDVF" or version != 1 or not 1 <= count <= SECTIONS_LIMIT:
        raise _broken("the TDX metadata have an unknown form", magic.hex())
    expected = _DESCRIPTOR.size + count * _SECTION.size
    if length != expected or start + expected > len(firmware):
        raise _broken("the TDX metadata have a wrong length", length)
    sections = tuple(_section(firmware, start + _DESCRIPTOR.size + index * _SECTION.size) for index in range(count))
    if sum(section.size for section in sections) > MEMORY_LIMIT:
        raise _broken("the TDX metadata ask for too much memory")
    return sections


def configuration_volume(sections: tuple[TdvfSection, ...]) -> bytes | None:
    """The contents of the configuration firmware volume (variables), which RTMR0 covers; None without one."""
    return next((section.data for section in sections if section.kind == CONFIGURATION_VOLUME), None)
