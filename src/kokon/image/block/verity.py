"""dm-verity's hash tree: made while the data streams by, checked over a whole image.

Format 1, no superblock (Documentation/admin-guide/device-mapper/verity.rst of Linux): digests are
SHA-256(salt || block), 128 to a block, the level of a single block first, the level over the data last.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from kokon.errors import MalformedError
from kokon.image.block.format import BLOCK, BlockInfo, tree_levels

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class TreeHasher:
    """Takes whole blocks as they come; `finish` gives the tree."""

    def __init__(self, salt: bytes) -> None:
        self._prefix = hashlib.sha256(salt)
        self._level = bytearray()

    def update(self, blocks: bytes | memoryview) -> None:
        """Take whole blocks."""
        view = memoryview(blocks)
        for at in range(0, len(view), BLOCK):
            self._level += self._digest(view[at : at + BLOCK])

    def finish(self) -> tuple[BlockInfo, bytes]:
        """What describes the data, and the tree's blocks. Raises `MalformedError` (`block-empty`)."""
        count = len(self._level) // 32
        if count == 0:
            raise MalformedError("block-empty", "a block image without a block")
        levels = [_filled(self._level)]
        while len(levels[-1]) > BLOCK:
            below = levels[-1]
            levels.append(_filled(b"".join(self._digest(below[at : at + BLOCK]) for at in range(0, len(below), BLOCK))))
        return BlockInfo(self._digest(levels[-1]), count), b"".join(reversed(levels))

    def _digest(self, block: bytes | memoryview) -> bytes:
        digest = self._prefix.copy()
        digest.update(block)
        return digest.digest()


def whole_blocks(pieces: Iterable[bytes], size: int = 256 * BLOCK) -> Iterator[bytes]:
    """The same bytes in pieces of `size`, the last one shorter."""
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        while len(buffer) >= size:
            yield bytes(buffer[:size])
            del buffer[:size]
    if buffer:
        yield bytes(buffer)


def tree_size(blocks: int) -> int:
    """Bytes of the tree over `blocks` data blocks."""
    return sum(tree_levels(blocks)) * BLOCK


def _filled(level: bytes | bytearray) -> bytes:
    return bytes(level) + bytes(-len(level) % BLOCK)
