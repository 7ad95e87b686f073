"""Log entries: canonical JSON (RFC 8785), never a secret's value, never a token.

Members are `time` (RFC 3339, UTC, milliseconds), `event`, `project` ("" is the server itself), and what the event adds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kokon.errors import MalformedError
from kokon.wire import Fields, canonical_json, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

ENTRY_LIMIT = (1 << 16) - 1
"""Longest entry in bytes: entry bundles have 16 bits for the length (C2SP tlog-tiles, "Log entries")."""

WORD_LIMIT = 64
"""Longest name of an event or project in characters."""

_OWN = frozenset({"time", "event", "project"})
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as read back; `time` is aware, `details` is what the event added."""

    time: datetime
    event: str
    project: str
    details: Mapping[str, Any]


def make_entry(project: str, now: datetime, event: str, details: Mapping[str, Any]) -> bytes:
    """The bytes of an entry; `now` is aware. Nothing is made that could not be read back: it would spoil every audit.

    Raises `MalformedError` (`log-entry-malformed`, `json-not-canonical`, `json-malformed`).
    """
    if _OWN & set(details):
        raise MalformedError("log-entry-malformed", "an event must not set the log's own members")
    if now.tzinfo is None:
        raise MalformedError("log-entry-malformed", "a log entry's time has no zone")
    if max(len(event), len(project)) > WORD_LIMIT:
        raise MalformedError("log-entry-malformed", "the event or project of a log entry is too long")
    time = now.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
    try:
        data = canonical_json({**details, "time": time, "event": event, "project": project})
    except (UnicodeEncodeError, RecursionError) as error:
        raise MalformedError("log-entry-malformed", "a log entry has no JSON form", found=error) from error
    check_entry_size(data)
    parse_json(data, limit=ENTRY_LIMIT, what="log entry")
    return data


def parse_entry(data: bytes) -> Entry:
    """One entry from its bytes, which must be canonical.

    Raises `MalformedError` (`log-entry-malformed`, `json-not-canonical`, and those of `kokon.wire`).
    """
    check_entry_size(data)
    members = parse_json(data, limit=ENTRY_LIMIT, what="log entry")
    fields = Fields(members, "log entry")
    time = _parse_time(fields.text("time", limit=WORD_LIMIT))
    event, project = fields.text("event", limit=WORD_LIMIT), fields.text("project", limit=WORD_LIMIT)
    if canonical_json(members) != data:
        raise MalformedError("log-entry-malformed", "a log entry is not canonical JSON")
    return Entry(time, event, project, {name: value for name, value in members.items() if name not in _OWN})


def check_entry_size(data: bytes) -> None:
    """Refuse an entry that is too long: `MalformedError` (`log-entry-malformed`)."""
    if len(data) > ENTRY_LIMIT:
        raise MalformedError(
            "log-entry-malformed", "a log entry is too large", expected=f"<= {ENTRY_LIMIT} bytes", found=len(data)
        )


def _parse_time(text: str) -> datetime:
    try:
        if not _TIME.fullmatch(text):
            raise ValueError("not of the form 2026-05-01T12:00:00.000Z")
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise MalformedError(
            "log-entry-malformed", f"a log entry's time is wrong: {error}", found=repr(text)
        ) from error
