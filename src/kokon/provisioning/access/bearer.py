"""Tokens of the admin interface: `kokon_`, a public id (12 characters base32), `_`, a secret (43 characters base64url).

The server keeps the SHA-256 of the whole text; 256 random bits need no slow hash. Pure, given randomness.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import Final

from kokon.errors import MalformedError, UsageError
from kokon.wire import b64url, unb64url

PREFIX: Final = "kokon_"
"""What scanners for leaked secrets can look for."""
ID_SIZE: Final = 12
SECRET_SIZE: Final = 32
"""Characters of the id, bytes of the secret."""
ID_ENTROPY: Final = 8
TOKEN_ENTROPY: Final = ID_ENTROPY + SECRET_SIZE
"""Random bytes that an id and a token are made of."""
TOKEN_LENGTH: Final = len(PREFIX) + ID_SIZE + 1 + 43
DIGEST_SIZE: Final = 32
_ID = re.compile(rf"[a-z2-7]{{{ID_SIZE}}}")


@dataclass(frozen=True, slots=True, eq=False)
class Token:
    """A token: its public id, and the whole text, which is in no repr and is shown once, to whom it is for."""

    id: str
    text: str = field(repr=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the text: what the server keeps."""
        return hashlib.sha256(self.text.encode()).digest()


def make_id(entropy: bytes) -> str:
    """An id (RFC 4648 base32, lower case) out of 8 random bytes. Raises `UsageError` (`admin-token-entropy`)."""
    _check_entropy(entropy, ID_ENTROPY)
    return base64.b32encode(entropy).decode().lower()[:ID_SIZE]


def make_token(entropy: bytes) -> Token:
    """A token out of 40 random bytes, 8 for the id and 32 for the secret. Raises as `make_id` does."""
    _check_entropy(entropy, TOKEN_ENTROPY)
    identity = make_id(entropy[:ID_ENTROPY])
    return Token(identity, f"{PREFIX}{identity}_{b64url(entropy[ID_ENTROPY:])}")


def parse_token(text: str) -> Token:
    """The token of that text, which is never told of in errors. Raises `MalformedError` (`admin-token-malformed`)."""
    identity, secret = text[len(PREFIX) : len(PREFIX) + ID_SIZE], text[len(PREFIX) + ID_SIZE :]
    if len(text) != TOKEN_LENGTH or not text.startswith(PREFIX) or not secret.startswith("_") or not is_id(identity):
        raise _malformed()
    try:
        unb64url(secret[1:], what="token", size=SECRET_SIZE)
    except MalformedError:
        raise _malformed() from None
    return Token(identity, text)


def is_id(text: str) -> bool:
    """True if `text` may be a principal's id."""
    return _ID.fullmatch(text) is not None


def same_digest(first: bytes, second: bytes) -> bool:
    """True if the digests are equal; takes the same time wherever they differ."""
    return hmac.compare_digest(first, second)


def _check_entropy(entropy: bytes, size: int) -> None:
    if len(entropy) != size:
        raise UsageError(
            "admin-token-entropy", "a token needs that many random bytes", expected=size, found=len(entropy)
        )


def _malformed() -> MalformedError:
    return MalformedError(
        "admin-token-malformed", "this is no token of the admin interface", expected="kokon_ID_SECRET"
    )
