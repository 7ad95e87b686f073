"""What a registry asks for when it answers 401: parsed from `WWW-Authenticate`. Pure.

Grammar: RFC 9110, 11.6.1; the Bearer members are those of the distribution project's token specification
(docs/spec/auth/token.md): realm, service, scope.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HEADER_LIMIT = 8192
_SCHEME = re.compile(r"[\s,]*([A-Za-z][A-Za-z0-9-]*)(?=[\s,]|$)")
_MEMBER = re.compile(r'[\s,]*([A-Za-z0-9_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to log in: the scheme in lower case (`basic`, `bearer`), and its members, names in lower case."""

    scheme: str
    members: Mapping[str, str] = field(default_factory=dict)

    @property
    def realm(self) -> str:
        """Where to ask for a token; empty if the challenge does not say."""
        return self.members.get("realm", "")


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """All challenges of the `WWW-Authenticate` headers. What cannot be read ends a header; too long ones are left."""
    found: list[Challenge] = []
    for header in headers:
        if len(header) <= HEADER_LIMIT:
            found += _parse(header)
    return tuple(found)


def _parse(header: str) -> list[Challenge]:
    found: list[Challenge] = []
    members: dict[str, str] = {}
    position = 0
    while position < len(header):
        if found and (match := _MEMBER.match(header, position)):
            quoted, bare = match[2], match[3]
            members[match[1].lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else bare
        elif match := _SCHEME.match(header, position):
            members = {}
            found.append(Challenge(match[1].lower(), members))
        else:
            break
        position = match.end()
    return found
