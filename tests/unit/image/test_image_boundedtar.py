"""Archives of images that would fill the memory of whoever opens them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from kokon.errors import MalformedError
from kokon.image import boundedtar
from kokon.image.boundedtar import open_tar
from support.hostile import END, header, raw_member
from support.images import make_tar

GOOD = make_tar([("a", b"content"), ("d", None), ("d/b", b"x" * 5000), ("n" * 200, b"long")])


def names(path: Path) -> list[str]:
    with open_tar(path) as (_, members):
        return [member.name for member in members]


def code_of(path: Path) -> str:
    with pytest.raises(MalformedError) as caught:
        names(path)
    return caught.value.code


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_plain_and_packed(tmp_path: Path, pack: object) -> None:
    path = written(tmp_path / "a", pack(GOOD))  # type: ignore[operator]
    with open_tar(path) as (archive, members):
        assert [member.name for member in members] == ["a", "d", "d/b", "n" * 200]
        file = archive.extractfile(members[2])
        assert file is not None
        assert file.read() == b"x" * 5000
        file = archive.extractfile(members[0])
        assert file is not None
        assert file.read(1 << 20) == b"content"


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_a_header_of_a_hundred_megabytes(tmp_path: Path, kind: bytes) -> None:
    """The standard library reads it whole; packed, these are 100 KB."""
    bomb = header(b"p", kind, size=b"%o" % (100 << 20)) + bytes(100 << 20) + raw_member(b"a") + END
    path = written(tmp_path / "a.gz", gzip.compress(bomb, 1))
    del bomb
    tracemalloc.start()
    assert code_of(path) == "image-malformed"
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundedtar, "FREE", 1 << 20)
    bomb = raw_member(b"zeros", bytes(30 << 20)) + raw_member(b"a") + END
    assert code_of(written(tmp_path / "a.gz", gzip.compress(bomb))) == "image-malformed"
    assert names(written(tmp_path / "a", bomb)) == ["zeros", "a"]


def test_members_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundedtar, "MEMBERS_LIMIT", 3)
    assert code_of(written(tmp_path / "a", GOOD)) == "image-malformed"
    monkeypatch.setattr(boundedtar, "MEMBERS_LIMIT", 4)
    assert len(names(tmp_path / "a")) == 4


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"noise" * 500,
        GOOD[:700],
        gzip.compress(GOOD)[:60] + bytes(99),
        b"\xfd7zXZ\0" + bytes(40),
        header(b"a", b"0", size=b"\xff" * 12) + END,
        header(b"a", b"0", size=b"\x80" + b"\xff" * 11) + END,
        raw_member(b"a", b"x", b"S") + END,
        b"BZh91AY&SY" + bytes(99),
    ],
)
def test_damage(tmp_path: Path, data: bytes) -> None:
    path = written(tmp_path / "a", data)
    with pytest.raises((tarfile.TarError, MalformedError)):
        names(path)


def test_errors_of_the_caller_stay_what_they_are(tmp_path: Path) -> None:
    path = written(tmp_path / "a", GOOD)
    with pytest.raises(ValueError, match="mine"), open_tar(path):
        raise ValueError("mine")


def test_a_missing_file_is_the_callers(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        names(tmp_path / "none")
    assert tarfile.is_tarfile(written(tmp_path / "a", GOOD))
