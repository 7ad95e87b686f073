"""Device mapper through its ioctl interface (linux/dm-ioctl.h, version 4): what scratch disk and block image need.

Starting cryptsetup for it would cost a third of a second of a cold start under emulation.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

CONTROL = Path("/dev/mapper/control")
BLOCK = 4096
KEY_SIZE = 16
TAG_SIZE = 32
"""Bytes beside each block: nonce and tag of AEGIS-128, 16 each."""
_HEADER = struct.Struct("=3I4IIIIQ128s129s7x")
_TARGET = struct.Struct("=QQiI16s")
_DIRECTION = 0xC138FD00  # _IOWR(0xfd, n, struct dm_ioctl of 312 bytes)
_CREATE, _SUSPEND, _LOAD = 3, 6, 9
_READ_ONLY = 1 << 0
_SECURE_DATA = 1 << 15  # the kernel wipes its copies: the table holds a key
_SECTOR = 512
_VERSION = (4, 0, 0)
_PER_BLOCK = BLOCK // _SECTOR
_INTEGRITY_AREA = 4 << 11


def integrity_table(device: str) -> str:
    """Parameters of a dm-integrity target that keeps `TAG_SIZE` bytes beside each block, without a journal ("D").

    Documentation/admin-guide/device-mapper/dm-integrity.rst. The journal's area, which is never used, is made small.
    """
    return f"{device} 0 {TAG_SIZE} D 3 block_size:{BLOCK} journal_sectors:64 fix_padding"


def crypt_table(key: bytes, device: str) -> str:
    """Parameters of a dm-crypt target: AEGIS-128 with a 16-byte key and a random nonce for every write of a block.

    The block's number is authenticated with it (Documentation/admin-guide/device-mapper/dm-crypt.rst).
    """
    return f"capi:aegis128-random {key.hex()} 0 {device} 0 2 integrity:{TAG_SIZE}:aead sector_size:{BLOCK}"


def usable_sectors(sectors: int) -> int:
    """How much of a disk holds data when dm-integrity keeps its superblock and tags on it as well.

    The kernel works out the exact number, which is larger; asking for fewer saves reading it from the host's disk.
    """
    return (sectors - sectors // 64 - _INTEGRITY_AREA) // _PER_BLOCK * _PER_BLOCK


def encode_request(name: str, body: bytes = b"", targets: int = 0, *, read_only: bool = False) -> bytes:
    """struct dm_ioctl followed by `body`."""
    size = _HEADER.size + len(body)
    flags = _SECURE_DATA | (_READ_ONLY if read_only else 0)
    return _HEADER.pack(*_VERSION, size, _HEADER.size, targets, 0, flags, 0, 0, 0, name.encode(), b"") + body


def encode_target(sectors: int, kind: str, parameters: str) -> bytes:
    """struct dm_target_spec of a device that is one target, with its parameters, padded to 8 bytes."""
    text = parameters.encode() + b"\0"
    text += bytes(-len(text) % 8)
    return _TARGET.pack(0, sectors, 0, _TARGET.size + len(text), kind.encode()) + text


def minor_of(answer: bytes) -> int:
    """The minor number in the `dev` member of an answer (huge encoding of new_encode_dev)."""
    device: int = _HEADER.unpack_from(answer)[10]
    return (device & 0xFF) | (device >> 12 & 0xFFF00)


def sectors_of(device: Path, multiple: int = 8) -> int:
    """The size of a block device in sectors of 512 bytes, rounded down to `multiple`. Raises `OSError`."""
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sectors = os.lseek(descriptor, 0, os.SEEK_END) // _SECTOR
    finally:
        os.close(descriptor)
    return sectors - sectors % multiple


def create(name: str, sectors: int, kind: str, parameters: str, *, read_only: bool = False) -> Path:
    """Make and start a device of one target; its path. Raises `OSError`."""
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        answer = _ask(control, _CREATE, encode_request(name))
        table = encode_target(sectors, kind, parameters)
        _ask(control, _LOAD, encode_request(name, table, targets=1, read_only=read_only))
        _ask(control, _SUSPEND, encode_request(name))
    finally:
        os.close(control)
    return Path(f"/dev/dm-{minor_of(answer)}")


def _ask(control: int, number: int, request: bytes) -> bytes:
    buffer = bytearray(request)
    fcntl.ioctl(control, _DIRECTION | number, buffer)
    return bytes(buffer)
