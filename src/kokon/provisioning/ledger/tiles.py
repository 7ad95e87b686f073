"""The tree as files (C2SP tlog-tiles): each holds up to 256 hashes of one level, or the entries below them.

Tile level L has the hashes of complete subtrees of tree level 8 L; `tile/L/N` or, while it is not full, `tile/L/N.p/W`.
Entry bundles are `tile/entries/N`. N is written in groups of three digits, all but the last with an x before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from kokon.errors import MalformedError, UsageError
from kokon.provisioning.ledger.entry import check_entry_size
from kokon.provisioning.ledger.merkle import HASH_SIZE, SIZE_LIMIT, Frontier, HashAt, split_hashes
from kokon.wire import check_size

HEIGHT = 8
"""Levels of the tree in one tile."""
WIDTH = 1 << HEIGHT
"""Hashes in a full tile."""
_LENGTH_SIZE = 2
_PATH = re.compile(
    r"tile/(?P<level>entries|[0-9]|[1-5][0-9]|6[0-3])/"
    r"(?P<index>(?!x000/)(?:x[0-9]{3}/){0,5}[0-9]{3})"
    r"(?:\.p/(?P<width>[1-9][0-9]{0,2}))?"
)


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile: `level` None is an entry bundle; `width` is how many hashes or entries it has, from 1 to 256.

    Raises `MalformedError` (`tile-malformed`) if there can be no such tile.
    """

    level: int | None
    index: int
    width: int = WIDTH

    def __post_init__(self) -> None:
        if not (0 <= (self.level or 0) < 64 and 0 <= self.index <= SIZE_LIMIT and 1 <= self.width <= WIDTH):
            raise _malformed(f"{self.level}, {self.index}, {self.width}")

    @property
    def path(self) -> str:
        """Where it lies below the log's address."""
        digits = str(self.index)
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        groups = [digits[start : start + 3] for start in range(0, len(digits), 3)]
        index = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
        part = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{'entries' if self.level is None else self.level}/{index}{part}"

    def within(self, size: int) -> bool:
        """Whether a log of `size` entries has this tile."""
        return self.index * WIDTH + self.width <= size >> HEIGHT * (self.level or 0)


def parse_tile_path(path: str) -> Tile:
    """The tile that lies at `path`. Raises `MalformedError` (`tile-malformed`): the one path of each tile is known."""
    match = _PATH.fullmatch(path)
    if match is None:
        raise _malformed(repr(path[:100]))
    level, index, width = match["level"], match["index"], match["width"]
    if width is not None and int(width) >= WIDTH:
        raise _malformed(repr(path[:100]))
    return Tile(
        None if level == "entries" else int(level),
        int(index.replace("x", "").replace("/", "")),
        WIDTH if width is None else int(width),
    )


def tiles_of(size: int) -> Iterator[Tile]:
    """All tiles of hashes of a log of `size` entries, level by level; the last of a level may be partial."""
    level = 0
    while size:
        for index in range(-(-size // WIDTH)):
            yield Tile(level, index, min(WIDTH, size - index * WIDTH))
        size, level = size >> HEIGHT, level + 1


def make_tile(tile: Tile, hash_at: HashAt) -> bytes:
    """The content of a tile of hashes. Raises `UsageError` (`tile-kind`)."""
    level, first = HEIGHT * _level(tile), tile.index * WIDTH
    return b"".join(hash_at(level, index) for index in range(first, first + tile.width))


def parse_tile(data: bytes, tile: Tile) -> tuple[bytes, ...]:
    """The hashes in a tile's content. Raises `MalformedError` (`size-mismatch`), `UsageError` (`tile-kind`)."""
    _level(tile)
    check_size(data, tile.width * HASH_SIZE, "tile")
    return split_hashes(data)


def make_bundle(entries: Iterable[bytes]) -> bytes:
    """The content of an entry bundle: before each entry its length, u16 big-endian.

    Raises `MalformedError` (`log-entry-malformed`) for an entry of 64 KiB or more.
    """
    parts = []
    for entry in entries:
        check_entry_size(entry)
        parts += [len(entry).to_bytes(_LENGTH_SIZE), entry]
    return b"".join(parts)


def parse_bundle(data: bytes, width: int) -> tuple[bytes, ...]:
    """The `width` entries in a bundle's content. Raises `MalformedError` (`bundle-malformed`)."""
    entries: list[bytes] = []
    at = 0
    for _ in range(width):
        start = at + _LENGTH_SIZE
        at = start + int.from_bytes(data[at:start])
        if at > len(data) or start > len(data):
            raise MalformedError("bundle-malformed", "an entry bundle is cut off", found=f"{len(entries)} entries")
        entries.append(data[start:at])
    if at != len(data):
        raise MalformedError("bundle-malformed", "an entry bundle has more than its entries")
    return tuple(entries)


def hashes_between(stored: Callable[[int, int, int], Sequence[bytes]]) -> HashAt:
    """Hashes of all levels from those that tiles hold: `stored(level, first, count)` gives `count` hashes of tile level
    `level` from number `first` on, at most 128, all of one tile.

    So only each eighth level of the tree needs to be kept: `Node`s of `Frontier.grow` whose level is a multiple of 8.
    """

    def hash_at(level: int, index: int) -> bytes:
        tile_level, above = divmod(level, HEIGHT)
        below = stored(tile_level, index << above, 1 << above)
        check_size(b"".join(below), HASH_SIZE << above, "stored hashes")
        return Frontier().append(below).root()

    return hash_at


def _level(tile: Tile) -> int:
    if tile.level is None:
        raise UsageError("tile-kind", "an entry bundle holds no hashes", found=tile.path)
    return tile.level


def _malformed(found: str) -> MalformedError:
    return MalformedError("tile-malformed", "there is no such tile", found=found)
