"""Tiles: paths and shapes as C2SP tlog-tiles has them, and proofs made from tiles alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_kit import leaf, naive_root, perhaps_refused, refused

from kokon.provisioning.ledger.merkle import (
    SIZE_LIMIT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    verify_consistency,
    verify_inclusion,
)
from kokon.provisioning.ledger.tiles import (
    Tile,
    hashes_between,
    make_bundle,
    make_tile,
    parse_bundle,
    parse_tile,
    parse_tile_path,
    tiles_of,
)

PATHS = [
    (Tile(0, 0), "tile/0/000"),
    (Tile(0, 1234067), "tile/0/x001/x234/067"),
    (Tile(1, 999, 17), "tile/1/999.p/17"),
    (Tile(0, 1000), "tile/0/x001/000"),
    (Tile(63, 5, 255), "tile/63/005.p/255"),
    (Tile(None, 273, 112), "tile/entries/273.p/112"),
    (Tile(None, 70000), "tile/entries/x070/000"),
    (Tile(2, 0, 1), "tile/2/000.p/1"),
]


@pytest.mark.parametrize(("tile", "path"), PATHS)
def test_paths(tile: Tile, path: str) -> None:
    assert tile.path == path
    assert parse_tile_path(path) == tile


@given(st.none() | st.integers(0, 63), st.integers(0, SIZE_LIMIT), st.integers(1, 256))
def test_every_tile_has_a_path(level: int | None, index: int, width: int) -> None:
    tile = Tile(level, index, width)
    assert parse_tile_path(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0/0",
        "tile/0/0000",
        "tile/0/x000/001",
        "tile/0/001/x002",
        "tile/0/001/002",
        "tile/0/x001",
        "tile/00/001",
        "tile/64/001",
        "tile/-1/001",
        "tile/x/001",
        "tile/0/001.p/0",
        "tile/0/001.p/01",
        "tile/0/001.p/256",
        "tile/0/001.p/1000",
        "tile/0/001.p/",
        "tile/0/001.p",
        "tile/0/001/",
        "tile/0/001\n",
        "/tile/0/001",
        "tile/0/../0/001",
        "tile/0/\u0660\u0661\u0662",
        "tile/data/001",
        "tile/0/" + "x999/" * 5 + "999",
        "tile/0/" + "x001/" * 6 + "001",
    ],
)
def test_paths_of_no_tile(path: str) -> None:
    with refused("tile-malformed"):
        parse_tile_path(path)


@given(st.text("tile/0123x.pentris", max_size=40))
def test_any_text_is_the_path_of_its_tile_or_refused(path: str) -> None:
    with perhaps_refused("tile-malformed"):
        assert parse_tile_path(path).path == path


@pytest.mark.parametrize("values", [(-1, 0, 1), (64, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, 257), (0, SIZE_LIMIT + 1, 1)])
def test_tiles_that_cannot_be(values: tuple[int, int, int]) -> None:
    with refused("tile-malformed"):
        Tile(*values)


def test_the_example_of_the_specification() -> None:
    """A tree of 70,000: 273 full tiles and one of 112, above them a full one and one of 17, then one of 1."""
    tiles = list(tiles_of(70000))
    assert [tile for tile in tiles if tile.level == 0] == [*(Tile(0, index) for index in range(273)), Tile(0, 273, 112)]
    assert [tile for tile in tiles if tile.level] == [Tile(1, 0), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert list(tiles_of(256)) == [Tile(0, 0), Tile(1, 0, 1)]
    assert list(tiles_of(0)) == []


@given(st.integers(0, 200_000), st.none() | st.integers(0, 3), st.integers(0, 300), st.integers(1, 256))
@settings(deadline=None)
def test_which_tiles_a_log_has(size: int, level: int | None, index: int, width: int) -> None:
    widest = {tile.index: tile.width for tile in tiles_of(size) if tile.level == (level or 0)}
    assert Tile(level, index, width).within(size) == (width <= widest.get(index, 0))


LEAVES = [leaf(number.to_bytes(4)) for number in range(70_000)]


def kept(leaves: list[bytes]) -> dict[Tile, bytes]:
    """All tiles of a log, made only from every eighth level of its tree."""
    edge, grown = Frontier().grow(leaves)
    stored = {(each.level // 8, each.index): each.hash for each in grown if each.level % 8 == 0}
    hash_at = hashes_between(lambda level, first, count: [stored[level, first + each] for each in range(count)])
    return {tile: make_tile(tile, hash_at) for tile in tiles_of(edge.size)}


TILES = kept(LEAVES)
EDGE = Frontier().append(LEAVES)


def from_tiles(level: int, first: int, count: int) -> tuple[bytes, ...]:
    """What a client does that has nothing but tiles."""
    index, at = divmod(first, 256)
    tile = next(tile for tile in tiles_of(70_000) if (tile.level, tile.index) == (level, index))
    assert at + count <= tile.width
    return parse_tile(TILES[tile], tile)[at : at + count]


def test_content_of_tiles() -> None:
    assert TILES[Tile(0, 1)] == b"".join(LEAVES[256:512])
    assert TILES[Tile(0, 273, 112)] == b"".join(LEAVES[-112:])
    assert TILES[Tile(1, 1, 17)][32:64] == naive_root(LEAVES[257 * 256 : 258 * 256])
    assert TILES[Tile(2, 0, 1)] == naive_root(LEAVES[:65536])
    assert len(TILES[Tile(0, 0)]) == 8192


@pytest.mark.parametrize("index", [0, 255, 256, 65535, 65536, 69_999])
def test_inclusion_is_proven_from_tiles_alone(index: int) -> None:
    proof = inclusion_proof(index, 70_000, hashes_between(from_tiles))
    verify_inclusion(index, 70_000, LEAVES[index], proof, EDGE.root())


@pytest.mark.parametrize("first", [1, 256, 300, 65535, 65536, 65537, 69_999])
def test_consistency_is_proven_from_tiles_alone(first: int) -> None:
    proof = consistency_proof(first, 70_000, hashes_between(from_tiles))
    verify_consistency(first, Frontier().append(LEAVES[:first]).root(), 70_000, EDGE.root(), proof)


def test_what_is_stored_must_be_there() -> None:
    with refused("size-mismatch"):
        hashes_between(lambda level, first, count: LEAVES[: count - 1])(3, 0)
    with refused("size-mismatch"):
        hashes_between(lambda level, first, count: [b"short"])(0, 0)


@pytest.mark.parametrize("data", [b"", bytes(31), bytes(32), bytes(96)])
def test_tiles_of_a_wrong_length(data: bytes) -> None:
    with refused("size-mismatch"):
        parse_tile(data, Tile(0, 0, 2))


def test_bundles_hold_no_hashes() -> None:
    with refused("tile-kind"):
        make_tile(Tile(None, 0), lambda level, index: bytes(32))
    with refused("tile-kind"):
        parse_tile(bytes(32), Tile(None, 0, 1))


def test_content_of_bundles() -> None:
    assert make_bundle([b"one", b"", b"three"]) == b"\0\3one\0\0\0\5three"
    assert parse_bundle(make_bundle([b"x" * 65535]), 1) == (b"x" * 65535,)
    with refused("log-entry-malformed"):
        make_bundle([b"x" * 65536])


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_bundles_are_read_as_written(entries: list[bytes]) -> None:
    data = make_bundle(entries)
    assert parse_bundle(data, len(entries)) == tuple(entries)
    with refused("bundle-malformed"):
        parse_bundle(data + b"\0", len(entries))
    with refused("bundle-malformed"):
        parse_bundle(data, len(entries) + 1)
    if entries:
        with refused("bundle-malformed"):
            parse_bundle(data[:-1], len(entries))


@given(st.binary(max_size=60), st.integers(0, 5))
def test_any_bytes_are_a_bundle_or_refused(data: bytes, width: int) -> None:
    with perhaps_refused("bundle-malformed"):
        assert make_bundle(parse_bundle(data, width)) == data
