"""Rows of a benchmark, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kokon.errors import HostError


@dataclass(frozen=True, slots=True)
class Row:
    """One measured value; `ratio` is value divided by that of the row named `ratio_to`."""

    name: str
    value: float
    unit: str
    ratio_to: str | None = None
    ratio: float | None = None


def against(row: Row, base: Row) -> Row:
    """The row with its ratio to another of the same unit. Raises `HostError` (`bench-no-ratio`)."""
    if row.unit != base.unit or not base.value:
        raise HostError("bench-no-ratio", "no ratio of these", expected=base.unit, found=f"{row.unit} to {base.value}")
    return Row(row.name, row.value, row.unit, base.name, round(row.value / base.value, 2))


def median(values: Sequence[float]) -> float:
    """The middle one: on a machine that others use too, a mean says little."""
    return statistics.median(values)


def show(rows: Sequence[Row]) -> str:
    """The rows as an aligned table."""
    lines = []
    for row in rows:
        ratio = f"{row.ratio:6.2f} x {row.ratio_to}" if row.ratio is not None else ""
        lines.append(f"{row.name:<50} {row.value:>10.2f} {row.unit:<6} {ratio}".rstrip())
    return "\n".join(lines)


def write(rows: Sequence[Row], path: Path) -> None:
    """The rows as a JSON list."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
