"""Rules that hold for all of src: sizes, no assert, and error codes that are documented and tested."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

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
FILE_LINES = 500
FUNCTION_LINES = 60
EXEMPT: dict[str, str] = {}


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in SOURCES:
        yield path.relative_to(ROOT), ast.parse(path.read_text())


def codes() -> dict[str, set[str]]:
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


def test_files_and_functions_stay_small() -> None:
    large = []
    for path, tree in trees():
        lines = (ROOT / path).read_text().count("\n")
        if lines > FILE_LINES and str(path) not in EXEMPT:
            large.append(f"{path}: {lines} lines")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > FUNCTION_LINES and f"{path}:{node.name}" not in EXEMPT:
                    large.append(f"{path}:{node.name}: {length} lines")
    assert not large


def test_no_assert_and_no_bare_except() -> None:
    bad = [
        f"{path}:{node.lineno}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert) or (isinstance(node, ast.ExceptHandler) and node.type is None)
    ]
    assert not bad


def test_codes_are_stable_words() -> None:
    assert [code for code in codes() if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", code)] == []


def test_every_code_is_documented() -> None:
    documented = set(re.findall(r"^\| `([a-z0-9-]+)` \|", (ROOT / "docs" / "ERRORS.md").read_text(), re.MULTILINE))
    raised = set(codes())
    assert raised - documented == set(), "run scripts/errors"
    assert documented - raised == set(), "run scripts/errors"


@functools.cache
def all_tests() -> str:
    return "".join(p.read_text() for p in (ROOT / "tests").rglob("*.py") if p.name != Path(__file__).name)


@pytest.mark.parametrize("code", sorted(codes()))
def test_every_code_is_tested(code: str) -> None:
    assert f'"{code}"' in all_tests(), f"no test names {code} ({', '.join(codes()[code])})"
