"""Resource paths and addresses of the key broker protocol. Pure."""

from __future__ import annotations

import re

from kokon.errors import MalformedError

_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")


def resource_path(uri: str) -> str:
    """`a/b/c` of `kbs:///a/b/c`. Raises `MalformedError` (`resource-path`)."""
    return check_path(uri.removeprefix("kbs:///") if uri.startswith("kbs:///") else "")


def check_path(path: str) -> str:
    """`path` itself if it is repository/type/tag. Raises `MalformedError` (`resource-path`)."""
    segments = path.split("/")
    if len(segments) != 3 or not all(map(_SEGMENT.fullmatch, segments)):
        raise MalformedError(
            "resource-path",
            "a resource is named by three plain segments",
            expected="repository/type/tag",
            found=repr(path[:200]),
        )
    return path
