"""What commands of the provisioning server's owner share: which server and project, times as people write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kokon.errors import UsageError

if TYPE_CHECKING:
    from kokon.provisioning.client import AdminClient

_SPAN = re.compile(r"([1-9][0-9]{0,5})([hdwy])")
_HOURS = {"h": 1, "d": 24, "w": 7 * 24, "y": 365 * 24}
_LONGEST = timedelta(days=36500)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Which provisioning server, and which of its projects.

    Parameters
    ----------
    admin
        The server's admin.json; default: $KOKON_ADMIN, or that of the server on this machine.
    project
        Name of the project; default: $KOKON_PROJECT, or the one that admin.json is for.
    """

    admin: Path | None = None
    project: str | None = None


DEFAULT_ACCESS = Access()
Source = Annotated[Path, Parameter(allow_leading_hyphen=True)]
"""A file that may be -, for standard input or output."""


def connect(access: Access) -> AdminClient:
    """The client for that project. Raises as `read_access`."""
    from kokon.provisioning.client import AdminClient

    return AdminClient.from_home(access.admin, access.project)


def connect_server(admin: Path | None) -> AdminClient:
    """The client for calls about the server itself. Raises as `read_access`."""
    from kokon.provisioning.client import AdminClient

    return AdminClient.from_home(admin)


def moment(text: str, now: datetime) -> datetime:
    """A time in the future as typed: from `now` (aware) on as 12h, 30d, 6w or 1y, or RFC 3339. Whole seconds, UTC.

    Raises `UsageError` (`time-malformed`).
    """
    span = _SPAN.fullmatch(text)
    try:
        found = now + timedelta(hours=int(span[1]) * _HOURS[span[2]]) if span else datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        found = None
    if found is None or found.tzinfo is None or not now < found <= now + _LONGEST:
        raise UsageError(
            "time-malformed",
            "not a time in the future",
            expected="as 12h, 30d, 6w, 1y or 2027-01-31T12:00:00Z",
            found=repr(text[:60]),
        )
    return found.astimezone(UTC).replace(microsecond=0)


def rfc3339(when: datetime) -> str:
    """A time (aware) as the admin interface takes it."""
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def table(rows: Sequence[tuple[str, ...]], nothing: str) -> str:
    """Rows of as many columns each, aligned; `nothing` if there are none."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines) or nothing
