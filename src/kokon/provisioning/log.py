"""The append-only log: JSON entries, each naming the SHA-256 of the one before.

Pure: entries in and out as bytes; the store keeps them. An entry is canonical JSON (RFC 8785) with the members
sequence (from 1), previous (hex digest of the entry before, zeros for the first), time (RFC 3339, UTC), event, and
whatever the event adds. Nothing secret ever goes in.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from kokon.errors import MalformedError, UntrustedError
from kokon.wire import Fields, canonical_json, parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ENTRY_LIMIT = 64 << 10
GENESIS = "0" * 64
_OWN = frozenset({"sequence", "previous", "time", "event"})


@dataclass(frozen=True, slots=True)
class Head:
    """Where a log ends: the last entry's number (0: empty) and digest (hex)."""

    sequence: int = 0
    digest: str = GENESIS


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as read back; `details` is what the event added, `digest` the hex SHA-256 of the entry's bytes."""

    sequence: int
    previous: str
    time: datetime
    event: str
    details: Mapping[str, Any]
    digest: str


def make_entry(head: Head, now: datetime, event: str, details: Mapping[str, Any]) -> tuple[bytes, Head]:
    """The bytes of the entry that follows `head`, and the new head.

    Raises `MalformedError` (`log-entry-malformed`, `json-not-canonical`).
    """
    if _OWN & set(details):
        raise MalformedError("log-entry-malformed", "an event must not set the log's own members")
    members = {
        "sequence": head.sequence + 1,
        "previous": head.digest,
        "time": now.isoformat(timespec="milliseconds"),
        "event": event,
        **details,
    }
    data = canonical_json(members)
    if len(data) > ENTRY_LIMIT:
        raise MalformedError("log-entry-malformed", "a log entry is too large", found=len(data))
    return data, Head(head.sequence + 1, hashlib.sha256(data).hexdigest())


def parse_entry(data: bytes) -> Entry:
    """One entry from its bytes. Raises `MalformedError` (`log-entry-malformed`, and those of `kokon.wire`)."""
    members = parse_json(data, limit=ENTRY_LIMIT, what="log entry")
    fields = Fields(members, "log entry")
    text = fields.text("time", limit=40)
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise MalformedError("log-entry-malformed", "a log entry's time is not RFC 3339", found=repr(text)) from error
    if time.tzinfo is None:
        raise MalformedError("log-entry-malformed", "a log entry's time has no zone", found=text)
    return Entry(
        sequence=fields.integer("sequence", low=1),
        previous=fields.text("previous", limit=64),
        time=time,
        event=fields.text("event", limit=64),
        details={name: value for name, value in members.items() if name not in _OWN},
        digest=hashlib.sha256(data).hexdigest(),
    )


def verify_chain(entries: Iterable[bytes], start: Head | None = None) -> Head:
    """The head after `entries`, checked to follow one another from `start` (the beginning if None).

    Raises `UntrustedError` (`log-broken`): an entry was changed, removed or put in; `MalformedError` as `parse_entry`.
    """
    head = start or Head()
    for data in entries:
        entry = parse_entry(data)
        if entry.sequence != head.sequence + 1 or not hmac.compare_digest(
            entry.previous.encode(), head.digest.encode()
        ):
            raise UntrustedError(
                "log-broken",
                "the log's chain is broken: entries were changed, removed or put in",
                expected=f"entry {head.sequence + 1} after {head.digest[:16]}",
                found=f"entry {entry.sequence} after {entry.previous[:16]}",
                hint="keep a copy of the state directory as evidence, and restore the log from a backup",
            )
        head = Head(entry.sequence, entry.digest)
    return head
