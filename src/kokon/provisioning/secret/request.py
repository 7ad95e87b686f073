"""What the admin interface is told of secrets: JSON to values. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from kokon.errors import MalformedError
from kokon.provisioning.secret.derive import check_scope
from kokon.provisioning.secret.generate import Recipe, parse_recipe
from kokon.provisioning.secret.value import VALUE_LIMIT
from kokon.wire import Fields, parse_json, unb64

BODY_LIMIT: Final = 2 * VALUE_LIMIT
KEEP_LIMIT: Final = 1000
_HIGHEST: Final = 2**53


@dataclass(frozen=True, slots=True)
class Terms:
    """`expires` (aware) ends it; `previous` must be the newest version (0: there must be none; None: whatever); `keep`
    is how many versions stay (None: all)."""

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
    fields = Fields(parse_json(body, limit=BODY_LIMIT, what="secret"), "secret")
    value = fields.optional_text("value", limit=BODY_LIMIT)
    recipe, scope = fields.optional_text("generate", limit=64), fields.optional_text("derive", limit=64)
    terms = _terms(fields, now)
    fields.finish()
    if sum(one is not None for one in (value, recipe, scope)) != 1:
        raise MalformedError(
            "secret-request", "a secret is given, generated or derived", expected="one of value, generate, derive"
        )
    return PutRequest(
        value=None if value is None else unb64(value, what="value", limit=VALUE_LIMIT),
        recipe=None if recipe is None else parse_recipe(recipe),
        scope=None if scope is None else check_scope(scope),
        terms=terms,
    )


def parse_rotate(body: bytes, now: datetime) -> Terms:
    """`expires`, `previous` and `keep`, all optional; an empty body is as good as an empty object. Raises as
    `parse_put`."""
    fields = Fields(parse_json(body or b"{}", limit=BODY_LIMIT, what="rotation"), "rotation")
    terms = _terms(fields, now)
    fields.finish()
    return terms


def _terms(fields: Fields, now: datetime) -> Terms:
    return Terms(
        expires=_expires(fields.optional_text("expires", limit=64), now),
        previous=_number(fields, "previous", 0, _HIGHEST),
        keep=_number(fields, "keep", 1, KEEP_LIMIT),
    )


def _number(fields: Fields, name: str, low: int, high: int) -> int | None:
    given = fields.value(name, default=None)
    if given is None:
        return None
    number: int = Fields({name: given}, "secret").integer(name, low=low, high=high)
    return number


def _expires(text: str | None, now: datetime) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise MalformedError("secret-request", "expires is not a time (RFC 3339)", found=repr(text)) from error
    if moment.tzinfo is None or moment <= now:
        raise MalformedError(
            "secret-request", "expires is in the past, or has no zone", expected=f"after {now}", found=repr(text)
        )
    return moment
