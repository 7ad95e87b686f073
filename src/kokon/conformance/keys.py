"""The guest's keys: as JWK, and opening what was encrypted to them. Pure but for the making of keys.

JWE: RFC 7516 and 7518, flattened JSON. The protected header is held against the exact text that stock clients write
again when they compute the additional data.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from kokon.conformance.case import Violation
from kokon.conformance.messages import b64url, unb64url

CURVES: Final[dict[str, ec.EllipticCurve]] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
ECDH: Final = "ECDH-ES+A256KW"
OAEP: Final = "RSA-OAEP-256"
MEMBERS: Final = ("protected", "encrypted_key", "iv", "ciphertext", "tag")


@dataclass(frozen=True, slots=True)
class TeeKey:
    """A key of a guest: `kind` is the curve or "RSA"; `algorithm` stands in the JWK."""

    kind: str
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = field(repr=False)
    algorithm: str

    @property
    def jwk(self) -> dict[str, str]:
        """The public half, with the members that clients send."""
        if isinstance(self.private, rsa.RSAPrivateKey):
            numbers = self.private.public_key().public_numbers()
            return {"kty": "RSA", "alg": self.algorithm, "n": _number(numbers.n), "e": _number(numbers.e)}
        return {"kty": "EC", "crv": self.kind, "alg": self.algorithm, **point(self.private.public_key())}


class Public(Protocol):
    """What has the public half of a key."""

    @property
    def jwk(self) -> dict[str, str]:
        """As a JWK."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """A public half that may be any nonsense."""

    jwk: dict[str, str]


def make_key(kind: str = "P-256", algorithm: str | None = None, bits: int = 2048) -> TeeKey:
    """A new key: a curve's name or "RSA"."""
    if kind == "RSA":
        return TeeKey(kind, rsa.generate_private_key(65537, bits), algorithm or OAEP)
    return TeeKey(kind, ec.generate_private_key(CURVES[kind]), algorithm or ECDH)


def point(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """`x` and `y` as JWKs have them: full length."""
    size = (key.curve.key_size + 7) // 8
    numbers = key.public_numbers()
    return {"x": b64url(numbers.x.to_bytes(size, "big")), "y": b64url(numbers.y.to_bytes(size, "big"))}


def _number(value: int) -> str:
    return b64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def check_members(message: Any) -> None:
    """The answer must have exactly the five members, with sizes that belong to AES-256-GCM. Raises `Violation`."""
    if not isinstance(message, dict) or set(message) != set(MEMBERS):
        names = sorted(message) if isinstance(message, dict) else type(message).__name__
        raise Violation(f"members {names}, not {' '.join(MEMBERS)}")
    for name, size in (("iv", 12), ("tag", 16), ("ciphertext", None), ("encrypted_key", None), ("protected", None)):
        data = unb64url(message[name], name)
        if size is not None and len(data) != size:
            raise Violation(f"{name} has {len(data)} bytes, not {size}")


def check_header(message: dict[str, Any], key: TeeKey) -> None:
    """The protected header must be the text that clients write again: compact, in this order, nothing else."""
    text = unb64url(message["protected"], "protected").decode("utf-8", "replace")
    try:
        header = json.loads(text)
        epk = header.get("epk", {})
        expected: dict[str, Any] = {"alg": key.algorithm, "enc": "A256GCM"}
        if key.kind in CURVES:
            expected["epk"] = {"crv": key.kind, "kty": "EC", "x": epk["x"], "y": epk["y"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Violation("the protected header has no ephemeral key, or is not an object") from error
    if json.dumps(expected, separators=(",", ":")) != text:
        raise Violation(f"the protected header differs from what clients write again: {_shape(header)}")


def _shape(value: Any) -> str:
    """The names of an object's members in their order, as {alg,enc,epk{crv,kty,x,y}}."""
    if not isinstance(value, dict):
        return ""
    return "{" + ",".join(str(name)[:20] + _shape(member) for name, member in list(value.items())[:12]) + "}"


def unlock(message: dict[str, Any], key: TeeKey) -> bytes:
    """What was encrypted to `key`. Raises `Violation`."""
    parts = {name: unb64url(message.get(name), name) for name in MEMBERS}
    try:
        content_key = _unwrap(json.loads(parts["protected"]), parts["encrypted_key"], key)
        additional = message["protected"].encode("ascii")
        return AESGCM(content_key).decrypt(parts["iv"], parts["ciphertext"] + parts["tag"], additional)
    except (InvalidTag, InvalidUnwrap, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Violation(f"the answer does not open with the attested key ({type(error).__name__})") from error


def _unwrap(header: dict[str, Any], wrapped: bytes, key: TeeKey) -> bytes:
    if isinstance(key.private, rsa.RSAPrivateKey):
        sha = hashes.SHA256()
        return key.private.decrypt(wrapped, padding.OAEP(padding.MGF1(sha), sha, None))
    x, y = (int.from_bytes(unb64url(header["epk"][name], f"epk {name}"), "big") for name in ("x", "y"))
    ephemeral = ec.EllipticCurvePublicNumbers(x, y, CURVES[key.kind]).public_key()
    return aes_key_unwrap(_concat_kdf(key.private.exchange(ec.ECDH(), ephemeral)), wrapped)


def _concat_kdf(agreed: bytes) -> bytes:
    """RFC 7518 section 4.6.2 with empty party information and 256 bits."""
    name = ECDH.encode()
    other = len(name).to_bytes(4, "big") + name + bytes(4) + bytes(4) + (256).to_bytes(4, "big")
    return hashlib.sha256(b"\0\0\0\1" + agreed + other).digest()
