"""Layers that try to get out, to hide things, to fill the disk, or to break the one who unpacks them.

More of the same is in test_image_unpack.py; what the archive's bytes alone can do is in test_image_hostile_tar.py.
"""

from __future__ import annotations

import errno
import gzip
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kokon.errors import KokonError
from kokon.image.layer import gunzip_chunks
from kokon.image.unpack import Limits, Unpacker
from support.hostile import END, pax, raw_member
from support.images import make_tar, member

Members = list[tuple[str | tarfile.TarInfo, bytes | None]]


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, None]:
    return member(name, kind, linkname=target), None


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def unpack(root: Path, *layers: bytes | Members, limits: Limits | None = None) -> None:
    with Unpacker(root, limits) as unpacker:
        for layer in layers:
            unpacker.layer([layer if isinstance(layer, bytes) else make_tar(layer)])


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(KokonError) as caught:
        action()
    return caught.value.code


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.mark.parametrize(
    ("name", "value"),
    [(b"user.a\0b", b"x"), (b"user." + b"n" * 300, b"x"), (b"user.big", b"x" * 200_000), (b"user.", b"x")],
)
def test_extended_attributes_that_no_system_takes(root: Path, name: bytes, value: bytes) -> None:
    layer = pax((b"SCHILY.xattr." + name, value)) + raw_member(b"a", b"x") + END
    assert code_of(lambda: unpack(root, layer)) == "layer-entry-unsafe"


RIGHTS = b"\0\4\0\0" + bytes(12)


@pytest.mark.parametrize(
    ("value", "good"),
    [
        (b"\1\0\0\2" + RIGHTS, True),
        (b"\1\0\0\3" + RIGHTS + b"\1\0\0\0", True),
        (b"\1\0\0\3" + RIGHTS + b"\xff" * 4, False),
        (b"\1\0\0\3" + RIGHTS, False),
        (b"\1\0\0\2" + RIGHTS + bytes(4), False),
        (b"\1\0\0\1" + RIGHTS[:8], False),
        (b"\xff" * 20, False),
    ],
)
def test_capabilities_are_judged_as_the_system_does(root: Path, value: bytes, good: bool) -> None:
    layer = pax((b"SCHILY.xattr.security.capability", value)) + raw_member(b"a", b"x") + END
    if good:
        unpack(root, layer)
    else:
        assert code_of(lambda: unpack(root, layer)) == "layer-entry-unsafe"
    (root / "b").touch()
    assert system_takes(root / "b", value) in (good, None)


def system_takes(path: Path, value: bytes) -> bool | None:
    """None if this process may set no capabilities, or the file system has none."""
    try:
        os.setxattr(path, "security.capability", value)
    except OSError as error:
        return None if error.errno in (errno.EPERM, errno.EOPNOTSUPP) else False
    return True


@pytest.mark.parametrize(
    "name",
    [
        b"trusted.overlay.opaque",
        b"user.overlay.opaque",
        b"security.selinux",
        b"system.posix_acl_access",
        b"security.ima",
    ],
)
def test_attributes_that_mean_something_to_the_system_are_left_out(root: Path, name: bytes) -> None:
    """Some would hide files of lower layers from the container, though they are there for who examines the image."""
    layer = pax((b"SCHILY.xattr." + name, b"y"), (b"SCHILY.xattr.user.note", b"z")) + raw_member(b"a", b"x") + END
    unpack(root, layer)
    assert set(os.listxattr(root / "a")) <= {"user.note"}


@pytest.mark.parametrize("kind", [b"0", b"1", b"2", b"6"])
@pytest.mark.parametrize("name", [b"", b".", b"/", b"./"])
def test_the_root_is_a_directory(root: Path, name: bytes, kind: bytes) -> None:
    layer = raw_member(name, b"", kind, link=b"elsewhere") + END
    assert code_of(lambda: unpack(root, layer)) == "layer-entry-unsafe"
    assert not root.is_symlink()


@pytest.mark.parametrize("name", [".wh.a/b", "d/.wh.x/y/z", ".wh..wh.plnk/1.2", ".wh..wh..opq/x"])
def test_nothing_is_put_below_a_whiteout(root: Path, name: str) -> None:
    """Such a directory could not be named in a layer of its own: no tool makes it."""
    assert code_of(lambda: unpack(root, [("a", b"x")], [(name, b"evil")])) == "layer-entry-unsafe"
    assert tree(root) == {"a"}


@pytest.mark.parametrize("name", [".wh..", ".wh...", ".wh.", "d/.wh..", "./.wh..", "/.wh.."])
def test_whiteouts_of_the_root_and_of_what_is_above(root: Path, name: str) -> None:
    assert code_of(lambda: unpack(root, [("d/a", b"x")], [(name, b"")])) == "layer-entry-unsafe"
    assert tree(root) == {"d", "d/a"}


def test_an_opaque_root_hides_all_lower_layers_and_nothing_of_its_own(root: Path) -> None:
    unpack(root, [("a", b"x"), ("d/b", b"x"), link("l", "/")], [("new", b"y"), (".wh..wh..opq", b""), ("d/c", b"y")])
    assert tree(root) == {"new", "d", "d/c"}


@pytest.mark.parametrize("first", ["whiteout", "file"])
def test_whiteout_and_file_of_one_name_in_one_layer(root: Path, first: str) -> None:
    """The whiteout is for what lies below, wherever it stands in the layer."""
    both: Members = [(".wh.a", b""), ("a", b"new")]
    unpack(root, [("a/b", b"old"), ("a/c", b"old")], both if first == "whiteout" else both[::-1])
    assert (root / "a").read_bytes() == b"new"


def test_whiteout_of_a_directory_that_the_layer_goes_on_to_fill(root: Path) -> None:
    unpack(root, [("d/old", b"x"), ("d/e/old", b"x")], [("d/e/new", b"y"), (".wh.d", b""), ("d/late", b"z")])
    assert tree(root) == {"d", "d/e", "d/e/new", "d/late"}


def test_whiteouts_through_links_hide_what_is_meant_inside(root: Path) -> None:
    lower: Members = [("etc/passwd", b"x"), ("etc/d/x", b"x"), link("way", "/etc"), link("up", "../../etc/d")]
    unpack(root, lower, [("way/.wh.passwd", b""), ("up/.wh..wh..opq", b"")])
    assert tree(root) == {"etc", "etc/d", "way", "up"}


def test_a_whiteout_removes_a_link_and_not_its_target(root: Path) -> None:
    unpack(root, [("d/f", b"x"), link("l", "d")], [(".wh.l", b"")])
    assert tree(root) == {"d", "d/f"}


def test_whiteouts_below_a_file_and_below_nothing(root: Path) -> None:
    assert code_of(lambda: unpack(root, [("f", b"x")], [("f/.wh.x", b"")])) == "layer-entry-unsafe"
    unpack(root, [("g", b"x")], [("nothing/.wh.x", b""), ("nothing/.wh..wh..opq", b"")])
    assert "nothing" not in tree(root)


def test_a_dangling_link_is_followed_inside_only(root: Path) -> None:
    unpack(root, [link("d", str(root.parent / "made")), ("d/file", b"evil")])
    assert not (root.parent / "made").exists()
    assert {path.name for path in root.parent.iterdir()} == {"root"}


def test_a_hard_link_that_replaces_the_directory_of_its_target(root: Path) -> None:
    layer: Members = [("d/f", b"x"), link("d", "d/f", tarfile.LNKTYPE)]
    assert code_of(lambda: unpack(root, layer)) == "layer-entry-unsafe"


def test_a_hard_link_to_a_link_does_not_lead_out(root: Path) -> None:
    outside = root.parent / "secret"
    outside.write_text("untouched")
    outside.chmod(0o600)
    layer: Members = [link("l", str(outside)), link("h", "l", tarfile.LNKTYPE), (member("h", mode=0o4777), b"mine")]
    unpack(root, layer)
    assert outside.read_text() == "untouched"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o600
    assert (root / "h").read_bytes() == b"mine"


def test_writing_through_a_hard_link_of_a_lower_layer_changes_one_name_only(root: Path) -> None:
    """As on an overlay: a file is replaced, never written into, so its other names keep what they had."""
    unpack(root, [("a", b"old"), link("b", "a", tarfile.LNKTYPE)], [("a", b"new")])
    assert (root / "b").read_bytes() == b"old"


def test_a_pipe_is_never_opened(root: Path) -> None:
    """Opening one to write would wait for ever."""
    pipe = member("p", tarfile.FIFOTYPE), None
    unpack(root, [pipe], [("p", b"now a file")], [pipe], [pipe, (".wh.p", b"")])
    assert stat.S_ISFIFO((root / "p").stat().st_mode)
    assert code_of(lambda: unpack(root, [pipe, ("p/x", b"")])) == "layer-entry-unsafe"


def test_directories_that_are_only_implied_count_too(root: Path) -> None:
    deep = "/".join("d" * 1 for _ in range(150))
    layer: Members = [(f"{number}/{deep}/f", b"") for number in range(5)]
    assert code_of(lambda: unpack(root, layer, limits=Limits(entries=500))) == "layer-too-large"


def test_links_that_take_for_ever_to_follow(root: Path) -> None:
    """40 links of 2,000 steps each would be 80,000 look-ups, for each of half a million entries."""
    layer: Members = [("a", None), *(link(f"a/{n}", "../a/" * 800 + str(n + 1)) for n in range(30)), ("a/30", None)]
    assert code_of(lambda: unpack(root, [*layer, ("a/0/file", b"x")])) == "layer-entry-unsafe"


def test_a_bomb_is_refused_by_its_ratio(root: Path) -> None:
    """Zeros: 1,000 to 1. A little of that is normal; much of it is a bomb."""
    packed = gzip.compress(make_tar([("zeros", bytes(3 << 20))]))
    limits = Limits(free=1 << 20, ratio=100)
    with Unpacker(root, limits) as unpacker:
        assert code_of(lambda: unpacker.layer(gunzip_chunks([packed]), len(packed))) == "layer-too-large"
    assert (root / "zeros").stat().st_size < 2 << 20
    with Unpacker(root, Limits(free=4 << 20, ratio=100)) as unpacker:
        unpacker.layer(gunzip_chunks([packed]), len(packed))
    assert (root / "zeros").stat().st_size == 3 << 20


def test_many_small_bombs_count_together(root: Path) -> None:
    packed = gzip.compress(make_tar([("zeros", bytes(1 << 20))]))
    with Unpacker(root, Limits(free=5 << 19, ratio=100)) as unpacker:
        for _ in range(2):
            unpacker.layer(gunzip_chunks([packed]), len(packed))
        assert code_of(lambda: unpacker.layer(gunzip_chunks([packed]), len(packed))) == "layer-too-large"


def test_what_follows_the_end_of_an_archive_counts(root: Path) -> None:
    layer = raw_member(b"a", b"x") + END + bytes(3 << 20)
    assert code_of(lambda: unpack(root, layer, limits=Limits(total=1 << 20))) == "layer-too-large"
