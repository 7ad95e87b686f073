"""Canaries: texts planted where the cloud must not see them, and the search for them in all that the cloud holds.

A canary is looked for as it is, in base64 (each alignment, both alphabets), in hexadecimal and in UTF-16, and inside
gzip streams. All canaries of one run share a random stem, so that one pass over the data finds any of them.
"""

from __future__ import annotations

import base64
import os
import secrets
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

KINDS = ("program", "data", "file secret", "environment secret", "log", "request", "answer")
CHUNK = 8 << 20
OVERLAP = 1024


@dataclass(frozen=True, slots=True)
class Canaries:
    """The canaries of one run: kind to text. Each text is `stem` and a random end."""

    stem: str
    texts: Mapping[str, str]


def plant() -> Canaries:
    """Fresh canaries, one for each kind."""
    stem = f"canary{secrets.token_hex(6)}"
    return Canaries(stem, {kind: f"{stem}x{secrets.token_hex(8)}" for kind in KINDS})


def forms(text: str) -> frozenset[bytes]:
    """The byte strings that give `text` away: plain, UTF-16, hexadecimal, and the aligned cores of its base64."""
    raw = text.encode()
    found = {raw, text.encode("utf-16-le"), raw.hex().encode(), raw.hex().upper().encode()}
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + raw)
        start = -(-shift * 4 // 3)
        core = encoded[start : (shift + len(raw)) // 3 * 4]
        found |= {core, core.replace(b"+", b"-").replace(b"/", b"_")}
    return frozenset(found)


class Search:
    """Feed it bytes of one place after another; `found` is the set of kinds seen in the place."""

    def __init__(self, canaries: Canaries) -> None:
        self._stems = tuple(forms(canaries.stem))
        self._full = {kind: forms(text) for kind, text in canaries.texts.items()}

    def kinds_in(self, chunks: Iterable[bytes]) -> frozenset[str]:
        """The kinds of canaries in a stream of byte strings, also where one lies across a border."""
        found: set[str] = set()
        tail = b""
        for chunk in chunks:
            window = tail + chunk
            if any(stem in window for stem in self._stems):
                found |= {kind for kind, full in self._full.items() if any(form in window for form in full)}
            tail = window[-OVERLAP:]
        return frozenset(found)


@dataclass(slots=True)
class Finding:
    """What was searched at one place: bytes read, what could not be read, and the kinds found."""

    size: int = 0
    kinds: set[str] = field(default_factory=set)
    unread: list[str] = field(default_factory=list)

    def add(self, search: Search, name: str, chunks: Iterable[bytes]) -> None:
        """Search one stream and keep count."""
        try:
            self.kinds |= search.kinds_in(self._counted(chunks))
        except OSError as error:
            self.unread.append(f"{name}: {error.strerror}")

    def _counted(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.size += len(chunk)
            yield chunk


def search_bytes(search: Search, name: str, data: bytes) -> Finding:
    """Search a byte string."""
    finding = Finding()
    finding.add(search, name, [data])
    return finding


def search_tree(search: Search, roots: Iterable[Path]) -> Finding:
    """Search every regular file under `roots`, its name, and what it holds when it is gzip."""
    finding = Finding()
    for root in roots:
        files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink())
        for path in files:
            finding.add(search, str(path), [os.fsencode(path)])
            finding.add(search, str(path), _file(path))
            if _starts(path) == b"\x1f\x8b":
                finding.add(search, str(path), _inflated(path))
    return finding


def _starts(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(2)
    except OSError:
        return b""


def _file(path: Path) -> Iterator[bytes]:
    """A file's bytes without its holes."""
    with path.open("rb", buffering=0) as file:
        size, position = os.fstat(file.fileno()).st_size, 0
        while position < size:
            try:
                position = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(file.fileno(), position, os.SEEK_HOLE)
            file.seek(position)
            while position < end and (chunk := file.read(min(CHUNK, end - position))):
                position += len(chunk)
                yield chunk


def _inflated(path: Path) -> Iterator[bytes]:
    inflate = zlib.decompressobj(wbits=31)
    for chunk in _file(path):
        data = chunk
        while data and not inflate.eof:
            try:
                yield inflate.decompress(data, CHUNK)
            except zlib.error:
                return
            data = inflate.unconsumed_tail


def search_memory(search: Search, pid: int) -> Finding:
    """Search all memory of a process that can be read."""
    finding = Finding()
    finding.add(search, f"memory of {pid}", _memory(pid))
    return finding


def _memory(pid: int) -> Iterator[bytes]:
    regions = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for region in regions:
            bounds, modes, *rest = region.split(None, 5)
            if not modes.startswith("r") or rest[-1].startswith("[v"):
                continue
            start, end = (int(part, 16) for part in bounds.split("-"))
            for position in range(start, end, CHUNK):
                try:
                    memory.seek(position)
                    yield memory.read(min(CHUNK, end - position))
                except (OSError, OverflowError):
                    continue
