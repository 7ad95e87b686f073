"""The streaming tar reader against the standard library's, and against damage."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.image import tarstream
from kokon.image.tarstream import Entry, parse_pax, read_entries
from support.images import make_tar, member
from support.sealed import LOWER

KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "symlink",
    tarfile.LNKTYPE: "link",
    tarfile.FIFOTYPE: "fifo",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
}
NAMES = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_characters="/\\"), min_size=1, max_size=80
)
PATHS = st.lists(NAMES, min_size=1, max_size=5).map("/".join).filter(lambda name: not name.endswith("/"))


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def read(data: bytes, size: int = 1000) -> list[tuple[Entry, bytes]]:
    return [(entry, b"".join(content)) for entry, content in read_entries(pieces(data, size))]


def code_of(data: bytes) -> str:
    with pytest.raises(MalformedError) as caught:
        read(data)
    return caught.value.code


@st.composite
def members(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes | None]:
    kind = draw(st.sampled_from(sorted(KINDS)))
    info = member(draw(PATHS), kind)
    info.mode = draw(st.integers(0, 0o7777))
    info.uid = draw(st.integers(0, 2**31))
    info.gid = draw(st.integers(0, 2**21))
    info.mtime = draw(st.integers(0, 2**34))
    if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        info.linkname = draw(PATHS)
    return info, draw(st.binary(max_size=1500)) if kind == tarfile.REGTYPE else None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(members(), max_size=4),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.integers(1, 3000),
)
def test_reads_what_the_standard_library_writes(
    given_members: list[tuple[tarfile.TarInfo, bytes | None]], format_: int, size: int
) -> None:
    data = make_tar(given_members, format_)
    found = read(data, size)
    with tarfile.open(fileobj=io.BytesIO(data)) as oracle:
        expected = oracle.getmembers()
        assert len(found) == len(expected) == len(given_members)
        for (entry, content), info in zip(found, expected, strict=True):
            assert entry.name.rstrip(b"/").decode() == info.name
            assert entry.kind == KINDS[info.type]
            assert (entry.mode, entry.uid, entry.gid) == (info.mode, info.uid, info.gid)
            assert entry.mtime == info.mtime
            assert entry.link.decode() == info.linkname
            if info.isfile():
                reader = oracle.extractfile(info)
                assert reader is not None
                assert content == reader.read()


def test_extended_attributes_long_names_and_v7_directories() -> None:
    info = member("a" * 300)
    info.pax_headers = {"SCHILY.xattr.user.note": "hello"}
    old = member("olddir/")
    old.type = tarfile.AREGTYPE
    entries = read(make_tar([(info, b"x"), (old, None)]))
    assert entries[0][0].xattrs == {b"user.note": b"hello"}
    assert entries[0][0].name == b"a" * 300
    assert entries[1][0].kind == "dir"


def test_unread_content_is_skipped_and_the_stream_is_drained() -> None:
    left = iter(pieces(LOWER + b"\0" * 9000, 700))
    assert [entry.name for entry, _ in read_entries(left)][:2] == [b"etc/", b"etc/old"]
    assert next(left, None) is None
    assert read(b"") == []


def test_ustar_prefix() -> None:
    name = "p" * 100 + "/" + "n" * 60
    entries = read(make_tar([(member(name), b"")], tarfile.USTAR_FORMAT))
    assert entries[0][0].name == name.encode()


@pytest.mark.parametrize("cut", [1, 511, 513, 1024 + 100])
def test_truncated(cut: int) -> None:
    data = make_tar([("a", b"x" * 900)])
    if cut == 511 or cut == 1 or cut > 512:
        assert code_of(data[:cut]) == "layer-tar-malformed"


@pytest.mark.parametrize(
    ("name", "value"), [("mtime", "9" * 19), ("uid", str(2**32 - 1)), ("gid", str(2**40)), ("size", "9" * 19)]
)
def test_numbers_that_no_system_call_takes(name: str, value: str) -> None:
    entry = member("a")
    entry.pax_headers = {name: value}
    assert code_of(make_tar([(entry, b"x")])) == "layer-tar-malformed"


def test_extended_headers_of_one_entry_are_bounded_together() -> None:
    entry = member("a")
    entry.pax_headers = {f"comment{number}": "x" * 300_000 for number in range(3)}
    data = make_tar([(entry, b"x")])
    assert read(data)
    extended = data[: data.index(b"ustar", 600) - 257]
    assert code_of(extended * 2 + data) == "layer-tar-malformed"


def test_damaged_headers() -> None:
    data = bytearray(make_tar([("a", b"x")]))
    data[0] ^= 1
    assert code_of(bytes(data)) == "layer-tar-malformed"
    header = bytearray(make_tar([("a", b"")])[:512])
    header[124:136] = b"77x77777777\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert code_of(bytes(header)) == "layer-tar-malformed"


def test_refused_entries() -> None:
    assert code_of(make_tar([(member("a", b"S"), None)])) == "layer-entry-refused"
    sparse = member("a")
    sparse.pax_headers = {"GNU.sparse.major": "1"}
    assert code_of(make_tar([(sparse, b"x")])) == "layer-entry-refused"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", pax_headers={"path": "evil"}):
        pass
    assert code_of(out.getvalue()) == "layer-entry-refused"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", pax_headers={"comment": "fine"}) as archive:
        archive.addfile(member("a"))
    assert len(read(out.getvalue())) == 1


def test_extended_header_too_large_alone_or_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    info = member("a" * 3000)
    data = make_tar([(info, b"x")])
    assert code_of(data[: 512 + 3072 + 512]) == "layer-tar-malformed"
    bad = member("a")
    bad.pax_headers = {"mtime": "soon"}
    assert code_of(make_tar([(bad, b"")])) == "layer-tar-malformed"
    monkeypatch.setattr(tarstream, "EXTENSION_LIMIT", 100)
    assert code_of(data) == "layer-tar-malformed"


def test_total_is_bounded() -> None:
    with pytest.raises(MalformedError) as caught:
        list(read_entries(pieces(LOWER, 512), limit=2000))
    assert caught.value.code == "layer-too-large"


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=2000), st.integers(0, len(LOWER) - 1), st.integers(0, 255))
@example(b"12 a=b\n", 0, 0)
def test_any_bytes_are_read_or_refused(noise: bytes, position: int, value: int) -> None:
    damaged = bytearray(LOWER)
    damaged[position] = value
    for data in (noise, bytes(damaged), LOWER[:512] + noise):
        try:
            read(data)
        except MalformedError:
            continue


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.binary(min_size=1, max_size=9).filter(lambda k: b"=" not in k), st.binary(max_size=50)),
    st.binary(max_size=60),
)
def test_pax_records(records: dict[bytes, bytes], noise: bytes) -> None:
    data = b""
    for keyword, value in records.items():
        body = b" " + keyword + b"=" + value + b"\n"
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length += 1
        data += str(length).encode() + body
    assert parse_pax(data) == records
    try:
        parse_pax(noise)
    except MalformedError:
        return
