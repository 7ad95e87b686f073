"""Makes tokens: JWS in compact form with ES256 (RFC 7515, RFC 7518 section 3.4), and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from kokon.provisioning.token.keys import TokenKeys
from kokon.wire import b64url

SCALAR: Final = 32
"""Bytes of r and of s."""
ES256: Final = ec.ECDSA(SHA256())


def sign(claims: Mapping[str, Any], keys: TokenKeys) -> str:
    """The token of `claims` by the key that signs. Its header names the key and holds no copy of it."""
    signed = keys.header + b64url(msgspec.json.encode(claims))
    r, s = decode_dss_signature(keys.private.sign(signed.encode("ascii"), ES256))
    return f"{signed}.{b64url(r.to_bytes(SCALAR, 'big') + s.to_bytes(SCALAR, 'big'))}"
