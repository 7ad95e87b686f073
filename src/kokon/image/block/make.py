"""From an image's layers to the bytes of a block image: flattened, as EROFS, with its hash tree, encrypted.

The same layers and the same key give the same bytes. Constant memory but for the tree of names and the hashes.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kokon.errors import UntrustedError
from kokon.image.block.erofs import write_erofs
from kokon.image.block.flatten import Flattener
from kokon.image.block.format import BLOCK, verity_salt, xts_key
from kokon.image.block.verity import TreeHasher, whole_blocks
from kokon.image.block.xts import decrypt_blocks, encrypt_blocks
from kokon.image.fetch import disk_error
from kokon.image.source import plain_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from kokon.image.block.flatten import Node
    from kokon.image.block.format import BlockInfo
    from kokon.image.source import Source
    from kokon.image.unpack import Limits

_PIECE = 256 * BLOCK


@dataclass(frozen=True, slots=True)
class Plain:
    """A block image before encryption: its file (data, then hash tree) and what describes it."""

    file: BinaryIO
    info: BlockInfo


def flatten_source(source: Source, spool: BinaryIO, limits: Limits | None = None) -> Node:
    """The tree of a source's layers, each checked against its diff_id; contents go to `spool`.

    Raises as `kokon.image.block.flatten` and `kokon.image.layer` do.
    """
    flattener = Flattener(spool, limits)
    for layer, diff_id in zip(source.layers, source.config.diff_ids, strict=True):
        flattener.layer(plain_layer(layer, diff_id))
    return flattener.root


def make_plain(source: Source, key: bytes, file: BinaryIO, limits: Limits | None = None) -> Plain:
    """Write data and hash tree of `source` under the 32-byte `key` to `file`.

    Raises `MalformedError` (`size-mismatch`, `block-too-large`, those of `flatten_source`), `HostError` (`disk-full`,
    `disk-failed`).
    """
    hasher = TreeHasher(verity_salt(key))
    try:
        with tempfile.TemporaryFile() as spool:
            root = flatten_source(source, spool, limits)
            for piece in whole_blocks(write_erofs(root, _reader(spool))):
                hasher.update(piece)
                file.write(piece)
        info, tree = hasher.finish()
        file.write(tree)
        file.flush()
    except OSError as error:
        raise disk_error(error, "making the block image") from error
    return Plain(file, info)


def ciphertext(plain: Plain, key: bytes) -> Iterator[bytes]:
    """The bytes to publish, from the first."""
    plain.file.seek(0)
    yield from encrypt_blocks(_pieces(plain.file), xts_key(key, plain.info.root))


def make_block(source: Source, key: bytes, target: Path, limits: Limits | None = None) -> BlockInfo:
    """Write the encrypted block image of `source` to the new file `target`. Raises as `make_plain` does."""
    try:
        with tempfile.TemporaryFile() as file, target.open("xb") as out:
            plain = make_plain(source, key, file, limits)
            for piece in ciphertext(plain, key):
                out.write(piece)
            os.fsync(out.fileno())
    except OSError as error:
        raise disk_error(error, "making the block image") from error
    return plain.info


def verify_block(file: BinaryIO, info: BlockInfo, key: bytes) -> None:
    """Decrypt a whole block image and raise `UntrustedError` (`block-mismatch`) unless it is exactly what `info` says.

    The guest does not need this: its kernel checks each block as it is read.
    """
    hasher = TreeHasher(verity_salt(key))
    left = info.blocks * BLOCK
    tree = bytearray()
    for piece in decrypt_blocks(_whole(file, info), xts_key(key, info.root)):
        data = piece[:left]
        hasher.update(data)
        left -= len(data)
        tree += piece[len(data) :]
    found, wanted = hasher.finish()
    if found != info or bytes(tree) != wanted:
        raise UntrustedError(
            "block-mismatch",
            "the block image is not what its descriptor says",
            expected=f"root {info.root.hex()}",
            found=f"root {found.root.hex()}" if found != info else "another hash tree",
            hint="it was changed, it belongs to another image, or the key is another",
        )


def _whole(file: BinaryIO, info: BlockInfo) -> Iterator[bytes]:
    total = 0
    for piece in _pieces(file):
        total += len(piece)
        if total > info.size or len(piece) % BLOCK:
            break
        yield piece
    if total != info.size:
        raise UntrustedError(
            "block-mismatch", "the block image has another size", expected=f"{info.size} bytes", found=total
        )


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


def _reader(spool: BinaryIO) -> Callable[[int, int], bytes]:
    def read(offset: int, size: int) -> bytes:
        spool.seek(offset)
        return spool.read(size)

    return read
