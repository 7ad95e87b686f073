"""Write an EROFS file system of a tree, uncompressed: the same tree gives the same bytes, whatever tools are installed.

Format: Linux fs/erofs/erofs_fs.h, Documentation/filesystems/erofs.rst. Extended inodes (64 bytes: owners of 32 bits,
modification times), layouts FLAT_PLAIN and FLAT_INLINE, extended attributes inside the inode. Image layout: the
superblock at 1024, inodes from 1152 on in the order of a walk, then whole blocks of directories and files in the same
order.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kokon.errors import MalformedError
from kokon.image.block.flatten import Node
from kokon.image.block.format import BLOCK, BLOCKS_LIMIT
from kokon.image.tarstream import DIRECTORY, FIFO, FILE, SYMLINK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAGIC = 0xE0F5E1E2
_SUPER_AT = 1024
_SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQ24s")
_INODE = struct.Struct("<HHHHQIIIIQII16x")
_DIRENT = struct.Struct("<QHBB")
_XATTR_HEADER = bytes(12)
_XATTR_ENTRY = struct.Struct("<BBH")
_SLOT = 32
_FIRST = _SUPER_AT + 128
_PLAIN, _INLINE, _EXTENDED = 0 << 1, 2 << 1, 1
_INLINE_LIMIT = 2048
_NO_BLOCK = 0xFFFFFFFF
_TYPES = {FILE: (stat.S_IFREG, 1), DIRECTORY: (stat.S_IFDIR, 2), FIFO: (stat.S_IFIFO, 5), SYMLINK: (stat.S_IFLNK, 7)}
_XATTR_PREFIXES = ((b"user.", 1), (b"security.", 6))
_COPY = 1 << 20


@dataclass(slots=True, eq=False)
class _Placed:
    """A node with its place: byte position of the inode, first whole block, and its parent (of a directory)."""

    node: Node
    xattrs: bytes
    parent: _Placed | None = None
    links: int = 0
    size: int = 0
    position: int = 0
    block: int = _NO_BLOCK
    inline: int = 0
    names: list[tuple[bytes, _Placed]] = field(default_factory=list)

    @property
    def head(self) -> int:
        return _INODE.size + len(self.xattrs)

    @property
    def whole(self) -> int:
        """Whole blocks outside of the inode."""
        return -(-(self.size - self.inline) // BLOCK)


def write_erofs(root: Node, read: Callable[[int, int], bytes]) -> Iterator[bytes]:
    """The file system of the tree `root` in pieces, a whole number of blocks in all; `read(offset, size)` gives the
    contents of files.

    Raises `MalformedError` (`block-too-large`).
    """
    placed = _collect(root)
    end = _FIRST
    for one in placed:
        end = _place(one, end)
    first = -(-end // BLOCK)
    total = first
    for one in placed:
        if one.whole:
            one.block = total
            total += one.whole
    if total > BLOCKS_LIMIT or len(placed) >= 1 << 32:
        raise MalformedError("block-too-large", "the image is too large for a block image", expected=BLOCKS_LIMIT)
    yield from _metadata(placed, read, first, total)
    for one in placed:
        yield from _whole_blocks(one, read)


def _collect(root: Node) -> list[_Placed]:
    """Every node once, in the order of a walk by names, with the number of its links and the names in it."""
    seen: dict[Node, _Placed] = {}
    order: list[_Placed] = []

    def visit(node: Node) -> _Placed:
        found = seen.get(node)
        if found is None:
            found = seen[node] = _Placed(node, _xattrs(node), size=node.size)
            order.append(found)
        found.links += 1
        return found

    top = visit(root)
    top.parent = top
    waiting = [top]
    while waiting:
        directory = waiting.pop()
        below = []
        for name, child in sorted(directory.node.children.items()):
            inside = visit(child)
            directory.names.append((name, inside))
            if child.kind == DIRECTORY:
                inside.parent = directory
                below.append(inside)
        directory.links += 1 + len(below)
        waiting.extend(reversed(below))
    for one in order:
        if one.node.kind == DIRECTORY:
            # a directory's links: its name, its own ".", and ".." of each directory in it
            one.links = 2 + sum(child.node.kind == DIRECTORY for _, child in one.names)
            one.size = sum(len(piece) for piece in _directory_blocks(one))
    return order


def _place(one: _Placed, end: int) -> int:
    """Give the inode its position behind `end`, and the last part of a block a place beside it; the new end."""
    tail = one.size % BLOCK
    if one.node.kind == SYMLINK or tail <= _INLINE_LIMIT:
        one.inline = tail if one.head + tail <= BLOCK else 0
    position = -(-end // _SLOT) * _SLOT
    length = one.head + one.inline
    if position % BLOCK + length > BLOCK:
        position = -(-position // BLOCK) * BLOCK
    one.position = position
    return position + length


def _metadata(placed: list[_Placed], read: Callable[[int, int], bytes], first: int, total: int) -> Iterator[bytes]:
    at = 0
    for piece, position in _metadata_pieces(placed, read, total):
        yield bytes(position - at)
        yield piece
        at = position + len(piece)
    yield bytes(first * BLOCK - at)


def _metadata_pieces(
    placed: list[_Placed], read: Callable[[int, int], bytes], total: int
) -> Iterator[tuple[bytes, int]]:
    yield _superblock(len(placed), placed[0].position // _SLOT, total), _SUPER_AT
    for number, one in enumerate(placed, start=1):
        tail = _content(one, read, one.size - one.inline, one.inline) if one.inline else b""
        yield _inode(one, number) + one.xattrs + tail, one.position


def _superblock(inodes: int, root: int, total: int) -> bytes:
    """struct erofs_super_block without checksum (dm-verity has better ones), times and UUID."""
    return _SUPER.pack(
        *(MAGIC, 0, 0, 12, 0, root, inodes, 0, 0, total, 0, 0),
        *(b"", b"", 0, 0, 0, 0, 0, 0, 0, 0, b""),
    )


def _inode(one: _Placed, number: int) -> bytes:
    node = one.node
    layout = _INLINE if one.inline else _PLAIN
    count = 1 + (len(one.xattrs) - len(_XATTR_HEADER)) // 4 if one.xattrs else 0
    return _INODE.pack(
        *(_EXTENDED | layout, count, _TYPES[node.kind][0] | node.mode, 0, one.size, one.block, number),
        *(node.uid, node.gid, node.mtime, 0, one.links),
    )


def _xattrs(node: Node) -> bytes:
    """The extended attributes as they stand behind an inode; nothing if there are none."""
    out = b""
    for name, value in sorted(node.xattrs.items()):
        for prefix, index in _XATTR_PREFIXES:
            if name.startswith(prefix):
                short = name[len(prefix) :]
                entry = _XATTR_ENTRY.pack(_fit(len(short), 255), index, _fit(len(value), 65535)) + short + value
                out += entry + bytes(-len(entry) % 4)
    if len(out) > 1 << 16:
        raise _attribute_error(len(out), 1 << 16)
    return _XATTR_HEADER + out if out else b""


def _fit(size: int, limit: int) -> int:
    if size > limit:
        raise _attribute_error(size, limit)
    return size


def _attribute_error(size: int, limit: int) -> MalformedError:
    return MalformedError(
        "block-too-large", "an extended attribute is too large", expected=f"<= {limit} bytes", found=size
    )


def _directory_blocks(one: _Placed) -> Iterator[bytes]:
    """The directory's blocks: in each the entries, then their names; all but the last one filled up with zeros."""
    names = sorted([*one.names, (b".", one), (b"..", one.parent or one)], key=lambda pair: pair[0])
    waiting: list[tuple[bytes, _Placed]] = []
    used = 0
    for pair in names:
        needed = _DIRENT.size + len(pair[0])
        if used + needed > BLOCK:
            block = _directory_block(waiting)
            yield block + bytes(BLOCK - len(block))
            waiting, used = [], 0
        waiting.append(pair)
        used += needed
    yield _directory_block(waiting)


def _directory_block(names: list[tuple[bytes, _Placed]]) -> bytes:
    entries, texts = b"", b""
    start = len(names) * _DIRENT.size
    for name, one in names:
        entries += _DIRENT.pack(one.position // _SLOT, start + len(texts), _TYPES[one.node.kind][1], 0)
        texts += name
    return entries + texts


def _content(one: _Placed, read: Callable[[int, int], bytes], offset: int, size: int) -> bytes:
    if one.node.kind == DIRECTORY:
        return b"".join(_directory_blocks(one))[offset : offset + size]
    if one.node.kind == SYMLINK:
        return one.node.target[offset : offset + size]
    return read(one.node.offset + offset, size)


def _whole_blocks(one: _Placed, read: Callable[[int, int], bytes]) -> Iterator[bytes]:
    size = one.size - one.inline
    for offset in range(0, size, _COPY):
        yield _content(one, read, offset, min(_COPY, size - offset))
    yield bytes(-size % BLOCK)
