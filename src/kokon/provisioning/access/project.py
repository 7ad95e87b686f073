"""Projects: the server's tenants. Each has its own secrets, workloads, policies, principals and log. Pure."""

from __future__ import annotations

import re
from typing import Final

from kokon.errors import MalformedError

SERVER: Final = ""
"""The server itself, where a project is asked for: its own records and log."""
DEFAULT: Final = "default"
"""The project that is always there, and is served at the protocol's own paths too."""
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


def check_project(name: str) -> str:
    """`name` if it is a project's: 1 to 40 lower-case letters, digits and inner dashes.

    Raises `MalformedError` (`project-name`); also for the server's empty name, which is no project.
    """
    if not is_project(name):
        raise MalformedError(
            "project-name",
            "this is no name of a project",
            expected="1 to 40 of a-z, 0-9 and inner dashes",
            found=repr(name[:80]),
        )
    return name


def is_project(name: str) -> bool:
    """True if `name` may be a project's."""
    return _NAME.fullmatch(name) is not None
