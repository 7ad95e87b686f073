"""Records with a history: each names the digest of the one that it takes the place of, so that their order can be
proved and two changes at once cannot both win. Pure.

A text's record is canonical JSON: `version` (1), `text`, `previous` (hex SHA-256 of the record before, "" for the
first), `by` (whose change it was).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass

from kokon.errors import DeniedError, MalformedError
from kokon.wire import Fields, canonical_json, parse_json

TEXT_LIMIT = 1 << 20
"""Bytes of a policy's text."""
_RECORD_LIMIT = 8 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}|")


@dataclass(frozen=True, slots=True)
class Text:
    """A policy's text, the digest of the record before it, and whose change it was."""

    text: str
    previous: str
    by: str


def encode_text(text: Text) -> bytes:
    """The record."""
    return canonical_json({"version": 1, "text": text.text, "previous": text.previous, "by": text.by})


def decode_text(record: bytes) -> Text:
    """The inverse of `encode_text`. Raises `MalformedError` (those of `kokon.wire`)."""
    fields = Fields(parse_json(record, limit=_RECORD_LIMIT, what="policy record"), "policy record")
    fields.integer("version", low=1, high=1)
    text = Text(fields.text("text", limit=TEXT_LIMIT), fields.text("previous", limit=64), fields.text("by", limit=64))
    fields.finish()
    return text


def digest_of(record: bytes | None) -> str:
    """Hex SHA-256 of a record; "" if there is none."""
    return "" if record is None else hashlib.sha256(record).hexdigest()


def check_previous(given: object, found: str) -> None:
    """Check that a change was made knowing the record that is there. None: it replaces whatever that is.

    `given` is what a request says, of whatever type.

    Raises `DeniedError` (`changed-meanwhile`), `MalformedError` (`previous-malformed`).
    """
    if given is None:
        return
    if not isinstance(given, str) or not _DIGEST.fullmatch(given):
        raise MalformedError(
            "previous-malformed",
            "not a digest of a record",
            expected="64 hexadecimal digits or nothing",
            found=repr(given)[:100],
        )
    if not hmac.compare_digest(given.encode(), found.encode()):
        raise DeniedError(
            "changed-meanwhile",
            "it was changed since you last looked at it",
            expected=given or "none",
            found=found or "none",
            hint="look at what it is now, and decide again",
        )
