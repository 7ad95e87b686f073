"""Unpacking random archives: nothing outside changes, no device appears, and well-behaved ones give the tree that a
simple model gives.

The model keeps whole paths in a dict. As OCI image-spec layer.md says, whiteouts hide what lower layers made.
"""

from __future__ import annotations

import io
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.image.block.flatten import Flattener, Node
from kokon.image.unpack import Unpacker
from support.hostile import END, pax, raw_member

Place = tuple[bytes, ...]
State = tuple[tuple[str, int, int, int, bytes], ...]


@contextmanager
def folder() -> Iterator[Path]:
    """A directory that holds `root` to be unpacked into, and `outside`, which must stay as it is."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        (top / "root").mkdir()
        (top / "outside/dir").mkdir(parents=True)
        (top / "outside/file").write_bytes(b"untouched")
        (top / "outside/pipe").symlink_to("file")
        yield top


def state(top: Path) -> State:
    """Everything below `top` but for what is in `root`: names, modes, owners, times, contents."""
    found = []
    for path in sorted([*top.iterdir(), *(top / "outside").rglob("*")]):
        if path.name != "root":
            status = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
            found.append((str(path), status.st_mode, status.st_uid, status.st_nlink, content))
    return tuple(found)


def descriptors() -> int:
    """How many are open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def unpack(root: Path, layers: list[bytes]) -> None:
    with Unpacker(root) as unpacker:
        for layer in layers:
            unpacker.layer([layer])


PARTS = st.sampled_from(
    [
        b"a",
        b"b",
        b"way",
        b"..",
        b".",
        b"",
        b".wh.a",
        b".wh.way",
        b".wh..wh..opq",
        b".wh..",
        b".wh...",
        b"outside",
        b"file",
    ]
)
NAMES = st.lists(PARTS, min_size=1, max_size=4).map(b"/".join)
TARGETS = st.one_of(
    NAMES,
    st.sampled_from(
        [b"OUTSIDE", b"OUTSIDE/file", b"..", b"../outside", b"../outside/file", b"/", b"/proc/self/root", b""]
    ),
)
KINDS = st.sampled_from(
    [b"0", b"0", b"0", b"1", b"1", b"2", b"2", b"2", b"3", b"4", b"5", b"5", b"6", b"7", b"\0", b"S"]
)
RECORDS = st.lists(
    st.one_of(
        st.tuples(st.just(b"path"), NAMES),
        st.tuples(st.just(b"linkpath"), TARGETS),
        st.tuples(
            st.sampled_from([b"uid", b"gid", b"mtime", b"size"]), st.sampled_from([b"0", b"7", b"-1", b"9" * 18])
        ),
        st.tuples(
            st.sampled_from([b"SCHILY.xattr.user.a", b"SCHILY.xattr.security.capability"]), st.binary(max_size=24)
        ),
    ),
    max_size=2,
)


@st.composite
def hostile_members(draw: st.DrawFn) -> bytes:
    """One member with what may stand in front of it."""
    kind = draw(KINDS)
    content = draw(st.sampled_from([b"", b"evil"])) if kind in b"07\0" else b""
    mode = draw(st.sampled_from([b"644", b"755", b"4777", b"0", b"1777"]))
    records = draw(RECORDS)
    front = pax(*records) if records else b""
    return front + raw_member(draw(NAMES), content, kind, link=draw(TARGETS), mode=mode)


WAYS = st.sampled_from([b"way", b"way/file", b"way/dir", b"way/new", b"way/.wh.file", b"way/.wh..wh..opq", b"file"])
SIMPLE = st.builds(
    lambda name, kind, link: raw_member(name, b"evil" if kind == b"0" else b"", kind, link=link),
    WAYS,
    st.sampled_from([b"0", b"1", b"2", b"2", b"5"]),
    st.sampled_from([b"OUTSIDE", b"OUTSIDE", b"../outside", b"OUTSIDE/file", b"way/file", b"way"]),
)
"""Such as are seldom refused, so that what they do together is seen."""
WAY = raw_member(b"way", b"", b"2", link=b"OUTSIDE") + raw_member(b"outside", b"", b"2", link=b"../outside")
"""What all of them find: links that lead out."""
MEMBERS = st.one_of(SIMPLE, SIMPLE, hostile_members())


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(MEMBERS, max_size=5), min_size=1, max_size=3), st.data())
def test_nothing_outside_changes_and_no_device_appears(layers: list[list[bytes]], data: st.DataObject) -> None:
    with folder() as top:
        before, open_before = state(top), descriptors()
        outside = os.fsencode(top / "outside")
        archives = [WAY + END, *(b"".join(members) + END for members in layers)]
        # The folder's name is known only now: header and checksum are made anew for it.
        archives = [_placed(archive, outside) for archive in archives]
        if data.draw(st.booleans(), label="damaged"):
            at = data.draw(st.integers(0, len(archives[1]) - 1))
            archives[1] = archives[1][:at] + data.draw(st.binary(min_size=1, max_size=3)) + archives[1][at + 1 :]
        try:
            unpack(top / "root", archives)
        except MalformedError:
            pass
        assert state(top) == before
        assert descriptors() == open_before
        for path in (top / "root").rglob("*"):
            mode = path.lstat().st_mode
            assert not stat.S_ISBLK(mode)
            assert not stat.S_ISCHR(mode)


def _placed(archive: bytes, outside: bytes) -> bytes:
    blocks = [archive[start : start + 512] for start in range(0, len(archive), 512)]
    for number, block in enumerate(blocks):
        link = block[157:257]
        if block[257:262] == b"ustar" and link.startswith(b"OUTSIDE"):
            link = link.rstrip(b"\0").replace(b"OUTSIDE", outside).ljust(100, b"\0")
            raw = block[:148] + b" " * 8 + block[156:157] + link + block[257:]
            blocks[number] = raw[:148] + b"%06o\0 " % sum(raw) + raw[156:]
    return b"".join(blocks)


def test_the_property_reaches_the_outside_by_name() -> None:
    """Else it could not fail: links really hold the folder's name, and unpacking really gets to write behind them."""
    with folder() as top:
        outside = os.fsencode(top / "outside")
        archive = _placed(raw_member(b"way", b"", b"2", link=b"OUTSIDE") + raw_member(b"way/x", b"evil") + END, outside)
        unpack(top / "root", [archive])
        assert os.fsencode((top / "root/way").readlink()) == outside
        assert (top / "root" / os.fsdecode(outside[1:]) / "x").read_bytes() == b"evil"


class RefusedError(Exception):
    """The model cannot do it."""


@dataclass
class Model:
    """A tree as a dict of paths: a file's content, None for a directory, a link's target behind "->"."""

    places: dict[Place, bytes | None]

    def parents(self, place: Place, *, make: bool) -> bool:
        """Whether all directories above are there, made if need be."""
        for end in range(1, len(place)):
            if place[:end] not in self.places:
                if not make:
                    return False
                self.places[place[:end]] = None
            if self.places[place[:end]] is not None:
                raise RefusedError
        return True

    def remove(self, place: Place, *, itself: bool = True) -> None:
        inside = [found for found in self.places if found[: len(place)] == place]
        for found in inside:
            if itself or found != place:
                del self.places[found]

    def put(self, place: Place, content: bytes | None) -> None:
        self.parents(place, make=True)
        if content is None and self.places.get(place, b"") is None:
            return
        self.remove(place)
        self.places[place] = content

    def hide(self, place: Place) -> None:
        if self.parents(place, make=False):
            self.remove(place)

    def empty(self, place: Place) -> None:
        if self.parents((*place, b""), make=False):
            self.remove(place, itself=False)

    def link(self, place: Place, target: Place) -> None:
        self.parents(place, make=True)
        if not self.parents(target, make=False) or self.places.get(target) is None:
            raise RefusedError
        content = self.places[target]
        if place != target:
            if target[: len(place)] == place:
                raise RefusedError
            self.remove(place)
            self.places[place] = content


@dataclass(frozen=True)
class Step:
    """What one member asks for."""

    kind: str
    place: Place
    other: Place = ()
    content: bytes = b""

    @property
    def is_whiteout(self) -> bool:
        return self.kind in ("hide", "empty")

    def member(self) -> bytes:
        name = b"/".join(self.place)
        if self.kind == "hide":
            return raw_member(b"/".join((*self.place[:-1], b".wh." + self.place[-1])))
        if self.kind == "empty":
            return raw_member(b"/".join((*self.place, b".wh..wh..opq")))
        if self.kind == "link":
            return raw_member(name, b"", b"1", link=b"/".join(self.other))
        if self.kind == "soft":
            return raw_member(name, b"", b"2", link=self.content)
        return raw_member(name, self.content, b"0" if self.kind == "file" else b"5")

    def model(self, model: Model) -> None:
        if self.kind == "hide":
            model.hide(self.place)
        elif self.kind == "empty":
            model.empty(self.place)
        elif self.kind == "link":
            model.link(self.place, self.other)
        else:
            content = {"file": self.content, "soft": b"->" + self.content}.get(self.kind)
            model.put(self.place, content)


PLACES = st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=3).map(tuple)
CONTENTS = st.sampled_from([b"one", b"two", b"three"])
STEPS = st.one_of(
    st.builds(lambda place, content: Step("file", place, (), content), PLACES, CONTENTS),
    st.builds(Step, st.just("dir"), PLACES),
    st.builds(lambda place, target: Step("soft", (*place, b"soft"), (), target), PLACES, CONTENTS),
    st.builds(Step, st.just("link"), PLACES, PLACES),
    st.builds(Step, st.sampled_from(["hide", "empty"]), PLACES),
)
LAYERS = st.lists(st.lists(STEPS, max_size=7), min_size=1, max_size=3)


def archive_of(steps: list[Step]) -> bytes:
    return b"".join(step.member() for step in steps) + END


def whiteouts_first(layer: list[Step]) -> list[Step]:
    """They are about what lies below, wherever they stand."""
    return sorted(layer, key=lambda step: not step.is_whiteout)


def expected(layers: list[list[Step]]) -> dict[Place, bytes | None] | None:
    """The final tree; None if it cannot be."""
    model = Model({})
    try:
        for layer in layers:
            for step in whiteouts_first(layer):
                step.model(model)
    except RefusedError:
        return None
    return model.places


def possible(layers: list[list[Step]]) -> list[list[Step]]:
    """The layers without the steps that the model refuses."""
    model, refused = Model({}), set()
    for layer in layers:
        for step in whiteouts_first(layer):
            before = dict(model.places)
            try:
                step.model(model)
            except RefusedError:
                model.places = before
                refused.add(id(step))
    return [[step for step in layer if id(step) not in refused] for layer in layers]


def unpacked(layers: list[bytes]) -> dict[Place, bytes | None] | None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        try:
            unpack(root, layers)
        except MalformedError:
            return None
        return {tuple(os.fsencode(path.relative_to(root)).split(b"/")): _content(path) for path in root.rglob("*")}


def _content(path: Path) -> bytes | None:
    if path.is_symlink():
        return b"->" + os.fsencode(path.readlink())
    if path.is_fifo():
        return b"|"
    return None if path.is_dir() else path.read_bytes()


@settings(max_examples=60, deadline=None)
@given(LAYERS)
def test_the_tree_is_that_of_the_model(layers: list[list[Step]]) -> None:
    assert unpacked([archive_of(whiteouts_first(layer)) for layer in layers]) == expected(layers)
    good = possible(layers)
    tree = expected(good)
    assert tree is not None
    assert unpacked([archive_of(whiteouts_first(layer)) for layer in good]) == tree


@settings(max_examples=60, deadline=None)
@given(LAYERS)
def test_where_whiteouts_stand_in_a_layer_makes_no_difference(layers: list[list[Step]]) -> None:
    """Or the layer is refused: what is a file in a lower layer has nothing below it until its whiteout is read."""
    good = possible(layers)
    found = unpacked([archive_of(layer) for layer in good])
    if found is not None:
        assert found == expected(good)


def flattened(layers: list[bytes]) -> dict[Place, bytes | None] | None:
    """The tree that a block image gets."""
    spool = io.BytesIO()
    flattener = Flattener(spool)
    try:
        for layer in layers:
            flattener.layer([layer])
    except MalformedError:
        return None
    found: dict[Place, bytes | None] = {}
    todo: list[tuple[Place, Node]] = [((), flattener.root)]
    while todo:
        place, node = todo.pop()
        content = spool.getvalue()[node.offset : node.offset + node.size]
        found[place] = {"file": content, "symlink": b"->" + node.target, "fifo": b"|"}.get(node.kind)
        todo.extend(((*place, name), child) for name, child in node.children.items())
    del found[()]
    return found


@settings(max_examples=200, deadline=None)
@given(LAYERS)
def test_a_block_image_has_the_same_tree(layers: list[list[Step]]) -> None:
    good = possible(layers)
    assert flattened([archive_of(whiteouts_first(layer)) for layer in good]) == expected(good)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(MEMBERS, max_size=5), min_size=1, max_size=3))
def test_a_block_image_is_refused_where_unpacking_is(layers: list[list[bytes]]) -> None:
    """What the author published as blocks could not be checked by unpacking otherwise, or the reverse."""
    archives = [b"".join(members) + END for members in layers]
    assert flattened(archives) == unpacked(archives)


@pytest.mark.parametrize(
    ("steps", "tree"),
    [
        ([[Step("file", (b"a", b"b"), (), b"one")], [Step("hide", (b"a",))]], {}),
        ([[Step("file", (b"a", b"b"), (), b"one")], [Step("empty", (b"a",))]], {(b"a",): None}),
        ([[Step("file", (b"a",), (), b"one")], [Step("file", (b"a", b"b"))]], None),
    ],
)
def test_the_model_itself(steps: list[list[Step]], tree: dict[Place, bytes | None] | None) -> None:
    assert expected(steps) == tree
