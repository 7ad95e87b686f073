"""Rules that hold for all of src: sizes, no assert, and error codes that are documented and tested."""

import ast
import functools
import re
from pathlib import Path

import pytest

from support.codes import ROOT, checked, raised, trees

FILE_LINES = 500
FUNCTION_LINES = 60
EXEMPT: dict[str, str] = {}


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
    codes = [*raised(), *checked()]
    assert [code for code in codes if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", code)] == []


def test_every_code_is_documented() -> None:
    for page, codes in (("ERRORS.md", set(raised())), ("CHECKS.md", set(checked()))):
        documented = set(re.findall(r"^\| `([a-z0-9-]+)` \|", (ROOT / "docs" / page).read_text(), re.MULTILINE))
        assert codes - documented == set(), "run scripts/errors"
        assert documented - codes == set(), "run scripts/errors"


@functools.cache
def all_tests() -> str:
    return "".join(p.read_text() for p in (ROOT / "tests").rglob("*.py") if p.name != Path(__file__).name)


@pytest.mark.parametrize("code", sorted(raised()))
def test_every_code_is_tested(code: str) -> None:
    assert f'"{code}"' in all_tests(), f"no test names {code} ({', '.join(raised()[code])})"


@pytest.mark.parametrize("code", sorted(checked()))
def test_every_code_of_a_check_is_tested(code: str) -> None:
    assert f'"{code}"' in all_tests(), f"no test names {code} ({', '.join(sorted(checked()[code]))})"


def test_the_codes_of_checks_are_found() -> None:
    """Also those that stand in a variable or a choice."""
    assert {"certificate-expired", "certificate-not-yet-valid", "measurement-unknown", "revocation-unchecked"} <= set(
        checked()
    )
