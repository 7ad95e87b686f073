"""Take secrets out of an image, so that they can be given to the provisioning server and come back from there.

What can be taken out: a variable of the environment, and a regular file of the topmost layer. The topmost layer is then
written anew without it and has another digest; every other layer stays as it is. A file of a lower layer cannot be
taken out by removing it above: it would still be in the image.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kokon.errors import MalformedError, UsageError
from kokon.image.manifest import CONFIG_LIMIT, parse_config
from kokon.image.source import Source, SourceLayer, plain_layer
from kokon.wire import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SECRET_LIMIT = 1 << 20
"""Bytes of one secret, as the provisioning server takes it."""
_PIECE = 1 << 18


@dataclass(frozen=True, slots=True)
class Moved:
    """A secret that was taken out: `place` is a variable's name or a file's path with a slash in front."""

    place: str
    value: bytes = field(repr=False)

    @property
    def option(self) -> str:
        """How a launch puts it back to its place: an option of `kokon admit --secret`."""
        return f"file={self.place}" if self.place.startswith("/") else f"env={self.place}"


def parse_moves(texts: Iterable[str]) -> dict[str, str]:
    """Places and where what is there goes, from texts PLACE=TARGET. Raises `UsageError` (`secret-move-malformed`)."""
    moves: dict[str, str] = {}
    for text in texts:
        place, separator, target = text.partition("=")
        if not place or not separator or not target or place in moves:
            raise UsageError(
                "secret-move-malformed",
                "a secret is moved from a place in the image to the provisioning server",
                expected="PLACE=WORKLOAD/NAME, each place once",
                found=repr(text[:200]),
                hint="for example --move-secret DB_PASSWORD=clinic/db-password",
            )
        moves[place] = target
    return moves


def take_out(source: Source, places: Iterable[str]) -> tuple[Source, tuple[Moved, ...]]:
    """`source` without what is at `places`, and what was there. Reads the topmost layer if a file is among them.

    Raises `UsageError` (`secret-not-movable`), and what reading the layer raises.
    """
    wanted = tuple(dict.fromkeys(places))
    names = tuple(place for place in wanted if not place.startswith("/"))
    files = frozenset(place.strip("/") for place in wanted if place.startswith("/"))
    moved, config = _from_environment(source.config_bytes, names)
    layers = source.layers
    if files:
        if not layers:
            raise _not_movable(next(iter(files)), "the image has no layer")
        taken, top, config = _from_top(source, files, config)
        moved += taken
        layers = (*layers[:-1], top)
    data = json.dumps(config, separators=(",", ":")).encode()
    return Source(data, parse_config(data), layers), tuple(moved)


def _from_environment(data: bytes, names: Iterable[str]) -> tuple[list[Moved], dict[str, Any]]:
    config: dict[str, Any] = parse_json(data, limit=CONFIG_LIMIT, what="image configuration")
    run = config.get("config") or {}
    environment = [str(text) for text in run.get("Env") or []]
    moved = []
    for name in names:
        values = [text.partition("=")[2] for text in environment if text.partition("=")[0] == name]
        if not values or not values[-1]:
            raise _not_movable(name, "the image's environment has no such variable, or it is empty")
        moved.append(Moved(name, values[-1].encode("utf-8", "surrogateescape")))
        environment = [text for text in environment if text.partition("=")[0] != name]
    if moved:
        config["config"] = {**run, "Env": environment}
    return moved, config


def _from_top(
    source: Source, files: frozenset[str], config: dict[str, Any]
) -> tuple[list[Moved], SourceLayer, dict[str, Any]]:
    layer, diff_id = source.layers[-1], source.config.diff_ids[-1]
    values: dict[str, bytes] = {}
    running = hashlib.sha256()
    for chunk in _without(plain_layer(layer, diff_id), files, values):
        running.update(chunk)
    for name in files:
        if not values.get(name):
            raise _not_movable(f"/{name}", "the topmost layer has no such file, or it is empty")

    def read() -> Iterator[bytes]:
        return _without(plain_layer(layer, diff_id), files, {})

    digests = [*source.config.diff_ids[:-1], "sha256:" + running.hexdigest()]
    changed = {**config, "rootfs": {**config["rootfs"], "diff_ids": digests}}
    moved = [Moved(f"/{name}", values[name]) for name in sorted(files)]
    return moved, replace(layer, gzip=False, read=read), changed


def _without(chunks: Iterator[bytes], files: frozenset[str], values: dict[str, bytes]) -> Iterator[bytes]:
    """The archive without `files`, whose content goes to `values`. Same input, same output."""
    try:
        with tarfile.open(fileobj=_Reader(chunks), mode="r|") as archive:  # type: ignore[call-overload]
            for info in archive:
                archive.members.clear()  # else it remembers each, and memory grows with the archive
                name = _normal(info.name)
                if info.islnk() and _normal(info.linkname) in files:
                    raise _not_movable(f"/{_normal(info.linkname)}", "another name of the same file is in the layer")
                if name in files:
                    values[name] = _value(archive, info, name)
                    continue
                yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
                yield from _content(archive, info)
    except tarfile.TarError as error:
        raise MalformedError("layer-tar-malformed", "a layer's archive is damaged", found=error) from error
    for _ in chunks:
        pass  # its digest is checked at its end
    yield bytes(2 * tarfile.BLOCKSIZE)


def _value(archive: tarfile.TarFile, info: tarfile.TarInfo, name: str) -> bytes:
    if not info.isreg() or info.size > SECRET_LIMIT:
        raise _not_movable(f"/{name}", f"it is no file of at most {SECRET_LIMIT} bytes")
    return b"".join(_pieces(archive, info))


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[bytes]:
    if info.isreg():
        yield from _pieces(archive, info)
        if padding := -info.size % tarfile.BLOCKSIZE:
            yield bytes(padding)


def _pieces(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[bytes]:
    file = archive.extractfile(info)
    while file is not None and (piece := file.read(_PIECE)):
        yield piece


def _normal(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _not_movable(place: str, why: str) -> UsageError:
    return UsageError(
        "secret-not-movable",
        "a secret cannot be taken out of the image",
        expected="a variable of its environment, or a file of its topmost layer",
        found=f"{place[:200]}: {why}",
        hint="build the image without it",
    )


class _Reader:
    """What tarfile reads a stream from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._data = memoryview(b"")

    def read(self, count: int) -> bytes:
        """At most `count` bytes; none at the end."""
        while not self._data:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._data = memoryview(chunk)
        piece, self._data = self._data[:count], self._data[count:]
        return bytes(piece)
