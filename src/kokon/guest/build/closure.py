"""Which of our own files the guest needs: those that its agent imports, found without running them.

The closure is also a check: guest code that reaches the provisioning server or the host's code does not build.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kokon.errors import HostError, InternalError

AGENT = "kokon.guest.agent.main"
FORBIDDEN = frozenset(
    {
        "kokon.appraisal",
        "kokon.cli",
        "kokon.demo",
        "kokon.endorsements",
        "kokon.guest.build",
        "kokon.host",
        "kokon.provisioning",
        "kokon.report",
        "kokon.testing",
    }
)


@dataclass(frozen=True, slots=True)
class Closure:
    """Our modules (dotted name to file) and the other top-level modules that they import."""

    modules: dict[str, Path]
    others: frozenset[str]


def find_closure(package: Path, start: str = AGENT) -> Closure:
    """What `start` imports, followed through the `kokon` package in the directory `package`.

    Raises `HostError` (`guest-agent-missing`), `InternalError` (`guest-import-forbidden`).
    """
    if _file(package, start) is None:
        raise HostError("guest-agent-missing", "the package lacks the guest's agent", expected=start, found=package)
    modules: dict[str, Path] = {}
    others: set[str] = set()
    waiting = [(start, "the guest image")]
    while waiting:
        name, importer = waiting.pop()
        for part in _parents(name):
            file = _file(package, part)
            if part in modules or file is None:
                continue
            _refuse(part, importer)
            modules[part] = file
            for imported in _imports(file, part):
                if imported.partition(".")[0] == "kokon":
                    waiting.append((imported, part))
                else:
                    others.add(imported.partition(".")[0])
    return Closure(dict(sorted(modules.items())), frozenset(others))


def _refuse(name: str, importer: str) -> None:
    for forbidden in FORBIDDEN:
        if name == forbidden or name.startswith(f"{forbidden}."):
            raise InternalError(
                "guest-import-forbidden",
                "code of the guest imports a room that must not be inside",
                expected=f"no import of {forbidden}",
                found=f"{importer} imports {name}",
            )


def _parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _file(package: Path, name: str) -> Path | None:
    path = package.joinpath(*name.split(".")[1:])
    for candidate in (path / "__init__.py", path.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None


def _imports(file: Path, name: str) -> Iterator[str]:
    """Names that a file may import: of `from a import b` both a and a.b, which may be a module."""
    here = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in _running(ast.parse(file.read_bytes(), file.name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                stem = here.split(".")[: len(here.split(".")) - node.level + 1]
                base = ".".join([*stem, *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `node` save those that only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and _type_checking(child.test):
            yield from (below for part in child.orelse for below in (part, *_running(part)))
        else:
            yield child
            yield from _running(child)


def _type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )
