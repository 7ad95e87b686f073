"""The codes that src raises errors with and gives checks, found without running it."""

import ast
import functools
import importlib.machinery
import importlib.util
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
ERRORS = {
    "InternalError",
    "UsageError",
    "MalformedError",
    "UntrustedError",
    "DeniedError",
    "StaleError",
    "UnreachableError",
    "HostError",
}


def trees() -> Iterator[tuple[Path, ast.Module]]:
    """Each source file, relative to the checkout, and its syntax tree."""
    for path in SOURCES:
        yield path.relative_to(ROOT), ast.parse(path.read_text())


@functools.cache
def raised() -> dict[str, set[str]]:
    """Every code that an error is raised with, and the files that do."""
    found: dict[str, set[str]] = {}
    for path, tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            code = node.args[0]
            if name in ERRORS and isinstance(code, ast.Constant) and isinstance(code.value, str):
                found.setdefault(code.value, set()).add(str(path))
    return found


@functools.cache
def checked() -> dict[str, set[str]]:
    """Every code that a check is given in a call of `failed` or `not_checked`, and the rooms that do, as scripts/errors
    finds them for docs/CHECKS.md."""
    loader = importlib.machinery.SourceFileLoader("errors_script", str(ROOT / "scripts" / "errors"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    script = importlib.util.module_from_spec(spec)
    loader.exec_module(script)
    return {code: set(entry["files"]) for code, entry in script.checks().items()}
