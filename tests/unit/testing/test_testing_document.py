"""The examples of docs/TESTING.md run as they stand there, one after the other."""

import doctest
import re
from pathlib import Path
from typing import Any

from kokon.testing import attacker, server
from kokon.testing.server import Mode
from kokon.testing.vendor import factory

PAGE = (Path(__file__).parents[3] / "docs" / "TESTING.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_examples_run() -> None:
    assert len(BLOCKS) == 6
    names: dict[str, Any] = {"__name__": "docs_testing"}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"docs/TESTING.md example {number + 1}", "exec"), names)
    assert names["claims"].simulated


def test_all_modes_are_described() -> None:
    table = PAGE.partition("| `Mode` |")[2]
    assert {mode.name for mode in Mode if f"`{mode.name}`" not in table} == set()


def test_what_is_named_exists() -> None:
    assert hasattr(server, "VendorServer")
    assert all(hasattr(attacker, name) for name in ("accepted", "flips", "splices", "swaps", "truncations"))


def test_examples_in_docstrings_run() -> None:
    found = doctest.testmod(factory)
    assert found.attempted
    assert not found.failed
