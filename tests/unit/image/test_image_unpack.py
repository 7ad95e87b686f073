"""Unpacking layers over each other, and attacks that try to get out of the directory."""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kokon.errors import HostError, KokonError, MalformedError
from kokon.image.unpack import Limits, Unpacker, split_name
from support.images import make_tar, member

Members = list[tuple[str | tarfile.TarInfo, bytes | None]]


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, None]:
    return member(name, kind, linkname=target), None


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("untouched")
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def unpack(root: Path, *layers: Members, limits: Limits | None = None) -> None:
    with Unpacker(root, limits) as unpacker:
        for layer in layers:
            data = make_tar(layer)
            unpacker.layer(data[start : start + 4096] for start in range(0, len(data), 4096))


def code_of(action: Callable[[], object]) -> str:
    with pytest.raises(KokonError) as caught:
        action()
    return caught.value.code


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def untouched(root: Path) -> None:
    outside = root.parent / "outside"
    assert tree(outside) == {"file"}
    assert (outside / "file").read_text() == "untouched"
    assert {path.name for path in root.parent.iterdir()} == {"outside", "root"}


def test_modes_owners_times_and_kinds(root: Path) -> None:
    unpack(
        root,
        [
            (member(".", tarfile.DIRTYPE, mode=0o711), None),
            (member("dir", tarfile.DIRTYPE, mode=0o1777, mtime=1000, uid=5), None),
            (member("dir/suid", mode=0o4755, uid=7, gid=8, mtime=1234), b"x"),
            (member("pipe", tarfile.FIFOTYPE, mode=0o620), None),
            link("dir/hard", "dir/suid", tarfile.LNKTYPE),
            link("soft", "/dir/suid"),
            ("implied/parents/file", b"y"),
        ],
    )
    assert stat.S_IMODE(root.stat().st_mode) == 0o711
    found = (root / "dir/suid").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime, found.st_nlink) == (0o4755, 1234, 2)
    assert (root / "dir").stat().st_mtime == 1000
    assert stat.S_IMODE((root / "dir").stat().st_mode) == 0o1777
    assert stat.S_ISFIFO((root / "pipe").stat().st_mode)
    assert (root / "soft").readlink() == Path("/dir/suid")
    assert (root / "implied/parents/file").read_bytes() == b"y"
    if os.geteuid() == 0:
        assert (found.st_uid, found.st_gid) == (7, 8)


def test_extended_attributes(root: Path) -> None:
    info = member("file")
    info.pax_headers = {"SCHILY.xattr.user.note": "kept", "SCHILY.xattr.trusted.overlay.opaque": "y"}
    unpack(root, [(info, b"x")])
    try:
        names = os.listxattr(root / "file")
    except OSError:
        pytest.skip("no extended attributes here")
    assert names == ["user.note"]


def test_later_layers_replace_what_is_there(root: Path) -> None:
    unpack(
        root,
        [("a", b"old"), ("b/deep/file", b"x"), ("c", None), ("keep", None), ("keep/file", b"x"), link("d", "keep")],
        [
            ("a", None),
            ("a/new", b"y"),
            ("b", b"now a file"),
            link("c", "a"),
            (member("keep", tarfile.DIRTYPE, mode=0o700), None),
            ("d", None),
        ],
    )
    assert tree(root) == {"a", "a/new", "b", "c", "keep", "keep/file", "d"}
    assert (root / "b").read_bytes() == b"now a file"
    assert not (root / "d").is_symlink()
    assert stat.S_IMODE((root / "keep").stat().st_mode) == 0o700


def test_same_name_twice_in_one_layer(root: Path) -> None:
    unpack(root, [("a", b"1"), ("a", b"2"), link("l", "a"), link("l", "b"), link("h", "a", tarfile.LNKTYPE)])
    assert (root / "a").read_bytes() == b"2"
    assert (root / "l").readlink() == Path("b")
    unpack(root, [("a", b"3"), link("a", "a", tarfile.LNKTYPE)])
    assert (root / "a").read_bytes() == b"3"


def test_whiteouts_hide_lower_layers_only(root: Path) -> None:
    unpack(
        root,
        [("gone", b"x"), ("dir/gone", b"x"), ("dir/sub/gone", b"x"), ("tree/a/b", b"x"), ("lnk", None)],
        [
            ("dir/new", b"y"),
            ("dir/sub/new", b"y"),
            ("dir/.wh..wh..opq", b""),
            (".wh.gone", b""),
            (".wh.tree", b""),
            (".wh.absent", b""),
            ("nowhere/.wh.x", b""),
            (".wh..wh.plnk", b""),
            ("made", b"z"),
            (".wh.made", b""),
        ],
    )
    assert tree(root) == {"dir", "dir/new", "dir/sub", "dir/sub/new", "lnk", "made"}


def test_opaque_directory_is_emptied(root: Path) -> None:
    unpack(root, [("d/a", b"x"), ("d/b/c", b"x")], [("d", None), ("d/.wh..wh..opq", b""), ("d/n", b"")])
    assert tree(root) == {"d", "d/n"}


@pytest.mark.parametrize(
    "name",
    ["../outside/file", "a/../../outside/file", "..", ".wh.", ".wh...", "dir/.wh..", "x/" * 250 + "y", "n" * 5000],
)
def test_unsafe_names(root: Path, name: str) -> None:
    assert code_of(lambda: unpack(root, [(name, b"evil")])) == "layer-entry-unsafe"
    untouched(root)


def test_component_too_long(root: Path) -> None:
    assert code_of(lambda: unpack(root, [("n" * 300, b"evil")])) == "layer-entry-unsafe"


def test_absolute_names_stay_inside(root: Path) -> None:
    unpack(root, [("/etc/passwd", b"inside"), ("./x//y/./z", b"1")])
    assert (root / "etc/passwd").read_bytes() == b"inside"
    assert (root / "x/y/z").exists()


@pytest.mark.parametrize("target", ["{outside}", "../outside", "/../../outside", "../../../../../../{outside}"])
def test_writing_through_links_stays_inside(root: Path, target: str) -> None:
    outside = str(root.parent / "outside")
    unpack(root, [link("way", target.format(outside=outside)), ("way/file", b"evil")])
    untouched(root)
    unpack(root, [link("way2", target.format(outside=outside))], [("way2/file", b"evil"), ("way2/d", None)])
    untouched(root)


def test_whiteouts_through_links_stay_inside(root: Path) -> None:
    outside = str(root.parent / "outside")
    unpack(
        root,
        [link("way", outside)],
        [("way/.wh.file", b"")],
        [("way/.wh..wh..opq", b"")],
    )
    untouched(root)


def test_replacing_a_link_does_not_follow_it(root: Path) -> None:
    outside = str(root.parent / "outside/file")
    unpack(root, [link("file", outside), link("dir", str(root.parent / "outside"))])
    unpack(root, [("file", b"mine"), ("dir", None), ("dir/file", b"mine")])
    assert (root / "file").read_bytes() == b"mine"
    assert not (root / "dir").is_symlink()
    untouched(root)


def test_directory_swapped_for_a_link_in_the_middle(root: Path) -> None:
    outside = str(root.parent / "outside")
    unpack(root, [("d", None), ("d/a", b"1"), link("d", outside), ("d/file", b"evil")])
    untouched(root)


@pytest.mark.parametrize("target", ["absent", "dir", "/", "../outside/file", "up/file", "nowhere/x"])
def test_hard_links_to_what_is_no_file_of_the_image(root: Path, target: str) -> None:
    layer: Members = [("dir", None), link("up", str(root.parent / "outside")), link("h", target, tarfile.LNKTYPE)]
    assert code_of(lambda: unpack(root, layer)) in ("layer-link-missing", "layer-entry-unsafe")
    untouched(root)


def test_depth_is_bounded_through_links_too(root: Path) -> None:
    deep = "d/" * 150
    unpack(root, [(deep + "file", b"x")])
    layers: Members = [link("half", "d/" * 149 + "d"), ("half/" + deep + "file", b"x")]
    assert code_of(lambda: unpack(root, layers)) == "layer-entry-unsafe"


def test_links_in_circles_and_files_as_directories(root: Path) -> None:
    circle: Members = [link("a", "b"), link("b", "a"), ("a/file", b"x")]
    assert code_of(lambda: unpack(root, circle)) == "layer-entry-unsafe"
    assert code_of(lambda: unpack(root, [("f", b"x"), ("f/g", b"x")])) == "layer-entry-unsafe"
    assert code_of(lambda: unpack(root, [link("empty", "")])) == "layer-entry-unsafe"


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_devices(root: Path, kind: bytes) -> None:
    device = member("null", kind, devmajor=1, devminor=3)
    assert code_of(lambda: unpack(root, [(device, None)])) == "layer-entry-refused"


def test_bounds(root: Path) -> None:
    many: Members = [(f"f{number}", b"") for number in range(5)]
    assert code_of(lambda: unpack(root, many, limits=Limits(entries=4))) == "layer-too-large"
    assert code_of(lambda: unpack(root, many, many, limits=Limits(entries=9))) == "layer-too-large"
    large: Members = [("large", bytes(20_000))]
    assert code_of(lambda: unpack(root, large, limits=Limits(total=15_000))) == "layer-too-large"
    assert code_of(lambda: unpack(root, large, large, limits=Limits(total=45_000))) == "layer-too-large"


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "disk-full"), (errno.EDQUOT, "disk-full"), (errno.EIO, "disk-failed")]
)
def test_disk_errors(root: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(HostError) as caught:
        unpack(root, [("f", b"x")])
    assert caught.value.code == code


def test_no_descriptor_is_left_open(root: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    unpack(root, [(f"d{number}/e/f", b"x") for number in range(100)], [(".wh.d1", b"")])
    with pytest.raises(MalformedError):
        unpack(root, [("ok/f", b"x"), ("../x", b"")])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


PARTS = st.sampled_from(["a", "b", "..", ".", "", "way", ".wh.a", ".wh..wh..opq"])
PATHS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
ENTRIES = st.one_of(
    PATHS.map(lambda name: (name, b"evil")),
    PATHS.map(lambda name: (name, None)),
    st.tuples(PATHS, st.sampled_from(["..", "/", "../outside", "a", "/a/b", "{outside}"])).map(
        lambda pair: link(pair[0], pair[1])
    ),
    st.tuples(PATHS, PATHS).map(lambda pair: link(pair[0], pair[1], tarfile.LNKTYPE)),
)


@settings(max_examples=120, deadline=None)
@given(st.lists(st.lists(ENTRIES, max_size=6), max_size=3))
def test_nothing_gets_out(tmp_path_factory: pytest.TempPathFactory, layers: list[Members]) -> None:
    top = tmp_path_factory.mktemp("unpack")
    root, outside = top / "root", top / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "file").write_text("untouched")
    for layer in layers:
        for info, _ in layer:
            if isinstance(info, tarfile.TarInfo):
                info.linkname = info.linkname.replace("{outside}", str(outside))
    try:
        unpack(root, *layers)
    except MalformedError:
        pass
    untouched(root)


@given(st.binary(max_size=300))
def test_names_are_split_or_refused(name: bytes) -> None:
    try:
        parts = split_name(name)
    except MalformedError:
        return
    assert not {b"", b".", b".."} & set(parts)
    assert not any(b"/" in part or b"\0" in part for part in parts)
