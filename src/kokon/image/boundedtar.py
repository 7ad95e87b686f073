"""Open a tar archive for random access with the standard library, such that a hostile one takes no memory or time
without bounds: the library itself believes every size that an archive says.

For archives that hold images, compressed or not; layers are read with `kokon.image.tarstream`. Not in the guest.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kokon.errors import MalformedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    _Unpacked = gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile

MEMBERS_LIMIT = 20_000
READ_LIMIT = 4 << 20
"""Bytes asked for at once: the library reads extended headers whole, and content in pieces that its caller chooses."""
FREE = 1 << 30
RATIO = 100
"""A compressed archive may unpack to `FREE` + `RATIO` times its own size; layers in it are compressed already."""
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")
_DAMAGE = (EOFError, OSError, lzma.LZMAError, zlib.error, ValueError)
"""What unpackers say to damage."""


class _Bounded(io.RawIOBase):
    """A seekable stream of which no more than `READ_LIMIT` is read at once, and nothing behind `end`."""

    def __init__(self, file: BinaryIO | _Unpacked, end: int) -> None:
        self._file = file
        self._end = end

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= READ_LIMIT:
            raise _too_much("it asks for much at once", READ_LIMIT)
        self._check(self._file.tell() + size)
        try:
            return self._file.read(size)
        except _DAMAGE as error:
            raise tarfile.ReadError(f"damaged: {error}") from error

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0:
            self._check(offset)
        try:
            return self._file.seek(offset, whence)
        except _DAMAGE as error:
            raise tarfile.ReadError(f"damaged: {error}") from error

    def tell(self) -> int:
        return self._file.tell()

    def _check(self, position: int) -> None:
        if position > self._end:
            raise _too_much("it unpacks to too much", self._end)


@contextmanager
def open_tar(path: Path) -> Iterator[tuple[tarfile.TarFile, tuple[tarfile.TarInfo, ...]]]:
    """The archive at `path`, plain or packed with gzip, bzip2 or xz, and its members.

    Raises `MalformedError` (`image-malformed`: too many members, or too much from little), `tarfile.TarError` (damage,
    also while members are read), `OSError` (the file cannot be opened).
    """
    with path.open("rb") as raw:
        start = raw.read(6)
        size = raw.seek(0, 2)
        raw.seek(0)
        # What is not packed ends with the file; the library reads a little behind the end of what it knows.
        end = FREE + RATIO * size if start.startswith(_MAGIC) else size + READ_LIMIT
        with _opened(_Bounded(_unpacked(raw, start), end)) as archive:
            yield archive, _members(archive)


def _opened(bounded: _Bounded) -> tarfile.TarFile:
    try:
        return tarfile.TarFile(fileobj=bounded)
    except ValueError as error:  # numbers that do not fit into what seeks
        raise tarfile.ReadError(f"damaged: {error}") from error


def _unpacked(raw: BinaryIO, start: bytes) -> BinaryIO | _Unpacked:
    if start.startswith(_MAGIC[0]):
        return gzip.GzipFile(fileobj=raw, mode="rb")
    if start.startswith(_MAGIC[1]):
        return bz2.BZ2File(raw)
    return lzma.LZMAFile(raw) if start.startswith(_MAGIC[2]) else raw


def _members(archive: tarfile.TarFile) -> tuple[tarfile.TarInfo, ...]:
    found: list[tarfile.TarInfo] = []
    try:
        for member in archive:
            if member.size < 0 or member.issparse():
                raise tarfile.ReadError(f"{ascii(member.name)[:99]} is sparse or of a negative size")
            found.append(member)
            if len(found) > MEMBERS_LIMIT:
                raise _too_much("it has too many members", MEMBERS_LIMIT)
    except (ValueError, OverflowError) as error:
        raise tarfile.ReadError(f"damaged: {error}") from error
    return tuple(found)


def _too_much(reason: str, limit: int) -> MalformedError:
    return MalformedError("image-malformed", f"the archive is not that of an image: {reason}", expected=f"<= {limit}")
