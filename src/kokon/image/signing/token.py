"""Signing with a key in a PKCS#11 token, which never leaves it. [machine's edge: a library]

Mechanisms of PKCS#11 3.0: CKM_ECDSA over a digest made here (2.3.6; every token has it, and its r and s become DER
here), CKM_SHA256_RSA_PKCS (2.1.12), CKM_EDDSA (2.3.14).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from kokon.errors import UntrustedError
from kokon.image.signing.keys import PublicKey, check_public, signature_holds
from kokon.pkcs11 import only, session

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

_ED25519_POINT: Final = b"\x04\x20"
"""Begins an OCTET STRING of 32 bytes: tokens write CKA_EC_POINT with it or without."""


@dataclass(frozen=True, slots=True)
class TokenSigner:
    """The private key labelled `key` in the token labelled `token`, which the PKCS#11 module `library` reaches; `pin`
    is the user's (UTF-8). `public` is its public half, as `open_token` reads it from the token."""

    library: Path
    token: str
    key: str
    pin: bytes = field(repr=False)
    public: PublicKey

    def sign(self, message: bytes) -> bytes:
        """A signature over `message`, verified with the public key before it is given out.

        Raises `HostError` (`pkcs11-missing`, `pkcs11-token-missing`, `pkcs11-key-missing`, `pkcs11-failed`),
        `DeniedError` (`pin-wrong`, `pin-locked`), `UsageError` (`pin-malformed`, `pkcs11-label`), `UntrustedError`
        (`pkcs11-key-ambiguous`, `signature-wrong`).
        """
        with session(self.library, self.token, self.key, self.pin) as (api, opened):
            private = _one(opened, api, api.ObjectClass.PRIVATE_KEY, self.key)
            signature = _signed(api, private, self.public, message)
        if not signature_holds(self.public, signature, message):
            raise UntrustedError(
                "signature-wrong",
                "the token's signature is not one of its public key",
                hint="do private and public key of this label in the token belong together?",
            )
        return signature


def open_token(library: Path, token: str, key: str, pin: bytes) -> TokenSigner:
    """A signer with the key labelled `key`. Raises as `TokenSigner.sign`, and `MalformedError` (`key-malformed`)."""
    with session(library, token, key, pin) as (api, opened):
        public = _public(api, _one(opened, api, api.ObjectClass.PUBLIC_KEY, key))
    return TokenSigner(library, token, key, pin, public)


def _signed(api: ModuleType, private: Any, public: PublicKey, message: bytes) -> bytes:
    if isinstance(public, ec.EllipticCurvePublicKey):
        raw = bytes(private.sign(hashlib.sha256(message).digest(), mechanism=api.Mechanism.ECDSA))
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))
    mechanism = api.Mechanism.SHA256_RSA_PKCS if isinstance(public, rsa.RSAPublicKey) else api.Mechanism.EDDSA
    return bytes(private.sign(message, mechanism=mechanism))


def _public(api: ModuleType, found: Any) -> PublicKey:
    names = api.Attribute
    if found.key_type == api.KeyType.RSA:
        modulus, exponent = (int.from_bytes(found[name]) for name in (names.MODULUS, names.PUBLIC_EXPONENT))
        return check_public(rsa.RSAPublicNumbers(exponent, modulus).public_key())
    if found.key_type == api.KeyType.EC:
        from pkcs11.util.ec import encode_ec_public_key

        return check_public(serialization.load_der_public_key(encode_ec_public_key(found)))
    point = bytes(found[names.EC_POINT]).removeprefix(_ED25519_POINT)
    if len(point) != 32:
        return check_public(None)
    return ed25519.Ed25519PublicKey.from_public_bytes(point)


def _one(session: Any, api: ModuleType, kind: Any, label: str) -> Any:
    found = list(session.get_objects({api.Attribute.CLASS: kind, api.Attribute.LABEL: label}))
    return only(found, f"{kind.name} {label}")
