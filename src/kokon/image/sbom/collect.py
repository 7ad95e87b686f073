"""Read an image's package databases as they are when all layers lie upon each other."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from kokon.errors import MalformedError, UsageError
from kokon.image.sbom.document import SBOM_LIMIT, parse_sbom, write_sbom
from kokon.image.sbom.packages import is_database, read_packages
from kokon.image.source import plain_layer
from kokon.image.tarstream import FILE, read_entries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    from kokon.image.sbom.document import Sbom
    from kokon.image.source import Source
    from kokon.image.tarstream import Entry

DATABASES_LIMIT = 96 << 20
"""Bytes of all databases of an image: they are held in memory."""
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"


def make_sbom(source: Source, kind: str, name: str, created: datetime) -> Sbom:
    """The bill of materials of `source`, from its package databases. Reads all layers.

    Raises `MalformedError` (`sbom-too-large`), and what reading raises.
    """
    content = "sha256:" + hashlib.sha256(source.config_bytes).hexdigest()
    return write_sbom(kind, name, content, read_packages(databases(source)), created)


def read_sbom(path: Path) -> Sbom:
    """A document in a file. Raises `UsageError` (`sbom-unreadable`), and what `parse_sbom` raises."""
    try:
        with path.open("rb") as file:
            return parse_sbom(file.read(SBOM_LIMIT + 1))
    except OSError as error:
        raise UsageError(
            "sbom-unreadable",
            f"cannot read {path}",
            expected="spdx, cyclonedx or a file",
            found=error.strerror,
        ) from error


def databases(source: Source) -> dict[str, bytes]:
    """Path (no leading slash) to content of what packages are read from, after all layers."""
    found: dict[str, bytes] = {}
    for layer, diff_id in zip(source.layers, source.config.diff_ids, strict=True):
        removed, added = _layer(plain_layer(layer, diff_id), sum(map(len, found.values())))
        found = {path: data for path, data in found.items() if not _is_under(path, removed)}
        found.update(added)
    return found


def _layer(chunks: Iterable[bytes], held: int) -> tuple[set[str], dict[str, bytes]]:
    """What a layer removes (paths; what is below a directory has its path and a slash) and adds."""
    removed: set[str] = set()
    added: dict[str, bytes] = {}
    for entry, content in read_entries(chunks):
        path = "/".join(part for part in entry.name.decode("utf-8", "replace").split("/") if part not in ("", "."))
        directory, _, base = path.rpartition("/")
        if base == _OPAQUE:
            removed.add(f"{directory}/")
        elif base.startswith(_WHITEOUT):
            removed.add(f"{directory}/{base[len(_WHITEOUT) :]}".lstrip("/"))
        elif is_database(path):
            removed.add(path)
            if entry.kind == FILE:
                held += entry.size
                added[path] = _content(entry, content, held)
    return removed, added


def _content(entry: Entry, content: Iterator[memoryview], held: int) -> bytes:
    if held > DATABASES_LIMIT:
        raise MalformedError(
            "sbom-too-large",
            "the image's package databases are too large",
            expected=f"<= {DATABASES_LIMIT} bytes",
            found=entry.size,
        )
    return b"".join(content)


def _is_under(path: str, removed: set[str]) -> bool:
    parts = path.split("/")
    places = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return (
        "/" in removed or any(place in removed for place in places) or any(f"{one}/" in removed for one in places[:-1])
    )
