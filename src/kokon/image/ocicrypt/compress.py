"""gzip (ISA-L's, which keeps up with the cipher) and zstd, as streams of bounded memory.

Formats: RFC 1952, RFC 8878.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kokon.errors import MalformedError, UsageError
from kokon.image.layer import CHUNK, gunzip_chunks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

KINDS = ("", "gzip", "zstd")
GZIP_LEVEL = 1
ZSTD_LEVEL = 3
WINDOW_LIMIT = 8 << 20
"""Bytes that a zstd stream may ask its reader to remember: RFC 8878, section 3.1.1.1.2."""


def check_kind(name: str) -> str:
    """`name` itself if it is a compression: gzip, zstd, or "" for none. Raises `UsageError` (`compression-unknown`)."""
    if name not in KINDS:
        raise UsageError("compression-unknown", "unknown compression", expected="gzip, zstd or none", found=name[:40])
    return name


def compressed(chunks: Iterable[bytes], kind: str) -> Iterator[bytes]:
    """`chunks` compressed: "" as they are, gzip or zstd."""
    if check_kind(kind) == "":
        yield from chunks
        return
    packer = _packer(kind)
    for chunk in chunks:
        if piece := packer.compress(chunk):
            yield piece
    yield packer.flush()


def _packer(kind: str) -> Any:
    if kind == "gzip":
        from isal import isal_zlib

        return isal_zlib.compressobj(GZIP_LEVEL, isal_zlib.DEFLATED, 31)
    import zstandard

    return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj()


def decompressed(chunks: Iterable[bytes], kind: str) -> Iterator[bytes]:
    """The content of `chunks`, in pieces of bounded size.

    Raises `MalformedError` (`layer-gzip-malformed`, `layer-zstd-malformed`) on damage and trailing bytes.
    That a zstd stream is cut short shows in the digest of its content only: check it (`checked_chunks`).
    """
    if check_kind(kind) == "":
        return iter(chunks)
    return gunzip_chunks(chunks) if kind == "gzip" else _unzstd(chunks)


def _unzstd(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Through the reader, which bounds what one call gives back; frames may follow each other."""
    import zstandard

    source = _Reader(chunks)
    reader = zstandard.ZstdDecompressor(max_window_size=WINDOW_LIMIT).stream_reader(
        source,  # type: ignore[arg-type]  # its read is all that is used
        read_size=CHUNK,
        read_across_frames=True,
    )
    try:
        while piece := reader.read(CHUNK):
            yield piece
    except zstandard.ZstdError as error:
        raise MalformedError("layer-zstd-malformed", "a layer is damaged zstd", found=error) from error
    if not source.read_any:
        raise MalformedError("layer-zstd-malformed", "a layer's zstd stream is empty")


class _Reader:
    """An iterator of bytes as a file."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""
        self.read_any = False

    def read(self, size: int) -> bytes:
        while not self._rest:
            piece = next(self._chunks, None)
            if piece is None:
                return b""
            self._rest = bytes(piece)
        data, self._rest = self._rest[:size], self._rest[size:]
        self.read_any = True
        return data
