"""Attestation tokens: JSON Web Tokens (RFC 7519) signed with ES256, and nothing else.

For the server and for who checks its tokens; the guest treats a token as opaque text.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from kokon.errors import MalformedError, StaleError, UntrustedError
from kokon.jose.jwe import public_jwk, thumbprint
from kokon.wire import parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric import ec

TOKEN_LIMIT = 64 << 10
"""Longest token in bytes; ours are below 8 KiB."""


def signing_jwk(public: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """The public half of a token key as the JWK that goes into a token's header."""
    return public_jwk(public, algorithm="ES256")


def sign(claims: Mapping[str, Any], key: ec.EllipticCurvePrivateKey) -> str:
    """The compact ES256 token of `claims`; `kid` is the key's thumbprint, `jwk` the key itself."""
    import json

    jwk = signing_jwk(key.public_key())
    header = {"typ": "JWT", "alg": "ES256", "kid": thumbprint(jwk), "jwk": jwk}
    payload = json.dumps(claims, separators=(",", ":")).encode()
    return jws.serialize_compact(header, payload, _imported(key), ["ES256"])


def verify(token: str, key: ec.EllipticCurvePublicKey, now: datetime) -> dict[str, Any]:
    """The claims of a token that `key` signed and that is valid at `now` (aware).

    The key in the token's header is never looked at. Raises `MalformedError` (`token-malformed`), `UntrustedError`
    (`token-signature`), `StaleError` (`token-expired`).
    """
    if len(token) > TOKEN_LIMIT or not token.isascii() or token.count(".") != 2:
        raise MalformedError("token-malformed", "not a compact token")
    try:
        payload = jws.deserialize_compact(token.encode(), _imported(key), ["ES256"]).payload
    except (JoseError, ValueError, KeyError, TypeError) as error:
        raise UntrustedError(
            "token-signature", "the token is not signed by this server", found=type(error).__name__
        ) from error
    claims = parse_json(payload, limit=TOKEN_LIMIT, what="token")
    if not isinstance(claims, dict) or not isinstance(claims.get("exp"), int):
        raise MalformedError("token-malformed", "the token has no expiry")
    if now.timestamp() >= claims["exp"]:
        raise StaleError(
            "token-expired",
            "the token has expired",
            expected=f"before {datetime.fromtimestamp(claims['exp'], UTC).isoformat()}",
            found=now.isoformat(timespec="seconds"),
            hint="attest again",
        )
    return claims


def _imported(key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) -> ECKey:
    from cryptography.hazmat.primitives.asymmetric import ec as kinds
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    if isinstance(key, kinds.EllipticCurvePrivateKey):
        return ECKey.import_key(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return ECKey.import_key(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
