"""One JWE for several keys (RFC 7516, section 7.2.1), as ocicrypt writes it, and the compact form.

`kid` is the key's thumbprint (RFC 7638), so that one recipient can be found and taken away again without a private key.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from kokon.errors import MalformedError
from kokon.jose.jwe import (
    CONTENT,
    CONTENT_KEY_SIZE,
    ECDH,
    RECIPIENTS,
    RSA_SHA1,
    RSA_SHA256,
    _accept,
    _assemble,
    _content,
    _derive,
    _oaep,
    _protected,
    public_jwk,
    thumbprint,
)
from kokon.wire import b64url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kokon.jose.jwe import PublicKey


@dataclass(frozen=True, slots=True)
class JweKey:
    """A public key and how content keys are encrypted to it: ECDH-ES+A256KW, RSA-OAEP-256 or RSA-OAEP."""

    key: PublicKey
    algorithm: str

    @property
    def kid(self) -> str:
        """The key's thumbprint (RFC 7638)."""
        return thumbprint(public_jwk(self.key))


def jwe_key(key: PublicKey, algorithm: str | None = None) -> JweKey:
    """`key` with its usual algorithm or the given one. Raises `MalformedError` (`jwe-algorithm`, `key-unsupported`)."""
    public_jwk(key)
    if isinstance(key, ec.EllipticCurvePublicKey):
        _accept(algorithm, ECDH)
        return JweKey(key, ECDH)
    _accept(algorithm, RSA_SHA256, RSA_SHA1)
    return JweKey(key, algorithm or RSA_SHA256)


def encrypt_to_all(keys: Sequence[JweKey], plaintext: bytes) -> dict[str, Any]:
    """`plaintext` for each of `keys`: flattened for one, general for several. Raises `MalformedError`
    (`jwe-malformed`: none or too many keys; `jwe-too-large`)."""
    if not 1 <= len(keys) <= RECIPIENTS:
        raise MalformedError("jwe-malformed", "a JWE has one key or more", expected=f"1..{RECIPIENTS}", found=len(keys))
    content_key, iv = os.urandom(CONTENT_KEY_SIZE), os.urandom(12)
    made = [_recipient(key, content_key) for key in keys]
    if len(made) == 1:
        protected = _protected({"alg": made[0][0].pop("alg"), "enc": CONTENT, **made[0][0]})
        return dict(_assemble(protected, made[0][1], iv, _content(protected, plaintext, content_key, iv)))
    protected = _protected({"enc": CONTENT})
    message: dict[str, Any] = dict(_assemble(protected, b"", iv, _content(protected, plaintext, content_key, iv)))
    del message["encrypted_key"]
    return {**message, "recipients": [{"header": header, "encrypted_key": b64url(key)} for header, key in made]}


def compact(message: dict[str, Any]) -> str:
    """The compact form of a flattened JWE."""
    return ".".join(message[name] for name in ("protected", "encrypted_key", "iv", "ciphertext", "tag"))


def _recipient(recipient: JweKey, content_key: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and encrypted key of one recipient."""
    key = recipient.key
    if isinstance(key, ec.EllipticCurvePublicKey):
        ephemeral = ec.generate_private_key(key.curve)
        jwk = public_jwk(ephemeral)
        epk = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
        wrapped = aes_key_wrap(_derive(ephemeral.exchange(ec.ECDH(), key), b"", b""), content_key)
        return {"alg": ECDH, "epk": epk, "kid": recipient.kid}, wrapped
    return {"alg": recipient.algorithm, "kid": recipient.kid}, key.encrypt(content_key, _oaep(recipient.algorithm))
