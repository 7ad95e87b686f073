"""JSON Web Encryption (RFC 7516) for secrets that travel to one key: an enclave's, an owner's.

Writes the flattened form that the key broker protocol 0.4.0 uses; reads flattened, general and compact. Content is
always AES-256-GCM. Key agreement is ECDH-ES+A256KW (RFC 7518 section 4.6) on P-256, P-384 and P-521; for RSA it is
RSA-OAEP-256, and RSA-OAEP is read because encrypted OCI images use it. RSA1_5 is refused: it invites padding oracles.

Runs in the guest too: only the standard library and cryptography, RSA imported when an RSA key shows up.
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from kokon.errors import MalformedError, UntrustedError
from kokon.wire import Fields, b64url, parse_json, unb64url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    PublicKey = ec.EllipticCurvePublicKey | RSAPublicKey
    PrivateKey = ec.EllipticCurvePrivateKey | RSAPrivateKey

ECDH = "ECDH-ES+A256KW"
RSA_SHA256 = "RSA-OAEP-256"
RSA_SHA1 = "RSA-OAEP"
CONTENT = "A256GCM"
CONTENT_KEY_SIZE = 32

PLAINTEXT_LIMIT = 1 << 20
"""Largest plaintext in bytes, the same as the server's bound for one resource."""
JWE_LIMIT = 2 << 20
RECIPIENTS = 32

_CURVES: dict[str, tuple[ec.EllipticCurve, int]] = {
    "P-256": (ec.SECP256R1(), 32),
    "P-384": (ec.SECP384R1(), 48),
    "P-521": (ec.SECP521R1(), 66),
}
_NAMES = {curve.name: name for name, (curve, _) in _CURVES.items()}


def public_jwk(key: PublicKey | PrivateKey, *, algorithm: str | None = None) -> dict[str, str]:
    """The public part of `key` as a JWK (RFC 7517) with exactly the members that the key broker protocol hashes.

    EC: kty, crv, alg, x, y. RSA: kty, alg, n, e. `algorithm` replaces the usual `alg`.
    Raises `MalformedError` (`key-unsupported`).
    """
    public = key.public_key() if hasattr(key, "public_key") else key
    if isinstance(public, ec.EllipticCurvePublicKey):
        name, x, y = _coordinates(public)
        return {"kty": "EC", "crv": name, "alg": algorithm or ECDH, "x": x, "y": y}
    numbers = _rsa_public(public).public_numbers()
    return {
        "kty": "RSA",
        "alg": algorithm or RSA_SHA256,
        "n": b64url(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")),
        "e": b64url(numbers.e.to_bytes((numbers.e.bit_length() + 7) // 8, "big")),
    }


def from_jwk(jwk: Mapping[str, Any]) -> PublicKey:
    """The public key of a JWK; coordinates must have the curve's full length and lie on the curve.

    `alg`, if there, must be one that this module encrypts with; `kid` and `use` are allowed and ignored.
    Raises `MalformedError` (`jwk-malformed`, `jwe-algorithm`, `key-unsupported`, and those of `kokon.wire`).
    """
    fields = Fields(jwk, "JWK")
    kty = fields.text("kty", limit=8)
    fields.text("kid", default=None)
    fields.text("use", default=None)
    algorithm = fields.text("alg", default=None, limit=32)
    if kty == "EC":
        _accept(algorithm, ECDH)
        return _ec_from(fields)
    if kty == "RSA":
        _accept(algorithm, RSA_SHA256, RSA_SHA1)
        return _rsa_from(fields)
    raise MalformedError("key-unsupported", "this kind of key is not supported", expected="EC or RSA", found=kty)


def thumbprint(jwk: Mapping[str, Any]) -> str:
    """JWK SHA-256 thumbprint (RFC 7638), base64url without padding. `jwk` must come from `public_jwk`."""
    names = ("crv", "kty", "x", "y") if jwk["kty"] == "EC" else ("e", "kty", "n")
    text = "{" + ",".join(f'"{name}":"{jwk[name]}"' for name in names) + "}"
    return b64url(hashlib.sha256(text.encode()).digest())


def encrypt_to(
    recipient: PublicKey | Mapping[str, Any], plaintext: bytes, *, algorithm: str | None = None
) -> dict[str, str]:
    """`plaintext` as a flattened JWE that only the holder of `recipient`'s private key can open.

    The protected header has exactly the members and the order that stock key broker clients re-serialise:
    alg, enc, epk with crv, kty, x, y. `recipient` is a public key or its JWK, whose `alg` is honoured.
    Raises `MalformedError` (`jwe-too-large`, `jwe-algorithm`, `key-unsupported`, and those of `from_jwk`).
    """
    if isinstance(recipient, ec.EllipticCurvePublicKey):
        key: PublicKey = recipient
    elif hasattr(recipient, "public_numbers"):
        key = _rsa_public(recipient)
    else:
        key = from_jwk(recipient)
        algorithm = algorithm or recipient.get("alg")
    content_key, iv = os.urandom(32), os.urandom(12)
    if isinstance(key, ec.EllipticCurvePublicKey):
        _accept(algorithm, ECDH)
        return seal_ec(key, plaintext, ec.generate_private_key(key.curve), content_key, iv)
    _accept(algorithm, RSA_SHA256, RSA_SHA1)
    algorithm = algorithm or RSA_SHA256
    protected = _protected({"alg": algorithm, "enc": CONTENT})
    return _assemble(
        protected, key.encrypt(content_key, _oaep(algorithm)), iv, _content(protected, plaintext, content_key, iv)
    )


def seal_ec(
    recipient: ec.EllipticCurvePublicKey,
    plaintext: bytes,
    ephemeral: ec.EllipticCurvePrivateKey,
    content_key: bytes,
    iv: bytes,
) -> dict[str, str]:
    """The deterministic part of `encrypt_to` for EC keys. `ephemeral`, `content_key`, `iv`: fresh for each call."""
    agreed = ephemeral.exchange(ec.ECDH(), recipient)
    wrapped = aes_key_wrap(_derive(agreed, b"", b""), content_key)
    name, x, y = _coordinates(ephemeral.public_key())
    # Nothing in these texts needs escaping.
    epk = f'{{"crv":"{name}","kty":"EC","x":"{x}","y":"{y}"}}'
    protected = b64url(f'{{"alg":"{ECDH}","enc":"{CONTENT}","epk":{epk}}}'.encode())
    return _assemble(protected, wrapped, iv, _content(protected, plaintext, content_key, iv))


def decrypt(message: Mapping[str, Any] | str | bytes, private_key: PrivateKey) -> bytes:
    """The plaintext of a JWE: an object in flattened or general form, its JSON text, or the compact form.

    Of several recipients the one that fits `private_key` is used. Raises `MalformedError` (`jwe-malformed`,
    `jwe-too-large`, `jwe-algorithm`, and those of `kokon.wire`) and `UntrustedError` (`jwe-not-opened`: made for
    another key, or altered; the two cannot be told apart).
    """
    protected, recipients, iv, ciphertext, tag = _read(message)
    shared = _header(protected)
    refused: MalformedError | None = None
    for own, wrapped in recipients:
        if set(own) & set(shared):
            raise MalformedError("jwe-malformed", "a header member is both protected and not")
        try:
            content_key = _unwrap({**shared, **own}, wrapped, private_key)
        except MalformedError as error:
            refused = refused or error
            continue
        if len(content_key) != CONTENT_KEY_SIZE:  # A256GCM and nothing weaker, whatever was wrapped
            continue
        try:
            return AESGCM(content_key).decrypt(iv, ciphertext + tag, protected.encode("ascii"))
        except InvalidTag:
            continue
    if refused is not None:
        raise refused
    raise UntrustedError(
        "jwe-not-opened",
        "the encrypted message does not open with this key",
        hint="it was made for another key, or was altered on its way",
    )


def _accept(algorithm: str | None, *allowed: str) -> None:
    if algorithm is not None and algorithm not in allowed:
        raise MalformedError(
            "jwe-algorithm",
            "this key encryption algorithm is not accepted",
            expected=" or ".join(allowed),
            found=algorithm,
        )


def _coordinates(public: ec.EllipticCurvePublicKey) -> tuple[str, str, str]:
    """Curve name, x and y of a key as a JWK has them."""
    name = _NAMES.get(public.curve.name)
    if name is None:
        raise MalformedError("key-unsupported", "this elliptic curve is not supported", found=public.curve.name)
    point = public.public_bytes(*_point_format())
    middle = 1 + _CURVES[name][1]
    return name, b64url(point[1:middle]), b64url(point[middle:])


@lru_cache(maxsize=1)
def _point_format() -> tuple[Encoding, PublicFormat]:
    """An uncompressed point (SEC 1, 2.3.3). A slow import, which a guest without a key broker need not wait for."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return Encoding.X962, PublicFormat.UncompressedPoint


def _ec_from(fields: Fields) -> ec.EllipticCurvePublicKey:
    name = fields.text("crv", limit=16)
    if name not in _CURVES:
        raise MalformedError(
            "key-unsupported", "this elliptic curve is not supported", expected=" ".join(_CURVES), found=name
        )
    size = _CURVES[name][1]
    x, y = (unb64url(fields.text(member, limit=100), what=f"JWK {member}", size=size) for member in ("x", "y"))
    fields.finish()
    return _point(name, x, y)


@lru_cache(maxsize=1024)
def _point(name: str, x: bytes, y: bytes) -> ec.EllipticCurvePublicKey:
    """The key at that point; a key broker reads each guest's several times."""
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[name][0], b"\x04" + x + y)
    except ValueError as error:
        raise MalformedError("jwk-malformed", "the JWK's point is not on its curve", found=name) from error


def _rsa_from(fields: Fields) -> RSAPublicKey:
    from cryptography.hazmat.primitives.asymmetric import rsa

    n, e = (
        int.from_bytes(unb64url(fields.text(member, limit=1400), what=f"JWK {member}", limit=1024), "big")
        for member in ("n", "e")
    )
    fields.finish()
    if not 2048 <= n.bit_length() <= 8192 or n % 2 == 0 or e not in (3, 65537):
        raise MalformedError(
            "key-unsupported",
            "the RSA key is too weak or unusual",
            expected="2048..8192 bits, e = 65537",
            found=n.bit_length(),
        )
    return rsa.RSAPublicNumbers(e, n).public_key()


def _rsa_public(key: object) -> RSAPublicKey:
    from cryptography.hazmat.primitives.asymmetric import rsa

    if not isinstance(key, rsa.RSAPublicKey):
        raise MalformedError("key-unsupported", "this kind of key is not supported", found=type(key).__name__)
    return key


def _oaep(algorithm: str) -> Any:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    # RSA-OAEP is SHA-1 by definition (RFC 7518 section 4.3); OAEP does not rest on collision resistance.
    digest = hashes.SHA256() if algorithm == RSA_SHA256 else hashes.SHA1()  # noqa: S303
    return padding.OAEP(mgf=padding.MGF1(algorithm=digest), algorithm=digest, label=None)


def _derive(agreed: bytes, party_u: bytes, party_v: bytes) -> bytes:
    """Concat KDF of RFC 7518 section 4.6.2: one SHA-256 round gives the 256 bits of the wrapping key."""
    parts = (ECDH.encode(), party_u, party_v)
    info = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hashlib.sha256((1).to_bytes(4, "big") + agreed + info + (256).to_bytes(4, "big")).digest()


def _protected(header: dict[str, Any]) -> str:
    import json

    return b64url(json.dumps(header, separators=(",", ":")).encode())


def _content(protected: str, plaintext: bytes, content_key: bytes, iv: bytes) -> bytes:
    if len(plaintext) > PLAINTEXT_LIMIT:
        raise MalformedError(
            "jwe-too-large", "too much to encrypt", expected=f"<= {PLAINTEXT_LIMIT} bytes", found=len(plaintext)
        )
    return AESGCM(content_key).encrypt(iv, plaintext, protected.encode("ascii"))


def _assemble(protected: str, wrapped: bytes, iv: bytes, sealed: bytes) -> dict[str, str]:
    return {
        "protected": protected,
        "encrypted_key": b64url(wrapped),
        "iv": b64url(iv),
        "ciphertext": b64url(sealed[:-16]),
        "tag": b64url(sealed[-16:]),
    }


_Parts = tuple[str, list[tuple[dict[str, Any], bytes]], bytes, bytes, bytes]


def _read(message: Mapping[str, Any] | str | bytes) -> _Parts:
    if isinstance(message, str):
        message = message.encode()
    if isinstance(message, bytes):
        message = _from_text(message)
    fields = Fields(message, "JWE")
    protected = fields.text("protected", limit=8192)
    iv = unb64url(fields.text("iv", limit=32), what="JWE iv", size=12)
    ciphertext = unb64url(fields.text("ciphertext", limit=JWE_LIMIT), what="JWE ciphertext", limit=PLAINTEXT_LIMIT)
    tag = unb64url(fields.text("tag", limit=32), what="JWE tag", size=16)
    if "recipients" in message:
        listed = fields.array("recipients", limit=RECIPIENTS)
        recipients = [_finished(Fields(one, "JWE recipient")) for one in listed]
        # go-jose, and so skopeo, writes a stray top-level key beside the recipients (facts/oci.md 1.5).
        fields.text("encrypted_key", default=None)
    else:
        recipients = [_recipient(fields)]
    fields.finish()
    return protected, recipients, iv, ciphertext, tag


def _from_text(data: bytes) -> Mapping[str, Any]:
    if len(data) > JWE_LIMIT:
        raise MalformedError("jwe-too-large", "the JWE is too large", expected=f"<= {JWE_LIMIT} bytes", found=len(data))
    if data.lstrip()[:1] == b"{":
        return parse_json(data, limit=JWE_LIMIT, what="JWE")  # type: ignore[no-any-return]
    parts = data.decode("latin-1").split(".")
    if len(parts) != 5:
        raise MalformedError("jwe-malformed", "not a compact JWE", expected="5 parts", found=len(parts))
    return dict(zip(("protected", "encrypted_key", "iv", "ciphertext", "tag"), parts, strict=True))


def _recipient(fields: Fields) -> tuple[dict[str, Any], bytes]:
    header = fields.table("header", default={})
    return header, unb64url(fields.text("encrypted_key", limit=2048), what="JWE encrypted key")


def _finished(fields: Fields) -> tuple[dict[str, Any], bytes]:
    result = _recipient(fields)
    fields.finish()
    return result


def _header(protected: str) -> dict[str, Any]:
    header = parse_json(unb64url(protected, what="JWE header", limit=8192), limit=8192, what="JWE header")
    if not isinstance(header, dict):
        raise MalformedError("jwe-malformed", "the JWE header is not an object")
    return header


def _unwrap(header: dict[str, Any], wrapped: bytes, private_key: PrivateKey) -> bytes:
    """The content key, or random bytes where it does not unwrap, so that every wrong key fails at one place."""
    fields = Fields(header, "JWE header")
    algorithm = fields.text("alg", limit=32)
    if fields.text("enc", limit=32) != CONTENT:
        raise MalformedError("jwe-algorithm", "this content encryption is not accepted", expected=CONTENT)
    for ignored in ("kid", "typ", "cty"):
        fields.text(ignored, default=None)
    if isinstance(private_key, ec.EllipticCurvePrivateKey):
        _accept(algorithm, ECDH)
        return _unwrap_ec(fields, wrapped, private_key)
    _accept(algorithm, RSA_SHA256, RSA_SHA1)
    fields.finish()
    try:
        return private_key.decrypt(wrapped, _oaep(algorithm))
    except ValueError:
        return os.urandom(32)


def _unwrap_ec(fields: Fields, wrapped: bytes, private_key: ec.EllipticCurvePrivateKey) -> bytes:
    party_u, party_v = (
        unb64url(fields.text(name, default="", limit=512), what=f"JWE {name}") for name in ("apu", "apv")
    )
    epk = Fields(fields.table("epk"), "JWE epk")
    fields.finish()
    if epk.text("kty", limit=8) != "EC":
        raise MalformedError("jwe-malformed", "the ephemeral key is not an EC key")
    ephemeral = _ec_from(epk)
    if ephemeral.curve.name != private_key.curve.name:
        return os.urandom(32)
    try:
        return aes_key_unwrap(_derive(private_key.exchange(ec.ECDH(), ephemeral), party_u, party_v), wrapped)
    except (InvalidUnwrap, ValueError):
        return os.urandom(32)
