"""Endorsement bundles: all that a machine without a network needs to verify evidence, in one file.

A bundle is JSON: `format`, `version`, `created` (RFC 3339) and `items`, each with its `kind` and base64 `data`, sorted,
so that equal contents make equal files. It needs no signature of its own: every item is signed by a chip vendor and
is worth no more than that signature (docs/ENDORSEMENTS.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from kokon.endorsements.items import from_items, to_items
from kokon.errors import KokonError, MalformedError, UsageError
from kokon.tee.endorsements import Endorsements
from kokon.wire import Fields, canonical_json, parse_json

FORMAT: Final = "kokon endorsement bundle"
VERSION: Final = 1
BUNDLE_LIMIT: Final = 64 << 20
ITEMS_LIMIT: Final = 20_000


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a bundle holds and when it was made (UTC); the date is nobody's word but the maker's."""

    created: datetime
    endorsements: Endorsements


def encode_bundle(endorsements: Endorsements, created: datetime) -> bytes:
    """The bundle's file. The same endorsements and time give the same bytes, in whatever order they came.

    Raises `UsageError` (`bundle-too-large`).
    """
    items = sorted(to_items(endorsements), key=canonical_json)
    moment = f"{created.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    data = canonical_json({"format": FORMAT, "version": VERSION, "created": moment, "items": items}) + b"\n"
    if len(items) > ITEMS_LIMIT or len(data) > BUNDLE_LIMIT:
        raise UsageError(
            "bundle-too-large",
            "too much for one bundle",
            expected=f"<= {ITEMS_LIMIT} items and {BUNDLE_LIMIT} bytes",
            found=f"{len(items)} items, {len(data)} bytes",
        )
    return data


def parse_bundle(data: bytes) -> Bundle:
    """A bundle of at most 64 MiB. Raises `MalformedError` (`bundle-malformed`): also for an item that does not parse
    or is there twice; nobody but a broken or hostile maker writes such a file."""
    try:
        fields = Fields(parse_json(data, limit=BUNDLE_LIMIT, what="bundle"), "bundle")
        name, version = fields.text("format", limit=64), fields.integer("version")
        created = fields.text("created", limit=32)
        items = fields.array("items", limit=ITEMS_LIMIT)
        fields.finish()
        if (name, version) != (FORMAT, VERSION):
            raise MalformedError(
                "bundle-malformed",
                "not a bundle of a known version",
                expected=f"{FORMAT}, version {VERSION}",
                found=f"{name}, version {version}",
            )
        endorsements = from_items(items)
        kept = len(to_items(endorsements))
    except KokonError as error:
        raise MalformedError("bundle-malformed", "not a Kokon endorsement bundle", found=error) from error
    if kept != len(items):
        raise MalformedError("bundle-malformed", "a bundle holds something twice", expected=kept, found=len(items))
    return Bundle(_moment(created), endorsements)


def looks_like_bundle(data: bytes) -> bool:
    """True for JSON that calls itself a bundle."""
    return data.lstrip()[:1] == b"{" and FORMAT.encode() in data


def _moment(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise MalformedError(
            "bundle-malformed", "the bundle's date is malformed", expected="2026-11-23T12:00:00Z", found=text
        ) from error
