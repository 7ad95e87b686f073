"""docs/ATTACKS.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
DOCUMENT = TESTS.parent / "docs" / "ATTACKS.md"
_NAME = re.compile(r"`((?:e2e|unit|vm|vectors)/[a-z0-9_/]+\.py)::(test_[a-z0-9_]+)(?:\[[a-z0-9-]+\])?`")


def test_every_test_that_the_document_names_exists() -> None:
    named = _NAME.findall(DOCUMENT.read_text())
    assert len(named) > 40
    missing = [f"{file}::{name}" for file, name in named if name not in functions(TESTS / file)]
    assert not missing


def test_every_attack_of_the_demo_is_in_the_document() -> None:
    from kokon.demo.attacks import ATTACKS

    text = DOCUMENT.read_text()
    missing = [action.__name__ for _, action in ATTACKS if f"[{action.__name__.replace('_', '-')}]" not in text]
    assert not missing


def functions(path: Path) -> set[str]:
    """The functions at the top of a file."""
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
