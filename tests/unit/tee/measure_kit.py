"""Small firmware images, PE files, ELF loaders and enclaves for the tests of measurements."""

import struct
import uuid

PAGE = 4096
FOOTER = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
TDX_OFFSET = uuid.UUID("e47a6535-984a-4798-865e-4685a7bf8ec2").bytes_le
SEV_OFFSET = uuid.UUID("dc886566-984a-4798-a75e-5585a7bf67cc").bytes_le
SEV_HASHES = uuid.UUID("7255371f-3a3b-4b04-927b-1da6efa8d454").bytes_le
SEV_RESET = uuid.UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e").bytes_le

BFV = (PAGE, PAGE, 0xFFFF_F000, PAGE, 0, 1)
CFV = (0, PAGE, 0xFFFF_E000, PAGE, 1, 0)
TEMP = (0, 0, 0x810000, 2 * PAGE, 3, 0)
HOB = (0, 0, 0x809000, PAGE, 2, 0)
AUG = (0, 0, 0x900000, PAGE, 4, 2)
TDX_SECTIONS = (BFV, CFV, TEMP, HOB, AUG)
"""File offset and size, address and size, kind, attributes."""

SEV_SECTIONS = ((0x800000, 0x2000, 1), (0x80D000, 0x1000, 2), (0x80E000, 0x1000, 3), (0x810000, 0x1000, 0x10))


def entry(guid: bytes, data: bytes) -> bytes:
    return data + struct.pack("<H16s", len(data) + 18, guid)


def tdvf(sections: tuple[tuple[int, ...], ...] = TDX_SECTIONS, *, version: int = 1, length: int | None = None) -> bytes:
    """A TDX descriptor."""
    body = b"".join(struct.pack("<IIQQII", *section) for section in sections)
    return struct.pack("<4sIII", b"TDVF", 16 + len(body) if length is None else length, version, len(sections)) + body


def firmware(
    block: bytes | None = None, *, pointer: bytes = struct.pack("<I", 1024), fill: int = 0x5A, hashes: bool = True
) -> bytes:
    """Two pages of firmware with TDX and SEV metadata."""
    block = tdvf() if block is None else block
    sev = b"".join(struct.pack("<III", *section) for section in SEV_SECTIONS)
    sev = struct.pack("<4sIII", b"ASEV", 16 + len(sev), 1, len(SEV_SECTIONS)) + sev
    entries = entry(TDX_OFFSET, pointer) + entry(SEV_OFFSET, struct.pack("<I", 512))
    entries += entry(SEV_RESET, struct.pack("<I", 0x80B004))
    if hashes:
        entries += entry(SEV_HASHES, struct.pack("<II", 0x810C00, 0x400))
    table = entries + struct.pack("<H16s", len(entries) + 18, FOOTER)
    size = 2 * PAGE
    data = bytearray([fill]) * size
    data[size - 1024 : size - 1024 + len(block)] = block
    data[size - 512 : size - 512 + len(sev)] = sev
    data[size - 32 - len(table) : size - 32] = table
    return bytes(data)


def pe(
    sections: tuple[tuple[int, int], ...] = ((0x400, 0x200), (0x600, 0x100)),
    *,
    size: int = 0x800,
    certificates: tuple[int, int] = (0x700, 0x100),
    headers: int = 0x400,
    magic: int = 0x20B,
    directories: int = 16,
    fill: int = 1,
) -> bytearray:
    """A PE file; its certificate table is at its end."""
    data = bytearray([fill]) * size
    data[:headers] = bytes(headers)
    data[:2] = b"MZ"
    struct.pack_into("<I", data, 0x3C, 0x80)
    first = 96 if magic == 0x10B else 112
    optional = first + 8 * directories
    struct.pack_into("<4sHHIIIHH", data, 0x80, b"PE\0\0", 0x8664, len(sections), 0, 0, 0, optional, 0)
    at = 0x80 + 24
    struct.pack_into("<H", data, at, magic)
    struct.pack_into("<I", data, at + 60, headers)
    struct.pack_into("<I", data, at + first - 4, directories)
    if directories > 4:
        struct.pack_into("<II", data, at + first + 32, *certificates)
    for index, (start, length) in enumerate(sections):
        struct.pack_into("<II", data, at + optional + 40 * index + 16, length, start)
    return data


def bzimage(*, protocol: int = 0x20F, flags: int = 1, xload: int = 2, fill: int = 1) -> bytes:
    """A Linux kernel that is a PE file too."""
    data = pe(((0x1000, 0x1000),), size=0x2000, certificates=(0, 0), headers=0x1000, fill=fill)
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", data, 0x206, protocol)
    data[0x211] = flags
    struct.pack_into("<I", data, 0x22C, 0x7FFFFFFF)
    struct.pack_into("<H", data, 0x236, xload)
    return bytes(data)


def elf(
    segments: tuple[tuple[int, int, int, int, int, int], ...] = (
        (1, 5, 0, 0, 0x200, 0x200),
        (1, 6, 0x234, 0x1234, 0x100, 0x3000),
    ),
    *,
    entry_point: int = 0x40,
    size: int = 0x800,
    entry_size: int = 56,
) -> bytes:
    """A loader; segments are kind, flags, file offset, address, file size, memory size."""
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, entry_point, 64, 0, 0, 64, entry_size, len(segments), 0, 0, 0)
    table = b"".join(
        struct.pack("<IIQQQQQQ", kind, flags, offset, address, address, length, memory, PAGE)
        for kind, flags, offset, address, length, memory in segments
    )
    return (head + table).ljust(size, b"\x77")
