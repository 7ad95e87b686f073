"""The initial RAM disk: init, its modules and a console, as an uncompressed cpio archive.

Format: "newc" of cpio(5) (Documentation/driver-api/early-userspace/buffer-format.rst). It is not compressed: it is
small, and unpacking it costs an emulated processor more than reading it does.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kokon.guest.build.modules import Module
from kokon.guest.build.tools import Tools

SOURCE = Path(__file__).with_name("init.c")
_DIRECTORIES = ("dev", "proc", "root", "lib")
_CONSOLE = (5, 1)


@dataclass(frozen=True, slots=True)
class Entry:
    """One member of the archive: path, mode with file type, content, device number."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def build_initrd(tools: Tools, modules: Sequence[Module], scratch: Path) -> bytes:
    """The archive with init, and `modules` to be loaded in this order. Raises `HostError` (`guest-build-failed`)."""
    binary = scratch / "init"
    tools.compile_c(SOURCE, binary)
    entries = [Entry(name, stat.S_IFDIR | 0o755) for name in _DIRECTORIES]
    entries.append(Entry("dev/console", stat.S_IFCHR | 0o600, device=_CONSOLE))
    entries.append(Entry("init", stat.S_IFREG | 0o755, binary.read_bytes()))
    paths = [f"lib/{module.name}.ko" for module in modules]
    entries.append(Entry("modules", stat.S_IFREG | 0o644, "".join(f"/{path}\n" for path in paths).encode()))
    for path, module in zip(paths, modules, strict=True):
        entries.append(Entry(path, stat.S_IFREG | 0o644, module.data))
    return write_archive(entries)


def write_archive(entries: Sequence[Entry]) -> bytes:
    """A newc archive: inode numbers count up, owners are root, times are the epoch."""
    archive = bytearray()
    for number, entry in enumerate(entries, 1):
        archive += _member(entry, number)
    archive += _member(Entry("TRAILER!!!", 0), 0)
    archive += bytes(-len(archive) % 512)
    return bytes(archive)


def _member(entry: Entry, number: int) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    head = b"070701" + "".join(f"{field:08X}" for field in fields).encode() + name
    return head + bytes(-len(head) % 4) + entry.data + bytes(-len(entry.data) % 4)
