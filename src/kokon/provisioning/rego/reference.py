"""Reference values as the key broker's admin clients register them: by name, with a date of expiry. Pure.

Message (POST /reference-value): `{"version": "0.1.0", "type": ..., "payload": text}`. Types: `sample`, the payload
being standard base64 of a JSON object of names and any values; `corim`, standard base64 of a CoRIM, which `launches`
puts under the names that policies ask for. Stored: `{"version", "name", "expiration", "value"}`. (Confidential
Containers, Reference Value Provider Service. Others than the original, which keeps a date and does not look at it, this
server does not hand out what has expired.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from kokon.appraisal.corim import CORIM_LIMIT, read_corim
from kokon.errors import MalformedError
from kokon.provisioning.rego.launches import launch_values
from kokon.wire import Fields, parse_json, unb64

VERSION: Final = "0.1.0"
MESSAGE_LIMIT: Final = 2 << 20
VALUE_LIMIT: Final = 256 << 10
NAMES_LIMIT: Final = 4096
NAME_LIMIT: Final = 512
MONTHS: Final = 12
"""How long a value stands that does not say so itself."""

_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


@dataclass(frozen=True, slots=True)
class StoredValue:
    """A reference value: any JSON `value`, which exists until `expiration` (aware, whole seconds)."""

    name: str
    value: Any
    expiration: datetime


def read_message(
    data: bytes, now: datetime, *, corim_key: bytes | None = None, unsigned_corim: bool = False
) -> tuple[StoredValue, ...]:
    """The values that a message registers at `now` (aware), by name. A CoRIM must be signed by `corim_key` (a public
    key or certificate, PEM or DER) unless `unsigned_corim`.

    Raises `MalformedError` (`reference-malformed`, `reference-version`, `reference-type`, `reference-ambiguous`, and
    what `parse_json`, `Fields`, `unb64` and `read_corim` raise), `UntrustedError` and `StaleError` of `read_corim`.
    """
    fields = Fields(parse_json(data, limit=MESSAGE_LIMIT, what="the reference value message"), "the message")
    version = fields.text("version", default=VERSION, limit=32)
    kind = fields.text("type", limit=64)
    payload = fields.text("payload", limit=MESSAGE_LIMIT)
    fields.finish()
    if version != VERSION:
        raise MalformedError(
            "reference-version", "reference values in an unknown version", expected=VERSION, found=version
        )
    if kind == "sample":
        return _sample(payload, now)
    if kind == "corim":
        manifest = read_corim(
            unb64(payload, what="the CoRIM", limit=CORIM_LIMIT), key=corim_key, unsigned=unsigned_corim
        )
        end = min(_later(now), manifest.not_after or _later(now)).replace(microsecond=0)
        return _values(launch_values(manifest.references(now)), end)
    raise MalformedError(
        "reference-type",
        "reference values of a kind that is not taken here",
        expected="sample or corim",
        found=kind[:64],
        hint="sign them as a CoRIM, or register plain values as sample",
    )


def encode_value(stored: StoredValue) -> bytes:
    """The stored form, JSON with sorted names."""
    members = {
        "version": VERSION,
        "name": stored.name,
        "expiration": f"{stored.expiration.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "value": stored.value,
    }
    return json.dumps(members, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def decode_value(data: bytes) -> StoredValue:
    """A stored value. Raises `MalformedError` (`reference-malformed`, `reference-version`, those of `parse_json`)."""
    fields = Fields(parse_json(data, limit=VALUE_LIMIT + 4096, what="the reference value"), "the reference value")
    version, name = fields.text("version", limit=32), _name(fields.text("name", limit=NAME_LIMIT))
    expiration = fields.text("expiration", limit=32)
    value = fields.value("value")
    fields.finish()
    if version != VERSION:
        raise MalformedError(
            "reference-version", "reference value in an unknown version", expected=VERSION, found=version
        )
    try:
        if not _TIME.fullmatch(expiration):
            raise ValueError(expiration)
        return StoredValue(name, value, datetime.fromisoformat(expiration))
    except ValueError as error:
        raise MalformedError("reference-malformed", "expiration is no time", found=expiration) from error


def current(stored: Mapping[str, StoredValue], now: datetime) -> dict[str, Any]:
    """Names and values of those that have not expired at `now` (aware)."""
    return {name: one.value for name, one in stored.items() if now < one.expiration}


def expired(stored: Mapping[str, StoredValue], now: datetime) -> tuple[str, ...]:
    """Names of those that have expired at `now`, sorted."""
    return tuple(sorted(name for name, one in stored.items() if now >= one.expiration))


def _sample(payload: str, now: datetime) -> tuple[StoredValue, ...]:
    text = unb64(payload, what="the sample payload", limit=MESSAGE_LIMIT)
    found = parse_json(text, limit=MESSAGE_LIMIT, what="the sample payload")
    if not isinstance(found, dict):
        raise MalformedError(
            "reference-malformed", "a sample payload must be an object of names and values", found=type(found).__name__
        )
    return _values(found, _later(now).replace(microsecond=0))


def _values(found: Mapping[str, Any], end: datetime) -> tuple[StoredValue, ...]:
    if not found or len(found) > NAMES_LIMIT:
        raise MalformedError(
            "reference-malformed",
            "there must be reference values, and not too many",
            expected=f"1..{NAMES_LIMIT}",
            found=len(found),
        )
    return tuple(_value(StoredValue(_name(name), found[name], end)) for name in sorted(found))


def _value(stored: StoredValue) -> StoredValue:
    size = len(encode_value(stored))
    if size > VALUE_LIMIT:
        raise MalformedError(
            "reference-malformed", "a reference value is too large", expected=f"<= {VALUE_LIMIT} bytes", found=size
        )
    return stored


def _name(name: str) -> str:
    if not 0 < len(name) <= NAME_LIMIT or not name.isprintable():
        raise MalformedError(
            "reference-malformed",
            "a reference value's name must be printable and not too long",
            expected=f"1..{NAME_LIMIT} characters",
            found=repr(name)[:100],
        )
    return name


def _later(now: datetime) -> datetime:
    """The same day and time twelve months later; of 29 February the day before."""
    moment = now.astimezone(UTC)
    years, months = divmod(moment.month - 1 + MONTHS, 12)
    try:
        return moment.replace(year=moment.year + years, month=months + 1)
    except ValueError:
        return moment.replace(year=moment.year + years, month=months + 1, day=28)
