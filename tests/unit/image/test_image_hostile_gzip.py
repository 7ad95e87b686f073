"""Gzip streams made to cost much or to say two things: empty members, bytes behind the end, flags, cuts."""

from __future__ import annotations

import gzip
import os
import zlib

import pytest

from kokon.errors import MalformedError
from kokon.image import layer
from kokon.image.layer import CHUNK, gunzip_chunks

EMPTY = gzip.compress(b"", mtime=0)


def code_of(*chunks: bytes) -> str:
    with pytest.raises(MalformedError) as caught:
        for _ in gunzip_chunks(chunks):
            pass
    return caught.value.code


def test_members_in_a_chunk_are_not_copied_over_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 bytes make an empty member. What is left of the chunk is copied at the end of each: 26 GB for 1 MiB."""
    copied, genuine = 0, zlib.decompressobj

    class Counting:
        def __init__(self, wbits: int) -> None:
            self._inner = genuine(wbits)

        def decompress(self, data: memoryview, limit: int) -> bytes:
            nonlocal copied
            piece = self._inner.decompress(data, limit)
            copied += len(self._inner.unused_data) + len(self._inner.unconsumed_tail)
            return piece

        def __getattr__(self, name: str) -> object:
            return getattr(self._inner, name)

    monkeypatch.setattr(layer.zlib, "decompressobj", Counting)
    data = EMPTY * 20_000
    assert list(gunzip_chunks([data])) == []
    assert copied < 1000 * len(data)


def test_members_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "MEMBERS_LIMIT", 100)
    assert b"".join(gunzip_chunks([EMPTY * 99 + gzip.compress(b"x")])) == b"x"
    assert code_of(EMPTY * 101) == "layer-gzip-malformed"
    assert code_of(*[EMPTY] * 101) == "layer-gzip-malformed"


@pytest.mark.parametrize("behind", [b"\0", b"\0" * 512, b"junk", b"\x1f", b"\x1f\x8b", EMPTY[:-1]])
@pytest.mark.parametrize("apart", [False, True])
def test_bytes_behind_the_last_member(behind: bytes, apart: bool) -> None:
    """Some tools pass over zeros or anything else there; then two digests name one content."""
    whole = gzip.compress(b"content", mtime=0)
    assert code_of(*([whole, behind] if apart else [whole + behind])) == "layer-gzip-malformed"


def test_a_stream_of_zlib_or_raw_deflate_is_none_of_gzip() -> None:
    assert code_of(zlib.compress(b"content")) == "layer-gzip-malformed"
    raw = zlib.compressobj(wbits=-15)
    assert code_of(raw.compress(b"content") + raw.flush()) == "layer-gzip-malformed"


@pytest.mark.parametrize("where", [-8, -4])
def test_checksum_and_length_are_checked(where: int) -> None:
    data = bytearray(gzip.compress(b"content", mtime=0))
    data[where] ^= 1
    assert code_of(bytes(data)) == "layer-gzip-malformed"


def test_a_name_without_end_in_the_header() -> None:
    """RFC 1952: a file name ends with a zero byte. One that never does is no content."""
    assert code_of(b"\x1f\x8b\x08\x08" + bytes(6), *[b"n" * CHUNK] * 4) == "layer-gzip-malformed"


def test_a_large_chunk_of_a_bomb_comes_in_pieces() -> None:
    data = gzip.compress(bytes(40 << 20), 9) + gzip.compress(os.urandom(100_000))
    sizes = [len(piece) for piece in gunzip_chunks([data])]
    assert sum(sizes) == (40 << 20) + 100_000
    assert max(sizes) <= CHUNK
