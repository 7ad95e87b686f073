"""Launch documents as guests send them: initdata 0.1.0 of Confidential Containers, TOML of texts. Pure.

Such a document comes from whoever connects, and TOML in full invites documents of a megabyte that take gigabytes to
read. So only the plain form that initdata has is let through to the TOML parser: names and texts, one table `[data]`.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kokon.errors import MalformedError

ALGORITHMS: Final = ("sha256", "sha384", "sha512")
VERSION: Final = "0.1.0"
LINES: Final = 2048
"""Lines of one document, those within texts not counted."""

_BASIC: Final = r'"(?:[^"\\\n]|\\.)*+"'
_LITERAL: Final = r"'[^'\n]*+'"
_TEXT: Final = (
    r'"""[^"\\]*+(?:(?:\\.|"(?!""))[^"\\]*+)*+"{3,5}'
    r"|'''[^']*+(?:'(?!'')[^']*+)*+'{3,5}"
    rf"|{_BASIC}|{_LITERAL}"
)
_NAME: Final = rf"(?:[A-Za-z0-9_-]{{1,200}}+|{_BASIC}|{_LITERAL})"
_LINE: Final = re.compile(
    rf"[ \t]*+(?:\[[ \t]*+data[ \t]*+\]|{_NAME}[ \t]*+=[ \t]*+(?:{_TEXT}))?"
    r"[ \t]*+(?:#[^\r\n]*+)?(?:\r?\n|\Z)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class InitData:
    """A launch document: the exact bytes that are hashed, the hash that it names, and its members of `[data]`."""

    text: bytes
    algorithm: str
    data: Mapping[str, str]

    @property
    def digest(self) -> bytes:
        """Its digest, as long as its algorithm makes it."""
        return hashlib.new(self.algorithm, self.text).digest()


def parse_init_data(text: bytes) -> InitData:
    """A launch document, whose size was bounded with its message's. Raises `MalformedError` (`init-data-malformed`)."""
    try:
        plain = text.decode()
        _check_form(plain)
        document = tomllib.loads(plain)
    except (ValueError, RecursionError) as error:
        raise MalformedError("init-data-malformed", "init-data is not TOML of names and texts", found=error) from error
    version, algorithm, data = (document.pop(name, None) for name in ("version", "algorithm", "data"))
    if version != VERSION or algorithm not in ALGORITHMS:
        raise MalformedError(
            "init-data-malformed",
            "init-data is of an unknown version, or names no hash that is known here",
            expected=f"version {VERSION}, algorithm {' '.join(ALGORITHMS)}",
            found=f"{version!r}, {algorithm!r}"[:200],
        )
    if not isinstance(data, dict) or document:
        raise MalformedError("init-data-malformed", "init-data must have the table data and no other members")
    return InitData(text, algorithm, data)


def _check_form(text: str) -> None:
    """Raise `ValueError` unless all of `text` is lines of the plain form, and not too many."""
    place = 0
    for number in range(1, LINES + 1):
        line = _LINE.match(text, place)
        if line is None:
            raise ValueError(f"entry {number} is neither a name with a text nor [data]")
        place = line.end()
        if place == len(text):
            return
    raise ValueError(f"more than {LINES} lines")
