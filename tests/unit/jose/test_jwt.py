from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt as oracle
from joserfc.jwk import ECKey, OctKey

from kokon.errors import KokonError, MalformedError, StaleError, UntrustedError
from kokon.jose.jwe import public_jwk, thumbprint
from kokon.jose.jwt import TOKEN_LIMIT, sign, signing_jwk, verify
from kokon.wire import b64url

KEY = ec.generate_private_key(ec.SECP256R1())
NOW = datetime(2026, 5, 1, tzinfo=UTC)
CLAIMS = {"exp": int(NOW.timestamp()) + 60, "sub": "a"}


def test_round_trip_and_oracle() -> None:
    token = sign(CLAIMS, KEY)
    assert verify(token, KEY.public_key(), NOW) == CLAIMS
    parsed = oracle.decode(token, ECKey.import_key(dict(signing_jwk(KEY.public_key()))), ["ES256"])
    assert parsed.claims == CLAIMS
    assert parsed.header["kid"] == thumbprint(public_jwk(KEY))
    assert parsed.header["typ"] == "JWT"


def test_expired() -> None:
    with pytest.raises(StaleError) as caught:
        verify(sign(CLAIMS, KEY), KEY.public_key(), NOW + timedelta(seconds=60))
    assert caught.value.code == "token-expired"


def test_foreign_altered_and_unsigned() -> None:
    token = sign(CLAIMS, KEY)
    head, body, signature = token.split(".")
    own = ec.generate_private_key(ec.SECP256R1())
    secret = OctKey.import_key(b"x" * 32)
    forged = [
        sign(CLAIMS, own),
        f"{head}.{b64url(json.dumps({**CLAIMS, 'sub': 'b'}).encode())}.{signature}",
        f"{b64url(json.dumps({'alg': 'none'}).encode())}.{body}.",
        oracle.encode({"alg": "HS256"}, CLAIMS, secret, ["HS256"]),
        f"{head}.{body}.{signature[:-4]}",
    ]
    for text in forged:
        with pytest.raises(UntrustedError) as caught:
            verify(text, KEY.public_key(), NOW)
        assert caught.value.code == "token-signature"


@pytest.mark.parametrize("token", ["", "a.b", "é.b.c", "a" * TOKEN_LIMIT + "..", sign({"sub": "a"}, KEY)])
def test_malformed(token: str) -> None:
    with pytest.raises(MalformedError) as caught:
        verify(token, KEY.public_key(), NOW)
    assert caught.value.code == "token-malformed"


@settings(max_examples=100, deadline=None)
@given(st.text("AZaz09-_.", max_size=80))
def test_property_hostile_tokens(token: str) -> None:
    with pytest.raises(KokonError):
        verify(token, KEY.public_key(), NOW)
