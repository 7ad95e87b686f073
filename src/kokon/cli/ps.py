"""`kokon ps`: the containers of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from kokon.cli.output import emit, kokon_home
from kokon.host.state import Container, list_containers


def ps(*, all_: Annotated[bool, Parameter(name=["--all", "-a"])] = False, json: bool = False) -> None:
    """List containers on this machine.

    Example: `kokon ps --all`

    Parameters
    ----------
    all_
        Those that ended, too.
    json
        Print JSON.
    """
    containers = [container for container in list_containers(kokon_home()) if all_ or not container.ended]
    emit({"containers": [container.as_dict() for container in containers]}, _table(containers), json)


def _table(containers: Sequence[Container]) -> str:
    rows = [("NAME", "STATE", "PHASE", "PUBLISHED", "CREATED", "REASON")]
    for container in containers:
        record, status = container.record, container.status
        ending = container.code or (None if container.exit is None else f"status {container.exit}")
        rows.append(
            (
                container.name,
                container.state,
                status.phase if status else "-",
                record.publish if record and not container.ended else "-",
                record.created if record else "-",
                ending or "-",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
