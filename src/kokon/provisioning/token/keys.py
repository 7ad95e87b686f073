"""The keys of tokens: one that signs, and those before it, which verify until their last tokens have expired.

A key's `kid` is its JWK thumbprint (RFC 7638), so no two keys share one and no record can give a key another's name.
All replicas read the same record; the public halves are what /.well-known/jwks.json shows (RFC 7517).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from kokon.errors import MalformedError
from kokon.jose.jwe import public_jwk, thumbprint
from kokon.wire import Fields, b64, b64url, canonical_json, parse_json, unb64

ALGORITHM: Final = "ES256"
RECORD_LIMIT: Final = 64 << 10
OLDER: Final = 16
"""Most older keys that are kept; more than this many rotations within one overlap drop the oldest."""
_KEY_LIMIT: Final = 1024


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A key whose tokens are accepted: for good if it signs, else before `until` (aware)."""

    kid: str
    public: ec.EllipticCurvePublicKey
    until: datetime | None = None

    def good(self, now: datetime) -> bool:
        """Whether its tokens are accepted at `now` (aware)."""
        return self.until is None or now < self.until

    @property
    def jwk(self) -> dict[str, str]:
        """As a member of a JWK set."""
        return public_jwk(self.public, algorithm=ALGORITHM) | {"use": "sig", "kid": self.kid}


@dataclass(frozen=True, slots=True)
class TokenKeys:
    """The key that signs and its forerunners, newest first. Made by `generate_keys`, `rotate` and `decode_keys`.

    `header` is the first part of every token that `private` signs, with its dot. `verifying` maps that part without the
    dot to the key.
    """

    private: ec.EllipticCurvePrivateKey = field(repr=False)
    created: datetime
    current: VerifyingKey
    older: tuple[VerifyingKey, ...]
    header: str = field(repr=False)
    verifying: Mapping[str, VerifyingKey] = field(repr=False)

    def rotate(self, now: datetime, overlap: timedelta) -> TokenKeys:
        """Keys with a new one that signs from `now` (aware) on; the one before verifies for `overlap`, which must be at
        least a token's lifetime and the time until all replicas have read the record."""
        last = VerifyingKey(self.current.kid, self.current.public, now + overlap)
        older = [key for key in (last, *self.older) if key.good(now)]
        return _keys(ec.generate_private_key(ec.SECP256R1()), now, older[:OLDER])

    def without(self, kid: str) -> TokenKeys:
        """Keys without an older one, whose tokens are refused from then on."""
        return _keys(self.private, self.created, [key for key in self.older if key.kid != kid])

    def jwks(self, now: datetime) -> dict[str, Any]:
        """The JWK set of the keys whose tokens are accepted at `now` (aware), the one that signs first."""
        return {"keys": [key.jwk for key in (self.current, *self.older) if key.good(now)]}

    def encode(self) -> bytes:
        """The record for the database. It holds the private key: seal it."""
        private = self.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        older = [{"key": b64(_spki(key.public)), "until": _text(key.until)} for key in self.older]
        return canonical_json({"version": 1, "key": b64(private), "created": _text(self.created), "older": older})


def generate_keys(now: datetime) -> TokenKeys:
    """A new key that signs from `now` (aware) on, without forerunners."""
    return _keys(ec.generate_private_key(ec.SECP256R1()), now, ())


def decode_keys(record: bytes) -> TokenKeys:
    """The inverse of `TokenKeys.encode`. Raises `MalformedError` (`token-keys-malformed`, those of `kokon.wire`)."""
    fields = Fields(parse_json(record, limit=RECORD_LIMIT, what="token keys"), "token keys")
    fields.integer("version", low=1, high=1)
    private = _load(load_der_private_key, fields.text("key", limit=2 * _KEY_LIMIT), None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise _malformed("the signing key is of another kind")
    created = _time(fields.text("created", limit=40))
    older = [_older(one) for one in fields.array("older", limit=OLDER)]
    fields.finish()
    return _keys(private, created, older)


def _older(value: Any) -> VerifyingKey:
    fields = Fields(value, "an older token key")
    public = _load(load_der_public_key, fields.text("key", limit=2 * _KEY_LIMIT))
    until = _time(fields.text("until", limit=40))
    fields.finish()
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise _malformed("an older key is of another kind")
    return _verifying(public, until)


def _keys(
    private: ec.EllipticCurvePrivateKey, created: datetime, older: list[VerifyingKey] | tuple[VerifyingKey, ...]
) -> TokenKeys:
    current = _verifying(private.public_key(), None)
    verifying = {_header(key.kid): key for key in (current, *reversed(older))}
    if len(verifying) != 1 + len(older):
        raise _malformed("a key stands there twice")
    return TokenKeys(private, created, current, tuple(older), _header(current.kid) + ".", verifying)


def _verifying(public: ec.EllipticCurvePublicKey, until: datetime | None) -> VerifyingKey:
    if public.curve.name != "secp256r1":
        raise _malformed(f"a key is on another curve: {public.curve.name}")
    return VerifyingKey(thumbprint(public_jwk(public)), public, until)


def _header(kid: str) -> str:
    """The protected header of tokens by that key, base64url: nothing in it depends on anything else."""
    return b64url(f'{{"alg":"{ALGORITHM}","kid":"{kid}","typ":"JWT"}}'.encode())


def _load(read: Any, text: str, *options: Any) -> Any:
    try:
        return read(unb64(text, what="a token key", limit=_KEY_LIMIT), *options)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _malformed("a key does not parse") from error


def _spki(public: ec.EllipticCurvePublicKey) -> bytes:
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _text(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).isoformat()


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise _malformed("a time does not parse") from error
    if time.tzinfo is None:
        raise _malformed("a time lacks its zone")
    return time


def _malformed(message: str) -> MalformedError:
    return MalformedError("token-keys-malformed", f"the record of token keys is damaged: {message}")
