"""What the admin interface is told of secrets: JSON to values. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from kokon.errors import MalformedError
from kokon.provisioning.secret.derive import check_scope
from kokon.provisioning.secret.generate import Recipe, parse_recipe
from kokon.provisioning.secret.value import VALUE_LIMIT, check_value
from kokon.wire import Fields, parse_json, unb64

BODY_LIMIT: Final = 2 * VALUE_LIMIT
KEEP_LIMIT: Final = 1000
_HIGHEST: Final = 2**53
_RFC3339 = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})")


@dataclass(frozen=True, slots=True)
class Terms:
    """`expires` (aware; of a request, in UTC) ends it; `previous` must be the newest version (0: there must be none;
    None: whatever); `keep` is how many versions stay (None: all)."""

    expires: datetime | None = None
    previous: int | None = None
    keep: int | None = None


@dataclass(frozen=True, slots=True)
class PutRequest:
    """Exactly one of `value`, `recipe` and `scope` is there."""

    value: bytes | None = field(repr=False)
    recipe: Recipe | None
    scope: str | None
    terms: Terms


def parse_put(body: bytes, now: datetime) -> PutRequest:
    """`value` (base64), `generate` (a recipe) or `derive` (a scope), and optionally `expires` (RFC 3339, after `now`),
    `previous`, `keep`.

    Raises `MalformedError` (`secret-request`, `resource-size`, those of `kokon.wire`), `UsageError` (`secret-recipe`,
    `secret-scope`).
    """
    fields = _fields(body, "secret")
    value = fields.optional_text("value", limit=BODY_LIMIT)
    recipe, scope = fields.optional_text("generate", limit=64), fields.optional_text("derive", limit=64)
    terms = _terms(fields, now)
    fields.finish()
    if sum(one is not None for one in (value, recipe, scope)) != 1:
        raise MalformedError(
            "secret-request", "a secret is given, generated or derived", expected="one of value, generate, derive"
        )
    return PutRequest(
        value=None if value is None else _value(value),
        recipe=None if recipe is None else parse_recipe(recipe),
        scope=None if scope is None else check_scope(scope),
        terms=terms,
    )


def parse_rotate(body: bytes, now: datetime) -> Terms:
    """`expires`, `previous` and `keep`, all optional; an empty body is as good as an empty object. Raises as
    `parse_put`."""
    fields = _fields(body or b"{}", "rotation")
    terms = _terms(fields, now)
    fields.finish()
    return terms


def _fields(body: bytes, what: str) -> Fields:
    with _untold():
        value = parse_json(body, limit=BODY_LIMIT, what=what)
    return Fields(value, what)


def _value(text: str) -> bytes:
    with _untold():
        value = unb64(text, what="value", limit=BODY_LIMIT)
    return check_value(value)


@contextmanager
def _untold() -> Iterator[None]:
    """Leave out of errors what was found: of a value that somebody did not encode, it would be a part."""
    try:
        yield
    except MalformedError as error:
        raise MalformedError(error.code, error.message, expected=error.expected) from None


def _terms(fields: Fields, now: datetime) -> Terms:
    return Terms(
        expires=_expires(fields.optional_text("expires", limit=64), now),
        previous=fields.integer("previous", default=None, high=_HIGHEST),
        keep=fields.integer("keep", default=None, low=1, high=KEEP_LIMIT),
    )


def _expires(text: str | None, now: datetime) -> datetime | None:
    if text is None:
        return None
    try:
        if not _RFC3339.fullmatch(text):
            raise ValueError("another form")
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise MalformedError(
            "secret-request",
            "expires is not a time with its zone (RFC 3339)",
            expected="as 2027-01-31T12:00:00Z",
            found=repr(text),
        ) from error
    if moment <= now:
        raise MalformedError("secret-request", "expires is in the past", expected=f"after {now}", found=repr(text))
    return moment
