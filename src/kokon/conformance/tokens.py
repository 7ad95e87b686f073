"""Attestation tokens as the suite reads and forges them: JWS compact form (RFC 7515), ES256. Pure."""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kokon.conformance.case import Violation
from kokon.conformance.keys import point
from kokon.conformance.messages import b64url, unb64url
from kokon.errors import MalformedError
from kokon.wire import parse_json

TOKEN_LIMIT: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Token:
    """A token taken apart; nothing is verified."""

    text: str
    header: dict[str, Any]
    claims: dict[str, Any]
    signature: bytes

    @property
    def signed(self) -> bytes:
        """The bytes under the signature."""
        return self.text.rpartition(".")[0].encode()

    def verifies(self, jwk: Any) -> bool:
        """Whether the P-256 key `jwk` made the signature."""
        try:
            key = public_key(jwk)
        except (Violation, ValueError, KeyError, TypeError):
            return False
        if len(self.signature) != 64:
            return False
        r, s = int.from_bytes(self.signature[:32], "big"), int.from_bytes(self.signature[32:], "big")
        try:
            key.verify(encode_dss_signature(r, s), self.signed, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


def read(text: str) -> Token:
    """A compact token. Raises `Violation`."""
    parts = text.split(".")
    if len(parts) != 3 or len(text) > TOKEN_LIMIT:
        raise Violation(f"the token has {len(parts)} parts and {len(text)} characters, not 3 parts")
    header, claims = (_object(part, name) for part, name in zip(parts, ("header", "payload"), strict=False))
    return Token(text, header, claims, unb64url(parts[2], "the token's signature"))


def _object(part: str, name: str) -> dict[str, Any]:
    try:
        value = parse_json(unb64url(part, f"the token's {name}"), limit=TOKEN_LIMIT, what=name)
    except MalformedError as error:
        raise Violation(f"the token's {name} is not strict JSON") from error
    if not isinstance(value, dict):
        raise Violation(f"the token's {name} is not an object")
    return value


def public_key(jwk: Any) -> ec.EllipticCurvePublicKey:
    """The P-256 key of a JWK. Raises `ValueError`, `KeyError`, `TypeError`, `Violation`."""
    if jwk["kty"] != "EC" or jwk["crv"] != "P-256":
        raise ValueError("not a P-256 key")
    x, y = (int.from_bytes(unb64url(jwk[name], name), "big") for name in ("x", "y"))
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()


def public_pem(jwk: Any) -> bytes:
    """The key of a JWK as PEM; empty if it is none."""
    try:
        return public_key(jwk).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    except (Violation, ValueError, KeyError, TypeError):
        return b""


def dump(value: Any) -> bytes:
    """`value` as compact JSON, its members in their order."""
    return json.dumps(value, separators=(",", ":")).encode()


def _compact(header: dict[str, Any], claims: dict[str, Any]) -> str:
    return ".".join(b64url(dump(part)) for part in (header, claims))


def with_claims(token: Token, claims: dict[str, Any]) -> str:
    """The token with other claims under the old signature."""
    return f"{_compact(token.header, claims)}.{b64url(token.signature)}"


def unsigned(token: Token, algorithm: str = "none") -> str:
    """The token with `alg` none (or as spelled) and no signature."""
    return _compact({"typ": "JWT", "alg": algorithm}, token.claims) + "."


def stripped(token: Token) -> str:
    """The token without its signature."""
    return token.text.rpartition(".")[0] + "."


def by_stranger(token: Token, *, keep_kid: bool) -> str:
    """The same claims signed by a new key, which stands in the header; with the genuine `kid` if wanted."""
    key = ec.generate_private_key(ec.SECP256R1())
    jwk = {"kty": "EC", "crv": "P-256", "alg": "ES256", **point(key.public_key())}
    header = {"typ": "JWT", "alg": "ES256", "jwk": jwk}
    if keep_kid and "kid" in token.header:
        header["kid"] = token.header["kid"]
    signed = _compact(header, token.claims)
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{b64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def by_public_key(token: Token, secret: bytes) -> str:
    """The same claims with `alg` HS256 and the public key as the secret: RFC 8725 section 2.1."""
    kept: dict[str, Any] = {name: token.header[name] for name in ("kid", "jwk") if name in token.header}
    signed = _compact({"typ": "JWT", "alg": "HS256", **kept}, token.claims)
    return f"{signed}.{b64url(hmac.digest(secret, signed.encode(), 'sha256'))}"


def zero_signature(token: Token) -> str:
    """The token with r and s zero, which careless verifiers accept."""
    return f"{token.signed.decode()}.{b64url(bytes(64))}"


def tier(vector: dict[str, int]) -> str:
    """The status that a trustworthiness vector amounts to (EAR, section 3): its worst claim's."""
    worst = max((_rank(value) for value in vector.values()), default=0)
    return ("none", "affirming", "warning", "contraindicated")[worst]


def _rank(value: int) -> int:
    if -1 <= value <= 1:
        return 0
    if -32 <= value <= 31:
        return 1
    return 2 if -96 <= value <= 95 else 3
