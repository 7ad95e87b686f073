"""The digest of a PE/COFF image as UEFI firmware measures it before it starts it. Pure.

"Windows Authenticode Portable Executable Signature Format", section "Calculating the PE Image Hash", as edk2's
measurement library carries it out: the file without its checksum, the directory entry of its certificate table and
that table. Signing tools also pad a file to 8 bytes; the firmware measures what is there, and so does this.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from kokon.errors import MalformedError

IMAGE_LIMIT: Final = 512 << 20
SECTIONS_LIMIT: Final = 96
"""How many sections the Windows loader allows (PE format, "COFF File Header")."""

_PE32: Final = 0x10B
_PE32_PLUS: Final = 0x20B
_DIRECTORIES: Final = {_PE32: 96, _PE32_PLUS: 112}
"""Where the data directories begin in the optional header; their number stands in the four bytes before."""
_CERTIFICATES: Final = 4
"""Index of the certificate table among the data directories."""
_CHECKSUM: Final = 64
_HEADERS_SIZE: Final = 60

_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class _Layout:
    checksum: int
    directory: int | None
    """Where the entry of the certificate table stands, None if the image has none."""
    certificates: int
    """Bytes of the certificate table at the end of the file."""
    headers: int
    sections: tuple[tuple[int, int], ...]
    """File offset and size of each section, by offset."""


def _broken(message: str, found: object = None) -> MalformedError:
    return MalformedError("pe-malformed", f"not a PE image that can be measured: {message}", found=found)


def _layout(image: bytes) -> _Layout:
    (at,) = _U32.unpack_from(image, 0x3C)
    if image[:2] != b"MZ" or image[at : at + 4] != b"PE\0\0":
        raise _broken("it lacks the MZ or PE signature", image[:2].hex())
    (count,) = _U16.unpack_from(image, at + 6)
    (size,) = _U16.unpack_from(image, at + 20)
    optional = at + 24
    (magic,) = _U16.unpack_from(image, optional)
    if magic not in _DIRECTORIES or count > SECTIONS_LIMIT:
        raise _broken("unknown kind of optional header or too many sections", f"{magic:#x}, {count}")
    (headers,) = _U32.unpack_from(image, optional + _HEADERS_SIZE)
    first = optional + _DIRECTORIES[magic]
    (entries,) = _U32.unpack_from(image, first - 4)
    directory, certificates = None, 0
    if entries > _CERTIFICATES:
        directory = first + 8 * _CERTIFICATES
        certificates = _certificates(image, directory)
    table = optional + size
    end_of_entries = first if directory is None else directory + 8
    if not end_of_entries <= table or not table + 40 * count <= headers <= len(image):
        raise _broken("its headers overlap or reach beyond it", headers)
    return _Layout(optional + _CHECKSUM, directory, certificates, headers, _sections(image, table, count, headers))


def _certificates(image: bytes, directory: int) -> int:
    start, size = (int.from_bytes(image[at : at + 4], "little") for at in (directory, directory + 4))
    if size and (start + size != len(image) or start % 8):
        raise _broken("its certificate table is not at its end", f"{size} bytes at {start}")
    return size


def _sections(image: bytes, table: int, count: int, headers: int) -> tuple[tuple[int, int], ...]:
    found = []
    for index in range(count):
        size, start = struct.unpack_from("<II", image, table + 40 * index + 16)
        if size:
            found.append((start, size))
    found.sort()
    end = headers
    for start, size in found:
        if start < end or start + size > len(image):
            raise _broken("its sections overlap or reach beyond it", f"{size} bytes at {start}")
        end = start + size
    return tuple(found)


def authenticode_digest(image: bytes, algorithm: str = "sha384") -> bytes:
    """The digest of an image of at most 512 MiB, with an algorithm that hashlib knows.

    Refused are images whose sections overlap or lie outside the file: firmware would not start them either. Raises
    `MalformedError` (`pe-malformed`).
    """
    if not 64 <= len(image) <= IMAGE_LIMIT:
        raise _broken("it has an impossible size", len(image))
    try:
        layout = _layout(image)
    except struct.error as error:
        raise _broken("it ends within its headers") from error
    view = memoryview(image)
    digest = hashlib.new(algorithm)
    digest.update(view[: layout.checksum])
    if layout.directory is None:
        digest.update(view[layout.checksum + 4 : layout.headers])
    else:
        digest.update(view[layout.checksum + 4 : layout.directory])
        digest.update(view[layout.directory + 8 : layout.headers])
    hashed = layout.headers
    for start, size in layout.sections:
        digest.update(view[start : start + size])
        hashed += size
    rest = len(image) - layout.certificates - hashed
    if rest < 0:
        raise _broken("its certificate table lies within its sections", layout.certificates)
    digest.update(view[hashed : hashed + rest])
    return digest.digest()
