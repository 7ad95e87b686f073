"""Versions of images: semantic versioning 2.0.0 (semver.org), with numbers that may be left out. Pure, guest-safe.

`1.4` is read as `1.4.0`. Before a pre-release all three numbers are needed: `1.4-2` means something else to Debian. All
else is as in sections 2, 9 and 10 of the specification; a leading `v` is not part of a version. Precedence is that of
section 11: numbers as numbers, a pre-release before its release, and what is built differently (`+...`) is the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kokon.errors import MalformedError

VERSION_LIMIT = 128
"""Characters of a version. The specification has no limit and asks for good judgement."""
_NUMBER = r"(?:0|[1-9][0-9]*)"
_PRE = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_BUILD = r"[0-9A-Za-z-]+"
_SHORT = re.compile(rf"{_NUMBER}(?:\.{_NUMBER})?")
_FULL = re.compile(rf"({_NUMBER}\.{_NUMBER}\.{_NUMBER})(?:-({_PRE}(?:\.{_PRE})*))?(?:\+{_BUILD}(?:\.{_BUILD})*)?")

Precedence = tuple[tuple[int, ...], int, tuple[tuple[int, int, str], ...]]


@dataclass(frozen=True, slots=True)
class Version:
    """A version as it was written, and what it is compared by: of two versions the later one has the greater
    `precedence`."""

    text: str
    precedence: Precedence

    def __str__(self) -> str:
        return self.text


def parse_version(text: str) -> Version:
    """The version that `text` is. Raises `MalformedError` (`version-malformed`)."""
    if len(text) > VERSION_LIMIT:
        raise _malformed(text)
    if _SHORT.fullmatch(text):
        return Version(text, (_numbers(text), 1, ()))
    match = _FULL.fullmatch(text)
    if match is None:
        raise _malformed(text)
    fields = match[2].split(".") if match[2] else []
    # A list that is the beginning of a longer one comes first, as with tuples (section 11, point 4.4).
    return Version(text, (_numbers(match[1]), 0 if fields else 1, tuple(map(_field, fields))))


def is_before(one: str, other: str) -> bool:
    """True if version `one` is earlier than version `other`. Raises as `parse_version`."""
    return parse_version(one).precedence < parse_version(other).precedence


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(map(int, text.split(".")))
    return (*numbers, *(0,) * (3 - len(numbers)))


def _field(text: str) -> tuple[int, int, str]:
    """One field of a pre-release: numbers by their value, before words, and words by their ASCII codes."""
    return (0, int(text), "") if text.isdigit() else (1, 0, text)


def _malformed(text: str) -> MalformedError:
    return MalformedError(
        "version-malformed",
        "not a version",
        expected="semantic versioning: 1.4.2, 1.4 or 1.4.2-rc.1",
        found=repr(text[:VERSION_LIMIT]),
        hint="leave out a leading v, and zeros in front of a number",
    )
