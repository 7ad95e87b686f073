"""Layers laid over each other in memory: a tree of what the image consists of, with the contents in one spool file.

The rules are those of `kokon.image.unpack` (tests hold the two to each other), but nothing is ever created on the
author's machine, so owners, set-user-id bits and extended attributes need no privileges and nothing can be escaped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kokon.errors import MalformedError
from kokon.image.tarstream import DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK, Entry, read_entries
from kokon.image.unpack import STEPS_LIMIT, Limits, kept_xattrs, split_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import BinaryIO

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_LINKS_LIMIT = 40
_DEPTH_LIMIT = 200
_NAME_LIMIT = 255
_TARGET_LIMIT = 4032


@dataclass(slots=True, eq=False)
class Node:
    """A file, directory, symbolic link or FIFO. `offset` and `size` say where a file's content is in the spool; a
    link's target is in `target`. Two names that lead to one node are hard links."""

    kind: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    offset: int = 0
    target: bytes = b""
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    children: dict[bytes, Node] = field(default_factory=dict)


class Flattener:
    """Lays layers over each other, lowest first; contents go to `spool`. The result is `root`.

    Raises `MalformedError` (`layer-entry-unsafe`, `layer-entry-refused`, `layer-link-missing`, `layer-too-large`, those
    of the tar reader).
    """

    def __init__(self, spool: BinaryIO, limits: Limits | None = None) -> None:
        self.root = Node(DIRECTORY)
        self._spool = spool
        self._at = 0
        self._limits = limits or Limits()
        self._entries = 0
        self._bytes = 0
        self._made: set[tuple[Node, bytes]] = set()

    def layer(self, chunks: Iterable[bytes]) -> None:
        """Apply one layer: the chunks of an uncompressed archive, read to their end."""
        self._made.clear()
        for entry, content in read_entries(self._count(chunks), self._limits.total):
            self._count_entry()
            self._apply(entry, content)

    def _count_entry(self) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise MalformedError("layer-too-large", "too many entries", expected=f"<= {self._limits.entries}")

    def _count(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._bytes += len(chunk)
            if self._bytes > self._limits.total:
                raise MalformedError(
                    "layer-too-large", "the image unpacks to too much", expected=f"<= {self._limits.total} bytes"
                )
            yield chunk

    def _apply(self, entry: Entry, content: Iterator[memoryview]) -> None:
        parts = split_name(entry.name)
        if not parts:
            if entry.kind != DIRECTORY:
                raise _unsafe("a layer has an entry in the root's place", entry.name)
            _attributes(self.root, entry)
            return
        if any(len(part) > _NAME_LIMIT for part in parts):
            raise _unsafe("a layer has an entry whose name is too long", entry.name)
        if parts[-1].startswith(_WHITEOUT):
            self._whiteout(parts)
            return
        parent = _walk(self.root, parts[:-1], self._count_entry)
        if parent is None:
            raise _unsafe("a layer has an entry that cannot be placed", entry.name)
        name = parts[-1]
        parent.children[name] = self._node(entry, content, parent.children.get(name))
        self._made.add((parent, name))

    def _node(self, entry: Entry, content: Iterator[memoryview], old: Node | None) -> Node:
        if entry.kind == HARDLINK:
            return self._linked(entry)
        if entry.kind not in (DIRECTORY, FILE, SYMLINK, FIFO):
            raise MalformedError(
                "layer-entry-refused",
                "a layer has a device node",
                found=_show(entry.name),
                hint="remove device nodes from the image: a container gets its own /dev",
            )
        node = old if old is not None and old.kind == entry.kind == DIRECTORY else Node(entry.kind)
        _attributes(node, entry)
        if entry.kind == FILE:
            node.offset, node.size = self._at, entry.size
            for piece in content:
                self._spool.write(piece)
            self._at += entry.size
        elif entry.kind == SYMLINK:
            if not 0 < len(entry.link) <= _TARGET_LIMIT or b"\0" in entry.link:
                raise _unsafe("a layer has a symbolic link with a bad target", entry.name)
            node.target, node.size, node.mode = entry.link, len(entry.link), 0o777
        return node

    def _linked(self, entry: Entry) -> Node:
        parts = split_name(entry.link)
        directory = _walk(self.root, parts[:-1]) if parts else None
        node = None if directory is None else directory.children.get(parts[-1])
        if node is None or node.kind not in (FILE, SYMLINK):
            raise MalformedError(
                "layer-link-missing",
                "a layer has a hard link to something that is no file of the image",
                found=f"{_show(entry.name)} -> {_show(entry.link)}",
            )
        return node

    def _whiteout(self, parts: list[bytes]) -> None:
        """Remove from lower layers what `.wh.NAME` or the opaque mark hides; what this layer made stays."""
        name = parts[-1]
        hidden = name[len(_WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise _unsafe("a layer has a bad whiteout", name)
        parent = _walk(self.root, parts[:-1])
        if parent is None:
            return
        if name == _OPAQUE:
            self._hide_all(parent)
        elif not name.startswith(_WHITEOUT * 2):
            self._hide(parent, hidden)

    def _hide_all(self, directory: Node) -> None:
        for name in list(directory.children):
            self._hide(directory, name)

    def _hide(self, parent: Node, name: bytes) -> None:
        node = parent.children.get(name)
        if node is None:
            return
        if node.kind == DIRECTORY:
            self._hide_all(node)
            if node.children:
                return
        if (parent, name) not in self._made:
            del parent.children[name]


def _attributes(node: Node, entry: Entry) -> None:
    node.mode, node.uid, node.gid, node.mtime = entry.mode, entry.uid, entry.gid, entry.mtime
    node.xattrs = kept_xattrs(entry) if entry.kind in (FILE, DIRECTORY) else {}


def _walk(root: Node, parts: list[bytes], create: Callable[[], None] | None = None) -> Node | None:
    """The directory `parts` as chroot(root) would find it; None if there is none and it is not to be made: `create` is
    told of each that is."""
    stack, todo, links, steps = [root], list(reversed(parts)), 0, 0
    while todo:
        part = todo.pop()
        steps += 1
        if part in (b"", b"."):
            continue
        if part == b"..":
            del stack[max(1, len(stack) - 1) :]
            continue
        node = stack[-1].children.get(part)
        if node is None:
            if create is None:
                return None
            create()
            node = stack[-1].children[part] = Node(DIRECTORY)
        if node.kind == SYMLINK:
            links += 1
            todo.extend(reversed(node.target.split(b"/")))
            if node.target.startswith(b"/"):
                del stack[1:]
        elif node.kind == DIRECTORY:
            stack.append(node)
        else:
            raise _unsafe("a layer has an entry below something that is no directory", part)
        if links > _LINKS_LIMIT or steps > STEPS_LIMIT or len(stack) > _DEPTH_LIMIT + 1:
            raise _unsafe("a layer has symbolic links in circles or too deep", part)
    return stack[-1]


def _unsafe(message: str, name: bytes) -> MalformedError:
    return MalformedError("layer-entry-unsafe", message, found=_show(name))


def _show(name: bytes) -> str:
    return repr(name[:200])
