"""The key of the layer keys on its way from author to owner, as the identity statement carries it.

A JWE to the owner's key (RFC 7516) whose plaintext is the 32-byte key followed by the SHA-256 of the author's DER
SubjectPublicKeyInfo. Statements are public: without the author in it, another author whom the owner trusts could put
the same JWE into a statement of his own, and be given the key to somebody else's layers.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

from kokon.errors import KokonError, MalformedError, UntrustedError
from kokon.image.ecdsa import key_id, load_public_key
from kokon.image.keyprovider import KEK_SIZE
from kokon.jose.jwe import decrypt, encrypt_to

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

_AUTHOR_SIZE = 32


def seal_kek(kek: bytes, author: EllipticCurvePublicKey, owner: Mapping[str, Any]) -> dict[str, str]:
    """`kek` (32 bytes) of `author` for the owner with the public JWK `owner`. Raises as `encrypt_to`."""
    return encrypt_to(owner, kek + bytes.fromhex(key_id(author)))


def open_kek(jwe: Mapping[str, Any], author_pem: str, owner: EllipticCurvePrivateKey) -> bytes:
    """The 32-byte key that the author with the public key `author_pem` sealed for the owner.

    Raises `UntrustedError` (`kek-not-opened`, `kek-of-another-author`), `MalformedError` (`kek-size`).
    """
    try:
        content = decrypt(jwe, owner)
    except KokonError as error:
        raise UntrustedError(
            "kek-not-opened",
            "the image's layer key does not open with this server's owner key",
            found=error.code,
            hint="the author must seal the image for this owner: give them the server's owner key",
        ) from error
    if len(content) != KEK_SIZE + _AUTHOR_SIZE:
        raise MalformedError(
            "kek-size",
            "the image's layer key has a wrong size",
            expected=f"{KEK_SIZE} + {_AUTHOR_SIZE} bytes",
            found=len(content),
        )
    author = key_id(load_public_key(author_pem))
    if not hmac.compare_digest(content[KEK_SIZE:], bytes.fromhex(author)):
        raise UntrustedError(
            "kek-of-another-author",
            "the image's layer key was sealed by another author: it is copied from somebody else's statement",
            expected=author,
            found=content[KEK_SIZE:].hex(),
            hint="do not admit this image: its author asks for the key to another author's image",
        )
    return content[:KEK_SIZE]
