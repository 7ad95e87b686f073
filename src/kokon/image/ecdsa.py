"""Authors' signature keys: ECDSA on P-256 or P-384 over SHA-256, as cosign signs with key files. Guest-safe."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kokon.errors import MalformedError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

PEM_LIMIT = 16 << 10


def load_public_key(pem: str | bytes) -> EllipticCurvePublicKey:
    """The P-256 or P-384 key of a PEM SubjectPublicKeyInfo. Raises `MalformedError` (`key-malformed`)."""
    key = read_public(pem)
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in ("secp256r1", "secp384r1"):
        raise MalformedError("key-malformed", "the author's key is of a wrong kind", expected="EC P-256 or P-384")
    return key


def read_public(pem: str | bytes) -> object:
    """The key, of whatever kind, of a PEM SubjectPublicKeyInfo of at most 16 KiB. Raises `MalformedError`
    (`key-malformed`)."""
    data = pem.encode() if isinstance(pem, str) else pem
    if len(data) > PEM_LIMIT:
        raise MalformedError("key-malformed", "the public key is too large", found=len(data))
    try:
        return serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError(
            "key-malformed", "the public key cannot be read", expected="PEM SubjectPublicKeyInfo"
        ) from error


def key_id(key: EllipticCurvePublicKey) -> str:
    """Hexadecimal SHA-256 of the key's DER SubjectPublicKeyInfo: the fingerprint that people compare."""
    return hashlib.sha256(
        key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def public_pem(key: EllipticCurvePublicKey) -> str:
    """The key as PEM SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def signature_holds(key: EllipticCurvePublicKey, signature: bytes, message: bytes) -> bool:
    """Whether `signature` (DER) over `message` was made by `key`."""
    try:
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def sign(key: EllipticCurvePrivateKey, message: bytes) -> bytes:
    """A DER signature over `message`."""
    return key.sign(message, ec.ECDSA(hashes.SHA256()))
