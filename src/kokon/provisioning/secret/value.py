"""A secret as the store keeps it: a line of JSON, and after it the value's bytes as they are. Pure.

The line is canonical JSON of at most 4 KiB: `version` (1), `kind`, `recipe`, `public`, and a newline.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from kokon.errors import MalformedError
from kokon.wire import Fields, canonical_json, parse_json

Kind = Literal["given", "generated", "derived"]
VALUE_LIMIT: Final = 1 << 20
"""Bytes of a value."""
HEADER_LIMIT: Final = 4 << 10
_KINDS: Final = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret's value; of a derived one, what it is derived from.

    `recipe` says how to make another one ("" if it was given); of a derived one it is the scope. `public` is the public
    half of a key pair (SubjectPublicKeyInfo, PEM), "" if there is none. Raises `MalformedError` (`resource-size`) for a
    value that is empty or over 1 MiB.
    """

    kind: Kind
    value: bytes = field(repr=False)
    recipe: str = ""
    public: str = ""

    def __post_init__(self) -> None:
        if not 0 < len(self.value) <= VALUE_LIMIT:
            raise MalformedError(
                "resource-size",
                "a resource must not be empty or too large",
                expected=f"1..{VALUE_LIMIT} bytes",
                found=len(self.value),
            )


def encode_secret(secret: Secret) -> bytes:
    """The record. It holds the value: seal it."""
    header = {"version": 1, "kind": secret.kind, "recipe": secret.recipe, "public": secret.public}
    return canonical_json(header) + b"\n" + secret.value


def decode_secret(record: bytes) -> Secret:
    """The inverse of `encode_secret`. Raises `MalformedError` (`secret-record`, `resource-size`, those of
    `kokon.wire`)."""
    header, separator, value = record.partition(b"\n")
    if not separator:
        raise MalformedError("secret-record", "a secret's record has no end of its head")
    fields = Fields(parse_json(header, limit=HEADER_LIMIT, what="secret's record"), "secret's record")
    fields.integer("version", low=1, high=1)
    text = fields.text("kind", limit=16)
    kind = next((one for one in _KINDS if one == text), None)
    recipe, public = fields.text("recipe", limit=64), fields.text("public", limit=2048)
    fields.finish()
    if kind is None:
        raise MalformedError("secret-record", "a secret of an unknown kind", expected=_KINDS, found=repr(text))
    return Secret(kind, value, recipe, public)
