"""Unpack layers over each other into a directory, as OCI image-spec layer.md says, trusting no entry. Guest code.

Invariants: every path is walked component by component from the root's descriptor, no component is ever followed by the
kernel (O_NOFOLLOW), symbolic links on the way are resolved inside the root as chroot would, `..` in an entry's name is
refused. Devices are refused: a container gets its own /dev. Mode bits are kept, set-user-id included, because images
rely on them and the whole guest belongs to the image's owner; owners are set only when run as root.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kokon.errors import MalformedError
from kokon.image.fetch import disk_error
from kokon.image.tarstream import DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK, Entry, read_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import Self

_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_LINKS_LIMIT = 40
_DEPTH_LIMIT = 200
STEPS_LIMIT = 1000
"""Components looked up for one entry, those of links on the way included."""
_CACHE = 64
_CAPABILITY = b"security.capability"
_XATTR_NAME, _XATTR_VALUE = 255, 1 << 16
"""The longest name and the largest value in bytes (Linux: include/uapi/linux/limits.h)."""
_UNPLACEABLE = frozenset(
    (
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EINVAL,
        errno.ENOENT,
        errno.E2BIG,
        errno.ERANGE,
        errno.EMLINK,
    )
)
"""What the system says to an entry that it cannot have, whatever the state of the disk."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds over all layers of an image: entries, directories that they only imply included; bytes of the uncompressed
    archives together; and these against what was compressed: `free` + `ratio` times that. Deflate reaches 1,032 to 1
    (zlib's "Technical Details"), real images 3 to 1."""

    entries: int = 500_000
    total: int = 64 << 30
    free: int = 1 << 30
    ratio: int = 100


class Unpacker:
    """Unpacks the layers of one image, lowest first, into the existing directory `root`. Use as a context manager.

    Raises `MalformedError` (`layer-entry-unsafe`, `layer-entry-refused`, `layer-link-missing`, `layer-too-large`,
    `layer-tar-malformed`), `HostError` (`disk-full`, `disk-failed`). After an error the directory is to be thrown away.
    """

    def __init__(self, root: Path, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._entries = 0
        self._bytes = 0
        self._packed = 0
        self._owner = os.geteuid() == 0
        self._root = os.open(root, _LIST)
        self._parents: dict[bytes, tuple[int, tuple[bytes, ...]]] = {}
        self._made: set[tuple[bytes, ...]] = set()
        self._times: dict[tuple[bytes, ...], int] = {}
        self._stale: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()
        self._close_stale()
        os.close(self._root)

    def layer(self, chunks: Iterable[bytes], packed: int | None = None) -> None:
        """Apply one layer: the chunks of an uncompressed archive, read to their end. `packed` is the number of bytes
        that they were before they were uncompressed, if they were; without it no ratio is held."""
        self._packed += self._limits.total if packed is None else packed
        self._made.clear()
        self._times.clear()
        try:
            for entry, content in read_entries(self._count(chunks), self._limits.total):
                self._apply(entry, content)
                self._close_stale()
            self._set_times()
        except OSError as error:
            if error.errno in _UNPLACEABLE:
                raise MalformedError(
                    "layer-entry-unsafe", "a layer has an entry that cannot be placed", found=error.strerror
                ) from error
            raise disk_error(error, "unpacking the image") from error

    def _count(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        limits = self._limits
        most = min(limits.total, limits.free + limits.ratio * self._packed)
        for chunk in chunks:
            self._bytes += len(chunk)
            if self._bytes > most:
                raise MalformedError("layer-too-large", "the image unpacks to too much", expected=f"<= {most} bytes")
            yield chunk

    def _apply(self, entry: Entry, content: Iterator[memoryview]) -> None:
        self._count_entry()
        parts = split_name(entry.name)
        if not parts and entry.kind == DIRECTORY:
            self._finish(self._root, entry)
            return
        if not parts:
            raise MalformedError("layer-entry-unsafe", "a layer has an entry in the root's place", found=entry.kind)
        if parts[-1].startswith(_WHITEOUT):
            self._whiteout(parts)
            return
        parent, real = self._parent(parts[:-1], create=True)
        place = (*real, parts[-1])
        self._place(entry, content, parent, place)
        self._made.add(place)

    def _count_entry(self) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise MalformedError("layer-too-large", "too many entries", expected=f"<= {self._limits.entries}")

    def _place(self, entry: Entry, content: Iterator[memoryview], parent: int, place: tuple[bytes, ...]) -> None:
        name = place[-1]
        if entry.kind == DIRECTORY:
            self._directory(entry, parent, place)
        elif entry.kind == HARDLINK:
            self._hardlink(entry, parent, place)
        elif entry.kind == FILE:
            self._file(entry, content, parent, name)
        elif entry.kind == SYMLINK:
            target = _check_target(entry.link)
            self._fresh(lambda: os.symlink(target, name, dir_fd=parent), parent, name)
            self._finish_special(entry, parent, name)
        elif entry.kind == FIFO:
            self._fresh(lambda: os.mkfifo(name, 0o600, dir_fd=parent), parent, name)
            self._finish_special(entry, parent, name)
            os.chmod(name, entry.mode, dir_fd=parent)
        else:
            raise MalformedError(
                "layer-entry-refused",
                "a layer has a device node",
                found=_show(entry.name),
                hint="remove device nodes from the image: a container gets its own /dev",
            )

    def _file(self, entry: Entry, content: Iterator[memoryview], parent: int, name: bytes) -> None:
        file = self._fresh(lambda: os.open(name, _CREATE, 0o600, dir_fd=parent), parent, name) or 0
        try:
            for piece in content:
                _write_all(file, piece)
            self._finish(file, entry)
            os.utime(file, (entry.mtime, entry.mtime))
        finally:
            os.close(file)

    def _directory(self, entry: Entry, parent: int, place: tuple[bytes, ...]) -> None:
        name = place[-1]
        try:
            directory = os.open(name, _LIST, dir_fd=parent)
        except OSError:
            self._fresh(lambda: os.mkdir(name, 0o700, dir_fd=parent), parent, name)
            directory = os.open(name, _LIST, dir_fd=parent)
        try:
            self._finish(directory, entry)
        finally:
            os.close(directory)
        self._times[place] = entry.mtime

    def _finish(self, file: int, entry: Entry) -> None:
        """Owner, extended attributes, then mode: changing the owner clears set-user-id bits."""
        if self._owner:
            os.fchown(file, entry.uid, entry.gid)
        for name, value in kept_xattrs(entry).items():
            os.setxattr(file, name, value)
        os.fchmod(file, entry.mode)

    def _finish_special(self, entry: Entry, parent: int, name: bytes) -> None:
        if self._owner:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        os.utime(name, (entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def _hardlink(self, entry: Entry, parent: int, place: tuple[bytes, ...]) -> None:
        parts = split_name(entry.link)
        try:
            source, real = self._parent(parts[:-1], create=False)
            found = os.stat(parts[-1], dir_fd=source, follow_symlinks=False) if parts else None
        except FileNotFoundError:
            found = None
        if found is None or not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
            raise MalformedError(
                "layer-link-missing",
                "a layer has a hard link to something that is no file of the image",
                found=f"{_show(entry.name)} -> {_show(entry.link)}",
            )
        if (*real, parts[-1]) != place:
            self._fresh(
                lambda: os.link(parts[-1], place[-1], src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False),
                parent,
                place[-1],
            )

    def _whiteout(self, parts: list[bytes]) -> None:
        """Remove from lower layers what `.wh.NAME` or the opaque mark hides; what this layer made stays."""
        name = parts[-1]
        hidden = name[len(_WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise MalformedError("layer-entry-unsafe", "a layer has a bad whiteout", found=_show(name))
        try:
            parent, real = self._parent(parts[:-1], create=False)
        except FileNotFoundError:
            return
        if name == _OPAQUE:
            listing = os.open(b".", _LIST, dir_fd=parent)
            try:
                self._hide_all(listing, real)
            finally:
                os.close(listing)
        elif not name.startswith(_WHITEOUT * 2):
            self._hide(parent, (*real, hidden))
        self._forget()

    def _hide_all(self, directory: int, real: tuple[bytes, ...]) -> bool:
        """Hide every lower member; whether nothing is left."""
        empty = True
        for name in _members(directory):
            empty = self._hide(directory, (*real, name)) and empty
        return empty

    def _hide(self, parent: int, place: tuple[bytes, ...]) -> bool:
        name = place[-1]
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return True
        if stat.S_ISDIR(found.st_mode):
            directory = os.open(name, _LIST, dir_fd=parent)
            try:
                empty = self._hide_all(directory, place)
            finally:
                os.close(directory)
            if empty and place not in self._made:
                os.rmdir(name, dir_fd=parent)
                return True
            return False
        if place in self._made:
            return False
        os.unlink(name, dir_fd=parent)
        return True

    def _fresh(self, make: Callable[[], int | None], parent: int, name: bytes) -> int | None:
        """Make a new entry; what has its name already gives way."""
        try:
            return make()
        except FileExistsError:
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                _remove_tree(parent, name)
            else:
                os.unlink(name, dir_fd=parent)
            self._forget()
            return make()

    def _parent(self, parts: list[bytes], *, create: bool) -> tuple[int, tuple[bytes, ...]]:
        """A descriptor of the directory `parts` inside the root (valid until the entry is done) and its real path."""
        key = b"/".join(parts)
        found = self._parents.get(key)
        if found is None:
            if len(self._parents) >= _CACHE:
                self._forget()
            found = self._parents[key] = _walk(self._root, parts, self._count_entry if create else None)
        return found

    def _forget(self) -> None:
        """Drop remembered directories: something that they were reached through may be gone."""
        self._stale.extend(directory for directory, _ in self._parents.values())
        self._parents.clear()

    def _close_stale(self) -> None:
        while self._stale:
            os.close(self._stale.pop())

    def _set_times(self) -> None:
        for place, mtime in reversed(self._times.items()):
            try:
                directory, _ = _walk(self._root, list(place))
            except (FileNotFoundError, MalformedError):
                continue
            try:
                os.utime(f"/proc/self/fd/{directory}", (mtime, mtime))
            finally:
                os.close(directory)


def split_name(name: bytes) -> list[bytes]:
    """The components of an entry's name, relative to the root, without empty ones and `.`.

    Raises `MalformedError` (`layer-entry-unsafe`) for `..`, NUL, what is too long or too deep, and what lies below a
    whiteout: such a directory could not be hidden by a layer of its own.
    """
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    whiteout = any(part.startswith(_WHITEOUT) for part in parts[:-1])
    if whiteout or b".." in parts or b"\0" in name or len(name) > 4095 or len(parts) > _DEPTH_LIMIT:
        raise MalformedError(
            "layer-entry-unsafe",
            "a layer has an entry with an unsafe name",
            expected="a path inside",
            found=_show(name),
        )
    return parts


def kept_xattrs(entry: Entry) -> Mapping[bytes, bytes]:
    """The extended attributes that an unpacked entry has: capabilities, and `user.*` without `user.overlay.*`, which
    are marks of overlay file systems that hide files (kernel: overlayfs.rst, "User xattr").

    Raises `MalformedError` (`layer-entry-unsafe`) for names and values that no system takes.
    """
    for name, value in entry.xattrs.items():
        sound = name != _CAPABILITY or _is_capability(value)
        if not sound or b"\0" in name or len(name) > _XATTR_NAME or len(value) > _XATTR_VALUE:
            raise MalformedError("layer-entry-unsafe", "a layer has a bad extended attribute", found=_show(name))
    return {
        name: value
        for name, value in entry.xattrs.items()
        if name == _CAPABILITY or (name.startswith(b"user.") and not name.startswith(b"user.overlay."))
    }


def _is_capability(value: bytes) -> bool:
    """Whether Linux takes it (struct vfs_ns_cap_data, uapi/linux/capability.h): revision 2, or 3 with a user."""
    return (value[3:4] == b"\2" and len(value) == 20) or (
        value[3:4] == b"\3" and len(value) == 24 and value[20:] != b"\xff" * 4
    )


def _walk(root: int, parts: list[bytes], create: Callable[[], None] | None = None) -> tuple[int, tuple[bytes, ...]]:
    """Open the directory `parts` as chroot(root) would, and say where it really is. With `create`, which is told of
    each, directories that are missing are made."""
    stack = [(os.dup(root), b"")]
    todo = list(reversed(parts))
    links = steps = 0
    try:
        while todo:
            part = todo.pop()
            steps += 1
            if part in (b"", b"."):
                continue
            if part == b"..":
                if len(stack) > 1:
                    os.close(stack.pop()[0])
                continue
            target = _step(stack, part, create)
            links += target is not None
            if links > _LINKS_LIMIT or steps > STEPS_LIMIT or len(stack) > _DEPTH_LIMIT + 1:
                raise MalformedError(
                    "layer-entry-unsafe", "a layer has symbolic links in circles or too deep", found=_show(part)
                )
            if target is None:
                continue
            if target.startswith(b"/"):
                while len(stack) > 1:
                    os.close(stack.pop()[0])
            todo.extend(reversed(target.split(b"/")))
        real = tuple(name for _, name in stack[1:])
        return stack.pop()[0], real
    finally:
        for directory, _ in stack:
            os.close(directory)


def _step(stack: list[tuple[int, bytes]], part: bytes, create: Callable[[], None] | None) -> bytes | None:
    """Push the directory `part`; if it is a symbolic link, answer its target instead."""
    top = stack[-1][0]
    try:
        stack.append((os.open(part, _WALK, dir_fd=top), part))
        return None
    except FileNotFoundError:
        if create is None:
            raise
        create()
        os.mkdir(part, 0o755, dir_fd=top)
        stack.append((os.open(part, _WALK, dir_fd=top), part))
        return None
    except NotADirectoryError:
        try:
            return os.readlink(part, dir_fd=top)
        except OSError as error:
            raise MalformedError(
                "layer-entry-unsafe", "a layer has an entry below something that is no directory", found=_show(part)
            ) from error


def _remove_tree(parent: int, name: bytes) -> None:
    directory = os.open(name, _LIST, dir_fd=parent)
    try:
        for member in _members(directory):
            if stat.S_ISDIR(os.stat(member, dir_fd=directory, follow_symlinks=False).st_mode):
                _remove_tree(directory, member)
            else:
                os.unlink(member, dir_fd=directory)
    finally:
        os.close(directory)
    os.rmdir(name, dir_fd=parent)


def _members(directory: int) -> list[bytes]:
    return [os.fsencode(name) for name in os.listdir(directory)]


def _write_all(file: int, data: memoryview) -> None:
    while data:
        data = data[os.write(file, data) :]


def _check_target(target: bytes) -> bytes:
    if not target or b"\0" in target or len(target) > 4095:
        raise MalformedError("layer-entry-unsafe", "a layer has a bad symbolic link", found=_show(target))
    return target


def _show(name: bytes) -> str:
    return ascii(name.decode("utf-8", "replace"))[:200]
