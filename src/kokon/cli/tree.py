"""A chain of trust on the terminal: a line per step, with what was checked below it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kokon.appraisal.step import Step

MARKS = {"passed": ("passed ", "green"), "failed": ("FAILED ", "bold red"), "not-checked": ("unknown", "yellow")}
Line = tuple[tuple[str, str], ...]
"""Pieces of a line: text and rich style."""


def tree_lines(title: str, steps: Sequence[Step], end: str, style: str) -> list[Line]:
    """The whole chain under `title`, with the sentence `end` in `style` below it."""
    lines: list[Line] = [((title, "bold"),)]
    for number, step in enumerate(steps, start=1):
        last = number == len(steps)
        mark, colour = MARKS[step.outcome]
        lines.append((("└─ " if last else "├─ ", "dim"), (mark, colour), (_line(f"  {step.title}"), "")))
        lines += [(("   " if last else "│  ", "dim"), *line) for line in _details(step)]
    return [*lines, (), ((end, style),)]


def _details(step: Step) -> list[Line]:
    lines: list[Line] = [(("          " + _line(f"{name}: {value}"), "dim"),) for name, value in step.facts if value]
    done = [check.name for check in step.checks if check.outcome == "passed"]
    if done:
        lines.append((("          checked: " + _line(", ".join(done)), "dim"),))
    for check in step.checks:
        if check.outcome == "passed":
            continue
        style = MARKS[check.outcome][1]
        what = "failed" if check.outcome == "failed" else "not checked"
        lines.append(((_line(f"          {what}: {check.name} [{check.code}]"), style),))
        said = {name: getattr(check, name) for name in ("expected", "found", "hint")}
        lines += [((_line(f"            {name}: {text}"), ""),) for name, text in said.items() if text]
    return lines


def _line(text: str) -> str:
    """On one line, whatever a certificate's name holds: nothing that a stranger wrote begins a line of its own."""
    return text.replace("\r", "\\r").replace("\n", "\\n")


def plain(lines: Iterable[Line]) -> str:
    """The lines as plain text."""
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)


def print_lines(lines: Iterable[Line]) -> None:
    """The lines in colour, on a terminal."""
    from rich.console import Console
    from rich.text import Text

    from kokon.cli.output import printable

    console = Console(highlight=False)
    for line in lines:
        console.print(Text.assemble(*((printable(text), style) for text, style in line)), soft_wrap=True)
