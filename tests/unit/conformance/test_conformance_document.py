"""docs/CONFORMANCE.md lists every case as it is. Run as a program, this file writes the table anew."""

from __future__ import annotations

import re
from pathlib import Path

from kokon.conformance.cases import ALL
from kokon.conformance.options import REQUESTS

DOCUMENT = Path(__file__).parents[3] / "docs" / "CONFORMANCE.md"
HEAD = "| Name | Level | Demanded | Section |\n|---|---|---|---|\n"


def table() -> str:
    rows = [f"| `{case.name}` | {case.level} | {case.title} | {case.section} |\n" for case in ALL]
    return HEAD + "".join(rows)


def test_the_table_is_that_of_the_cases() -> None:
    text = DOCUMENT.read_text()
    assert text.endswith(table()), "run: python tests/unit/conformance/test_conformance_document.py"
    assert text.count(HEAD) == 1


def test_titles_fit_into_a_table() -> None:
    for case in ALL:
        assert "|" not in case.title + case.section
        assert "\n" not in case.title + case.section


def test_the_options_exist() -> None:
    from dataclasses import fields

    from kokon.cli.conformance import Access, Extent, Guest

    known = {"--" + field.name.replace("_", "-") for kind in (Access, Extent, Guest) for field in fields(kind)}
    known |= {"--list", "--json"}
    others = {"--accept-simulated", "--admin-token-file", "--name", "--references", "--role", "--scope", "--secret"}
    named = set(re.findall(r"--[a-z][a-z-]+", DOCUMENT.read_text()))
    assert named - known == others
    assert f"at most {REQUESTS} requests" in DOCUMENT.read_text()


if __name__ == "__main__":
    DOCUMENT.write_text(DOCUMENT.read_text().partition(HEAD)[0] + table())
