"""A secret as the store keeps it: a line of JSON, and after it the value's bytes as they are. Pure.

The line is canonical JSON of at most 4 KiB: `version` (1), `kind`, `recipe`, `public`, and a newline. A secret has one
record: another spelling of the line is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal, get_args

from kokon.errors import MalformedError
from kokon.wire import Fields, canonical_json, parse_json

Kind = Literal["given", "generated", "derived"]
VALUE_LIMIT: Final = 1 << 20
"""Bytes of a value."""
HEADER_LIMIT: Final = 4 << 10
RECIPE_LIMIT: Final = 64
PUBLIC_LIMIT: Final = 2048
"""Characters; that of RSA with 4096 bits has 800."""
_KINDS: Final = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret's value; of a derived one, what it is derived from.

    `recipe` says how to make another one ("" if it was given); of a derived one it is the scope. `public` is the public
    half of a key pair (SubjectPublicKeyInfo, PEM), "" if there is none. Raises `MalformedError` (`resource-size`) for a
    value that is empty or over 1 MiB, `secret-record` for a recipe or a public half that no record can hold.
    """

    kind: Kind
    value: bytes = field(repr=False)
    recipe: str = ""
    public: str = ""

    def __post_init__(self) -> None:
        check_value(self.value)
        if len(self.recipe) > RECIPE_LIMIT or len(self.public) > PUBLIC_LIMIT:
            raise MalformedError("secret-record", "a secret's recipe or public half is too long")


def check_value(value: bytes) -> bytes:
    """`value` itself. Raises `MalformedError` (`resource-size`) if it is empty or over 1 MiB."""
    if not 0 < len(value) <= VALUE_LIMIT:
        raise MalformedError(
            "resource-size",
            "a resource must not be empty or too large",
            expected=f"1..{VALUE_LIMIT} bytes",
            found=len(value),
        )
    return value


def encode_secret(secret: Secret) -> bytes:
    """The record. It holds the value: seal it."""
    return _head(secret.kind, secret.recipe, secret.public) + b"\n" + secret.value


def decode_secret(record: bytes) -> Secret:
    """The inverse of `encode_secret`. Raises `MalformedError` (`secret-record`, `resource-size`, those of
    `kokon.wire`)."""
    end = record.find(b"\n", 0, HEADER_LIMIT + 1)
    if end < 0:
        raise MalformedError("secret-record", "a secret's record has no end of its head")
    kind, recipe, public = _read_head(record[:end])
    return Secret(kind, record[end + 1 :], recipe, public)


@lru_cache(maxsize=256)
def _read_head(head: bytes) -> tuple[Kind, str, str]:
    """Kind, recipe and public half, none of which is secret. Raises as `decode_secret`."""
    fields = Fields(parse_json(head, limit=HEADER_LIMIT, what="secret's record"), "secret's record")
    fields.integer("version", low=1, high=1)
    text = fields.text("kind", limit=16)
    kind = next((one for one in _KINDS if one == text), None)
    recipe, public = fields.text("recipe", limit=RECIPE_LIMIT), fields.text("public", limit=PUBLIC_LIMIT)
    fields.finish()
    if kind is None:
        raise MalformedError("secret-record", "a secret of an unknown kind", expected=_KINDS, found=repr(text))
    if _head(kind, recipe, public) != head:
        raise MalformedError("secret-record", "the head of a secret's record is not canonical JSON")
    return kind, recipe, public


def _head(kind: Kind, recipe: str, public: str) -> bytes:
    return canonical_json({"version": 1, "kind": kind, "recipe": recipe, "public": public})
