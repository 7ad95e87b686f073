"""Keys as people have them: PEM or DER (PKCS#8, PKCS#1, SEC1, SubjectPublicKeyInfo, a certificate) or JWK. Pure.

skopeo ignores SEC1 keys without a word (facts oci.md 1.7); here they work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kokon.errors import MalformedError
from kokon.jose.jwe import from_jwk
from kokon.jose.several import JweKey, jwe_key
from kokon.wire import Fields, parse_json, unb64url

if TYPE_CHECKING:
    from kokon.jose.jwe import PrivateKey

KEY_LIMIT = 64 << 10
_CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
_FORMS = "PEM, DER or JWK of an RSA key, or an EC key on P-256, P-384 or P-521"


def parse_public(data: bytes, algorithm: str | None = None) -> JweKey:
    """The public key of `data`, to be used with `algorithm` (default: its JWK's `alg`, else the usual one).

    Raises `MalformedError` (`layer-key-malformed`, `jwe-algorithm`, `key-unsupported`, those of `from_jwk`).
    """
    _bounded(data)
    if _is_json(data):
        document = _jwk(data)
        return jwe_key(from_jwk(document), algorithm or document.get("alg"))
    key: Any
    try:
        if data.startswith(b"-----BEGIN CERTIFICATE"):
            key = x509.load_pem_x509_certificate(data).public_key()
        elif data.lstrip().startswith(b"-----"):
            key = serialization.load_pem_public_key(data)
        else:
            key = serialization.load_der_public_key(data)
    except ValueError as error:
        raise _malformed("public", error) from error
    return jwe_key(_strong(key), algorithm)


def parse_private(data: bytes, password: bytes | None = None) -> PrivateKey:
    """The private key of `data`. Raises `MalformedError` (`layer-key-malformed`: also a wrong or missing password;
    `key-unsupported`)."""
    _bounded(data)
    if _is_json(data):
        return _private_jwk(_jwk(data))
    key: Any
    try:
        if data.lstrip().startswith(b"-----"):
            key = serialization.load_pem_private_key(data, password)
        else:
            key = serialization.load_der_private_key(data, password)
    except (ValueError, TypeError) as error:
        raise _malformed("private", error) from error
    if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        _strong(key.public_key())
        return key
    raise MalformedError("key-unsupported", "this kind of key is not supported", found=type(key).__name__)


def _private_jwk(document: dict[str, Any]) -> PrivateKey:
    fields = Fields(document, "JWK")
    for ignored in ("alg", "kid", "use"):
        fields.text(ignored, default=None)
    kty = fields.text("kty", limit=8)
    names = {"EC": "x y d", "RSA": "n e d p q dp dq qi"}.get(kty)
    if names is None:
        raise MalformedError("key-unsupported", "this kind of key is not supported", expected="EC or RSA", found=kty)
    curve = _CURVES.get(fields.text("crv", limit=16)) if kty == "EC" else None
    if kty == "EC" and curve is None:
        raise MalformedError("key-unsupported", "this elliptic curve is not supported", expected=" ".join(_CURVES))
    members = {
        name: int.from_bytes(unb64url(fields.text(name, limit=1400), what=f"JWK {name}", limit=1024), "big")
        for name in names.split()
    }
    fields.finish()
    try:
        if curve is not None:
            public = ec.EllipticCurvePublicNumbers(members["x"], members["y"], curve)
            return ec.EllipticCurvePrivateNumbers(members["d"], public).private_key()
        numbers = rsa.RSAPublicNumbers(members.pop("e"), members.pop("n"))
        p, q, d, dp, dq, qi = (members[name] for name in ("p", "q", "d", "dp", "dq", "qi"))
        key = rsa.RSAPrivateNumbers(p, q, d, dp, dq, qi, numbers).private_key()
    except ValueError as error:
        raise _malformed("private", error) from error
    _strong(key.public_key())
    return key


def _strong(key: Any) -> Any:
    if isinstance(key, rsa.RSAPublicKey) and not 2048 <= key.key_size <= 8192:
        raise MalformedError("key-unsupported", "the RSA key is too weak or unusual", expected="2048..8192 bits")
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise MalformedError("key-unsupported", "this kind of key is not supported", found=type(key).__name__)
    return key


def _jwk(data: bytes) -> dict[str, Any]:
    document = parse_json(data, limit=KEY_LIMIT, what="JWK")
    return dict(document)


def _is_json(data: bytes) -> bool:
    return data.lstrip()[:1] == b"{"


def _bounded(data: bytes) -> None:
    if len(data) > KEY_LIMIT:
        raise MalformedError("layer-key-malformed", "the key is too large", expected=f"<= {KEY_LIMIT} bytes")


def _malformed(kind: str, error: Exception) -> MalformedError:
    return MalformedError(
        "layer-key-malformed",
        f"not a {kind} key",
        expected=_FORMS,
        found=error.args[0] if error.args and isinstance(error.args[0], str) else type(error).__name__,
        hint="an encrypted key needs its password",
    )
