"""Keys that sign images, and one protocol for all that sign with them.

Algorithms as cosign has them for key files (sigstore's `signature` package): ECDSA P-256 and P-384 in DER form,
Ed25519 over the message itself, RSA of at least 2048 bits with PKCS#1 v1.5 or PSS. ECDSA is over SHA-256, as cosign 1
and 2 sign with any curve; P-384 is read with SHA-384 too, which is sigstore's default for that curve.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from kokon.errors import MalformedError, UsageError
from kokon.image.ecdsa import read_public

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey
PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

RSA_BITS: Final = range(2048, 4097)
"""Sizes of RSA keys: below is weak (NIST SP 800-131A), above the guest reads no signature."""
SIGNATURE_LIMIT: Final = 512
"""Bytes of a signature: one of RSA 4096."""
ALGORITHMS: Final = ("p256", "p384", "ed25519", "rsa")
"""What `make_key` makes."""
_CURVES: Final = ("secp256r1", "secp384r1")


class Signer(Protocol):
    """Whoever signs: a key in memory, a token, or somebody outside."""

    @property
    def public(self) -> PublicKey:
        """The public half."""

    def sign(self, message: bytes) -> bytes:
        """A signature over `message`, in the form that `signature_holds` reads."""


@dataclass(frozen=True, slots=True)
class KeySigner:
    """A private key in memory. RSA signs with PKCS#1 v1.5, as cosign does, or with PSS if `pss`."""

    key: PrivateKey = field(repr=False)
    pss: bool = False

    @property
    def public(self) -> PublicKey:
        """The public half."""
        return self.key.public_key()

    def sign(self, message: bytes) -> bytes:
        """A signature over `message`."""
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            return self.key.sign(message, ec.ECDSA(hashes.SHA256()))
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(message, _pss() if self.pss else padding.PKCS1v15(), hashes.SHA256())
        return self.key.sign(message)


def check_public(key: object) -> PublicKey:
    """`key` itself if it is of a kind that signs images. Raises `MalformedError` (`key-malformed`)."""
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size in RSA_BITS:
        return key
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    raise MalformedError(
        "key-malformed", "the key is of a wrong kind", expected="EC P-256 or P-384, Ed25519, RSA of 2048 to 4096 bits"
    )


def check_private(key: object) -> PrivateKey:
    """`key` itself if it is of a kind that signs images. Raises `MalformedError` (`key-malformed`)."""
    if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        check_public(key.public_key())
        return key
    check_public(None)
    raise MalformedError("key-malformed", "the key is of a wrong kind")


def parse_public(pem: str | bytes) -> PublicKey:
    """The key of a PEM SubjectPublicKeyInfo of at most 16 KiB. Raises `MalformedError` (`key-malformed`)."""
    return check_public(read_public(pem))


def make_key(algorithm: str) -> PrivateKey:
    """A new key: `p256`, `p384`, `ed25519` or `rsa` (3072 bits). Raises `UsageError` (`key-algorithm`)."""
    if algorithm in ("p256", "p384"):
        return ec.generate_private_key(ec.SECP256R1() if algorithm == "p256" else ec.SECP384R1())
    if algorithm == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm == "rsa":
        return rsa.generate_private_key(65537, 3072)
    raise UsageError("key-algorithm", "no such kind of key", expected=", ".join(ALGORITHMS), found=algorithm)


def signature_holds(key: PublicKey, signature: bytes, message: bytes) -> bool:
    """Whether `signature` over `message` was made by `key`, with any of the key's algorithms."""
    if len(signature) > SIGNATURE_LIMIT:
        return False
    if isinstance(key, ec.EllipticCurvePublicKey):
        holds = _ecdsa_holds(key, signature, message, hashes.SHA256())
        return holds or (key.curve.name == _CURVES[1] and _ecdsa_holds(key, signature, message, hashes.SHA384()))
    if isinstance(key, rsa.RSAPublicKey):
        return any(_rsa_holds(key, signature, message, form) for form in (padding.PKCS1v15(), _pss()))
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def spki(key: PublicKey) -> bytes:
    """The key as DER SubjectPublicKeyInfo (RFC 5280 section 4.1)."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_pem(key: PublicKey) -> str:
    """The key as PEM SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def key_id(key: PublicKey) -> str:
    """Hexadecimal SHA-256 of the key's DER SubjectPublicKeyInfo."""
    return hashlib.sha256(spki(key)).hexdigest()


def fingerprint(key: PublicKey) -> str:
    """The key's fingerprint for people: `sha256:` and `key_id`."""
    return "sha256:" + key_id(key)


def describe(key: PublicKey) -> str:
    """The kind of key, for people."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return {"secp256r1": "ECDSA P-256", "secp384r1": "ECDSA P-384"}.get(key.curve.name, key.curve.name)
    return f"RSA {key.key_size}" if isinstance(key, rsa.RSAPublicKey) else "Ed25519"


def _pss() -> padding.PSS:
    """Salt as long as the digest, as Go's PSSSaltLengthEqualsHash and NIST FIPS 186-5 have it."""
    return padding.PSS(padding.MGF1(hashes.SHA256()), hashes.SHA256.digest_size)


def _ecdsa_holds(
    key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes, digest: hashes.SHA256 | hashes.SHA384
) -> bool:
    try:
        key.verify(signature, message, ec.ECDSA(digest))
    except InvalidSignature:
        return False
    return True


def _rsa_holds(key: rsa.RSAPublicKey, signature: bytes, message: bytes, form: padding.PKCS1v15 | padding.PSS) -> bool:
    try:
        key.verify(signature, message, form, hashes.SHA256())
    except InvalidSignature:
        return False
    return True
