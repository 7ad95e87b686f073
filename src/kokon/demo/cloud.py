"""What a cloud holds of a running container, place by place, and the search of it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kokon.demo.canaries import KINDS, Finding, Search, search_bytes, search_memory, search_tree

PLACES = (
    "registry storage",
    "disks and state",
    "network",
    "command lines, environment",
    "logs",
    "memory of the machine",
)


@dataclass(frozen=True, slots=True)
class Holdings:
    """Everything that the host holds of one container: directories and files by place, and processes."""

    registry: Path
    disks: Sequence[Path]
    network: Sequence[Path]
    logs: Sequence[Path]
    processes: Sequence[int]
    memory: Sequence[int]


def search(holdings: Holdings, finder: Search) -> dict[str, Finding]:
    """Search each place; a place's finding counts the bytes that were read."""
    memory = Finding()
    for pid in holdings.memory:
        _merge(memory, search_memory(finder, pid))
    return {
        "registry storage": search_tree(finder, [holdings.registry]),
        "disks and state": search_tree(finder, holdings.disks),
        "network": search_tree(finder, holdings.network),
        "command lines, environment": _processes(finder, holdings.processes),
        "logs": search_tree(finder, holdings.logs),
        "memory of the machine": memory,
    }


def _processes(finder: Search, pids: Sequence[int]) -> Finding:
    finding = Finding()
    for pid in pids:
        for name in ("cmdline", "environ"):
            path = Path(f"/proc/{pid}/{name}")
            try:
                data = path.read_bytes()
            except OSError as error:
                finding.unread.append(f"{path}: {error.strerror}")
            else:
                _merge(finding, search_bytes(finder, str(path), data))
    return finding


def _merge(into: Finding, other: Finding) -> None:
    into.size += other.size
    into.kinds |= other.kinds
    into.unread += other.unread


def descendants(pids: Sequence[int]) -> list[int]:
    """The processes `pids` and all below them that are alive."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            children.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found, queue = [], [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += children.get(pid, [])
    return found


def size(count: int) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count} {unit}"
        count //= 1024
    return f"{count} GiB"


def describe(finding: Finding | None) -> str:
    """One cell of the table."""
    if finding is None:
        return "not run"
    if not finding.size and finding.unread:
        return "could not be read here"
    kinds = [kind for kind in KINDS if kind in finding.kinds]
    seen = "nothing" if not kinds else "everything" if len(kinds) == len(KINDS) else ", ".join(kinds)
    unread = f"; {len(finding.unread)} unreadable" if finding.unread else ""
    return f"{seen} ({size(finding.size)} searched{unread})"


def leaks(findings: Mapping[str, Finding]) -> set[str]:
    """The places, memory apart, where any canary was seen."""
    return {place for place, finding in findings.items() if finding.kinds and place != PLACES[-1]}
