"""Archives that no archiver writes: sizes that disagree, numbers out of range, headers that contradict each other.

Two readers that understand one archive differently let an author show a certifier another image than the one that
runs, so what is ambiguous is refused rather than resolved.
"""

from __future__ import annotations

import pytest

from kokon.errors import MalformedError
from kokon.image.tarstream import Entry, read_entries
from support.hostile import BLOCK, END, header, pax, raw_member


def read(data: bytes) -> list[tuple[Entry, bytes]]:
    return [(entry, b"".join(content)) for entry, content in read_entries([data])]


def code_of(data: bytes) -> str:
    with pytest.raises(MalformedError) as caught:
        read(data)
    return caught.value.code


def test_the_builder_makes_what_is_read() -> None:
    data = pax((b"path", b"long"), (b"comment", b"x")) + raw_member(b"a", b"content") + END
    assert [(entry.name, content) for entry, content in read(data)] == [(b"long", b"content")]


@pytest.mark.parametrize(
    "size",
    [
        b"\xff" * 12,
        b"\xff" + bytes(11),
        b"\x80" + b"\xff" * 11,
        b"\x80" + (1 << 60).to_bytes(11, "big"),
        b"\x81" + bytes(11),
        b"-0000000001\0",
        b"+0000000001\0",
        b"00000000008\0",
        b"0x000000001\0",
        b"1\x0000000000\0\0",
        "٣".encode().rjust(12, b"0"),
    ],
)
@pytest.mark.parametrize("kind", [b"0", b"x", b"L"])
def test_sizes_that_are_negative_huge_or_no_numbers(size: bytes, kind: bytes) -> None:
    assert code_of(header(b"a", kind, size=size) + bytes(2 * BLOCK)) == "layer-tar-malformed"


@pytest.mark.parametrize("size", [b"-1", b"1e3", b"5.7", b"5.", b" 5", b"0x5", b"9" * 30, b"1_0", b""])
def test_sizes_of_extended_headers(size: bytes) -> None:
    """An empty value would take the record back (POSIX): then the header's own size counts."""
    data = pax((b"size", size)) + raw_member(b"a", b"12345") + END
    if size:
        assert code_of(data) == "layer-tar-malformed"
    else:
        assert read(data)[0][1] == b"12345"


def test_the_extended_size_is_the_one_that_counts() -> None:
    """A reader that believes the header's 0 would take the content for further members."""
    inner = raw_member(b"smuggled", b"evil") + END
    data = pax((b"size", b"%d" % len(inner))) + raw_member(b"outer", inner, size=b"0") + END
    assert [entry.name for entry, _ in read(data)] == [b"outer"]


@pytest.mark.parametrize("kind", [b"1", b"2"])
def test_links_have_no_content(kind: bytes) -> None:
    """POSIX ustar: the size of a link shall be zero. Readers disagree on whether content follows otherwise."""
    data = raw_member(b"a", raw_member(b"smuggled"), kind, link=b"b") + END
    assert code_of(data) == "layer-tar-malformed"
    assert code_of(pax((b"size", b"512")) + raw_member(b"a", b"", kind, link=b"b") + END) == "layer-tar-malformed"


def test_a_directory_may_have_a_size_without_content() -> None:
    """POSIX ustar: it may say how much space the directory may take."""
    data = raw_member(b"d", b"", b"5", size=b"1000") + raw_member(b"a", b"x") + END
    assert [(entry.name, entry.size) for entry, _ in read(data)] == [(b"d", 0), (b"a", 1)]


@pytest.mark.parametrize("keyword", [b"path", b"size", b"SCHILY.xattr.user.a", b"comment"])
def test_a_keyword_twice(keyword: bytes) -> None:
    twice = pax((keyword, b"1"), (keyword, b"2"))
    assert code_of(twice + raw_member(b"a", b"1") + END) == "layer-tar-malformed"
    apart = pax((keyword, b"1")) + pax((keyword, b"1"))
    assert code_of(apart + raw_member(b"a", b"1") + END) == "layer-tar-malformed"


def test_long_names_that_contradict_each_other() -> None:
    long = raw_member(b"././@LongLink", b"one\0", b"L")
    other = raw_member(b"././@LongLink", b"two\0", b"L")
    assert read(long + raw_member(b"a") + END)[0][0].name == b"one"
    assert code_of(long + other + raw_member(b"a") + END) == "layer-tar-malformed"
    assert code_of(long + pax((b"path", b"two")) + raw_member(b"a") + END) == "layer-tar-malformed"
    assert code_of(pax((b"path", b"two")) + long + raw_member(b"a") + END) == "layer-tar-malformed"


@pytest.mark.parametrize(
    "keyword",
    [b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"SCHILY.xattr.security.capability", b"GNU.sparse.name"],
)
def test_global_headers_that_change_members(keyword: bytes) -> None:
    data = pax((keyword, b"7"), kind=b"g") + raw_member(b"a", b"1") + END
    assert code_of(data) == "layer-entry-refused"


def test_a_global_header_that_only_comments() -> None:
    data = pax((b"comment", b"0123456789abcdef"), kind=b"g") + raw_member(b"a", b"1") + END
    assert len(read(data)) == 1


@pytest.mark.parametrize("kind", [b"S", b"D", b"M", b"N", b"V", b"A", b"\xff", b"8"])
def test_sparse_and_unknown_members(kind: bytes) -> None:
    assert code_of(raw_member(b"a", b"", kind) + END) == "layer-entry-refused"


@pytest.mark.parametrize(
    "keyword", [b"GNU.sparse.major", b"GNU.sparse.map", b"GNU.sparse.realsize", b"SCHILY.realsize"]
)
def test_sparse_files_of_extended_headers(keyword: bytes) -> None:
    assert code_of(pax((keyword, b"1")) + raw_member(b"a", b"1") + END) == "layer-entry-refused"


@pytest.mark.parametrize(
    "records",
    [b"8 path=a\n", b"99999999999 a=b\n", b"6 a=bc\n", b"0 a=b\n", b"-6 a=b\n", b"6 a=b\n junk", b"\0" * 8, b"5 =b\n"],
)
def test_damaged_records(records: bytes) -> None:
    assert code_of(raw_member(b"p", records, b"x") + raw_member(b"a") + END) == "layer-tar-malformed"


def test_members_behind_a_single_block_of_zeros() -> None:
    """Some readers stop at one block of zeros, others want two: what stands behind would be there for some only."""
    hidden = raw_member(b"seen") + bytes(BLOCK) + raw_member(b"hidden") + END
    assert code_of(hidden) == "layer-tar-malformed"
    assert len(read(raw_member(b"seen") + bytes(BLOCK))) == 1
    assert len(read(raw_member(b"seen") + END + raw_member(b"behind the end"))) == 1


def test_extended_headers_in_front_of_nothing() -> None:
    assert code_of(pax((b"path", b"x")) + END) == "layer-tar-malformed"
    assert code_of(raw_member(b"././@LongLink", b"x\0", b"L")) == "layer-tar-malformed"


def test_global_headers_without_end() -> None:
    large = pax((b"comment", b"x" * 300_000), kind=b"g")
    assert code_of(large * 5 + raw_member(b"a") + END) == "layer-tar-malformed"
