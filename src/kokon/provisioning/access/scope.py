"""Where a principal may act: grants of a project and a pattern of paths. Pure.

A path is one to eight segments with slashes between, as a secret's (`clinic/secret/db`) or a workload's name
(`clinic`). A pattern is `*`, for every path and for the project as a whole, or a path of which any segment may be `*`,
for exactly one segment of any text: `clinic/*/*` is not for `clinic`, nor for `clinic/a/b/c`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from kokon.errors import MalformedError
from kokon.provisioning.access.project import SERVER, is_project

ALL: Final = "*"
SEGMENTS_LIMIT: Final = 8
GRANTS_LIMIT: Final = 64
"""Grants that a principal may have."""
_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
"""As the key broker protocol's resource paths; no segment starts with a dot."""


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """Paths of `pattern` in `project`, which is a name or `*`, for all projects and for the server itself.

    Raises `MalformedError` (`scope-malformed`).
    """

    project: str
    pattern: str

    def __post_init__(self) -> None:
        if (self.project != ALL and not is_project(self.project)) or not _is_pattern(self.pattern):
            raise MalformedError(
                "scope-malformed",
                "this is no scope",
                expected="a project or *, and a path whose segments may be *",
                found=f"{self.project[:80]!r}, {self.pattern[:80]!r}",
            )

    def enters(self, project: str) -> bool:
        """True if something in `project` is granted."""
        return self.project in (ALL, project) and (project == SERVER or is_project(project))

    def covers(self, project: str, path: str | None) -> bool:
        """True if `path` in `project` is granted; None is the project as a whole. What is no path never is."""
        if not self.enters(project):
            return False
        if path is None:
            return self.pattern == ALL
        return is_path(path) and _matches(self.pattern, path)

    def contains(self, other: Grant) -> bool:
        """True if all that `other` grants is granted by this one too."""
        return self.project in (ALL, other.project) and _matches(self.pattern, other.pattern)

    def __str__(self) -> str:
        return f"{self.project}:{self.pattern}"


def parse_grant(text: str) -> Grant:
    """The grant that `str` makes `PROJECT:PATTERN` of. Raises `MalformedError` (`scope-malformed`)."""
    project, _, pattern = text.partition(":")
    return Grant(project, pattern)


def check_scopes(scopes: tuple[Grant, ...]) -> tuple[Grant, ...]:
    """`scopes`, sorted. Raises `MalformedError` (`scope-malformed`) if there are none, too many, or one twice."""
    if not 0 < len(scopes) <= GRANTS_LIMIT or len(set(scopes)) != len(scopes):
        raise MalformedError(
            "scope-malformed",
            "there are no scopes, too many, or one twice",
            expected=f"1..{GRANTS_LIMIT}, each once",
            found=len(scopes),
        )
    return tuple(sorted(scopes))


def is_path(path: str) -> bool:
    """True if `path` names something that a scope can grant."""
    segments = path.split("/", SEGMENTS_LIMIT)
    return len(segments) <= SEGMENTS_LIMIT and all(_SEGMENT.fullmatch(segment) for segment in segments)


def _is_pattern(pattern: str) -> bool:
    segments = pattern.split("/", SEGMENTS_LIMIT)
    return len(segments) <= SEGMENTS_LIMIT and all(s == ALL or _SEGMENT.fullmatch(s) for s in segments)


def _matches(pattern: str, path: str) -> bool:
    """`path` may be a pattern too: then if `pattern` matches all that it does. `*` alone is matched by itself only."""
    if pattern == ALL:
        return True
    wanted, found = pattern.split("/"), path.split("/")
    return len(wanted) == len(found) and all(
        want in (ALL, segment) for want, segment in zip(wanted, found, strict=True)
    )


EVERYTHING: Final = Grant(ALL, ALL)
"""All paths of all projects, and the server itself."""
