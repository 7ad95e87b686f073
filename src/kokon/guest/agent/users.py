"""Who the application runs as: the user text of an image configuration, looked up in the image's own files.

/etc/passwd and /etc/group are the author's content, read with bounds; lines that are none are passed over as libc does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kokon.errors import MalformedError

FILE_LIMIT = 1 << 20
_LINES = 10_000
_GROUPS = 256
_HIGHEST = 2**32 - 2


@dataclass(frozen=True, slots=True)
class User:
    """Numeric ids and the home directory of the application."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


def resolve_user(text: str, passwd: bytes, group: bytes) -> User:
    """The user that `text` (`[user[:group]]`, names or numbers; empty: root) means.

    A number without an entry has group 0. Raises `MalformedError` (`user-unknown`).
    """
    name, separator, group_name = text.partition(":")
    entry = _find_user(name or "0", passwd)
    gid = entry.gid if not separator else _find_group(group_name, group)
    groups = () if separator or not entry.name else _supplementary(entry.name, group)
    return User(entry.uid, gid, groups, entry.home)


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    uid: int
    gid: int
    home: str


def _find_user(name: str, passwd: bytes) -> _Entry:
    number = _number(name)
    for fields in _lines(passwd, 7):
        uid, gid = _number(fields[2]), _number(fields[3])
        if uid is not None and gid is not None and (fields[0] == name or uid == number):
            return _Entry(fields[0], uid, gid, fields[5] if fields[5].startswith("/") else "/")
    if number is None:
        raise _unknown(name)
    return _Entry("", number, 0, "/")


def _find_group(name: str, group: bytes) -> int:
    number = _number(name)
    if number is not None:
        return number
    for fields in _lines(group, 4):
        gid = _number(fields[2])
        if fields[0] == name and gid is not None:
            return gid
    raise _unknown(name)


def _supplementary(name: str, group: bytes) -> tuple[int, ...]:
    found = [_number(fields[2]) for fields in _lines(group, 4) if name in fields[3].split(",")]
    return tuple(dict.fromkeys(gid for gid in found if gid is not None))[:_GROUPS]


def _lines(data: bytes, members: int) -> Iterator[list[str]]:
    for line in data[:FILE_LIMIT].decode("utf-8", "replace").split("\n")[:_LINES]:
        fields = line.split(":")
        if len(fields) == members and fields[0]:
            yield fields


def _number(text: str) -> int | None:
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _HIGHEST:
        return int(text)
    return None


def _unknown(name: str) -> MalformedError:
    return MalformedError(
        "user-unknown",
        "the image names a user or group that its own files do not have",
        found=repr(name[:64]),
        hint="use a number, or add the name to the image's /etc/passwd or /etc/group",
    )
