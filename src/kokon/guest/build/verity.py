"""The hash tree of dm-verity (format 1, no superblock) and its place behind the data.

Layout: Documentation/admin-guide/device-mapper/verity.rst of Linux: blocks of 4096 bytes, digests
SHA-256(salt || block), 128 to a block, the level with the single block first and the level over the data last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kokon.errors import MalformedError

BLOCK = 4096
_DIGESTS_PER_BLOCK = BLOCK // 32


@dataclass(frozen=True, slots=True)
class Verity:
    """What opens a verified device: root digest and salt (32 bytes each) and the number of data blocks."""

    root: bytes
    salt: bytes
    blocks: int

    @property
    def parameters(self) -> str:
        """The part of the kernel command line that init reads."""
        return f"verity.root={self.root.hex()} verity.salt={self.salt.hex()} verity.blocks={self.blocks}"


def append_tree(image: Path, salt: bytes) -> Verity:
    """Append the hash tree to the file system in `image`.

    Raises `MalformedError` (`verity-size`) unless it is a whole number of blocks, at least two.
    """
    size = image.stat().st_size
    if size < 2 * BLOCK or size % BLOCK:
        raise MalformedError("verity-size", "the file system is no whole number of blocks", found=f"{size} bytes")
    with image.open("rb") as file:
        level = _hash_level(_blocks(file), salt)
    levels = [level]
    while len(levels[-1]) > BLOCK:
        levels.append(_hash_level(_slices(levels[-1]), salt))
    with image.open("ab") as file:
        for level in reversed(levels):
            file.write(level)
    return Verity(hashlib.sha256(salt + levels[-1]).digest(), salt, size // BLOCK)


def _hash_level(blocks: Iterable[bytes], salt: bytes) -> bytes:
    """Digests of `blocks`, filled up with zeros to a whole number of blocks."""
    prefix = hashlib.sha256(salt)
    level = bytearray()
    for block in blocks:
        digest = prefix.copy()
        digest.update(block)
        level += digest.digest()
    level += bytes(-len(level) % BLOCK)
    return bytes(level)


def _slices(level: bytes) -> Iterator[bytes]:
    return (level[at : at + BLOCK] for at in range(0, len(level), BLOCK))


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.read(BLOCK), b"")
