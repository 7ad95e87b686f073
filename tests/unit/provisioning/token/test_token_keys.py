"""Token keys: rotation, the record, the public set; and tokens against joserfc as oracle."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt as oracle
from joserfc.jwk import ECKey, KeySet

from kokon.errors import KokonError, MalformedError
from kokon.provisioning.token.keys import OLDER, TokenKeys, decode_keys, generate_keys
from kokon.provisioning.token.sign import sign
from kokon.wire import b64, unb64url

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
FIRST = generate_keys(NOW)
SECOND = FIRST.rotate(NOW + HOUR, HOUR)
CLAIMS = {"iss": "kokon", "text": '\u00e9\U0001f600"\\', "number": 1, "list": [True, None, {"a": {}}]}


def same(one: TokenKeys, other: TokenKeys) -> bool:
    def shown(keys: TokenKeys) -> Any:
        return keys.private.private_numbers(), keys.created, keys.jwks(NOW), [key.until for key in keys.older]

    return bool(shown(one) == shown(other)) and one.header == other.header


def spki(key: Any) -> str:
    return b64(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def pkcs8(key: Any) -> str:
    return b64(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def test_rotation_keeps_the_old_key_for_a_while() -> None:
    assert SECOND.current.kid != FIRST.current.kid
    assert [(key.kid, key.until) for key in SECOND.older] == [(FIRST.current.kid, NOW + 2 * HOUR)]
    assert SECOND.created == NOW + HOUR
    assert [key["kid"] for key in SECOND.jwks(NOW + HOUR)["keys"]] == [SECOND.current.kid, FIRST.current.kid]
    assert [key["kid"] for key in SECOND.jwks(NOW + 2 * HOUR)["keys"]] == [SECOND.current.kid]
    third = SECOND.rotate(NOW + 2 * HOUR, HOUR)
    assert [key.kid for key in third.older] == [SECOND.current.kid]
    assert FIRST.older == ()


def test_rotations_in_a_row_are_bounded() -> None:
    keys = FIRST
    for _ in range(OLDER + 3):
        keys = keys.rotate(NOW, HOUR)
    assert len(keys.older) == OLDER
    assert same(decode_keys(keys.encode()), keys)
    assert keys.older[0].kid not in {key.kid for key in keys.without(keys.older[0].kid).older}


def test_a_key_can_be_taken_away() -> None:
    assert SECOND.without(FIRST.current.kid).older == ()
    assert SECOND.without("other").older == SECOND.older
    assert SECOND.without(SECOND.current.kid).current == SECOND.current


@pytest.mark.parametrize("keys", [FIRST, SECOND])
def test_the_record_comes_back(keys: TokenKeys) -> None:
    assert same(decode_keys(keys.encode()), keys)


def test_nothing_secret_shows() -> None:
    scalar = FIRST.private.private_numbers().private_value
    shown = repr(SECOND) + repr(FIRST) + json.dumps(SECOND.jwks(NOW))
    assert f"{scalar:x}" not in shown
    assert str(scalar) not in shown
    assert '"d"' not in shown
    assert "private" not in shown.lower()


def test_the_set_is_a_jwk_set() -> None:
    found = KeySet.import_key_set(SECOND.jwks(NOW))  # type: ignore[arg-type]
    assert [key.kid for key in found.keys] == [SECOND.current.kid, FIRST.current.kid]
    for key, shown in zip(found.keys, SECOND.jwks(NOW)["keys"], strict=True):
        assert key.thumbprint() == shown["kid"]
        assert {name: shown[name] for name in ("kty", "crv", "alg", "use")} == {
            "kty": "EC",
            "crv": "P-256",
            "alg": "ES256",
            "use": "sig",
        }
        assert set(shown) == {"kty", "crv", "alg", "use", "kid", "x", "y"}


def record(**changes: Any) -> bytes:
    return json.dumps({**json.loads(SECOND.encode()), **changes}).encode()


OTHER_CURVE = ec.generate_private_key(ec.SECP384R1())
OTHER_KIND = ed25519.Ed25519PrivateKey.generate()
OLD = json.loads(SECOND.encode())["older"][0]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"version": 2}, "field-range"),
        ({"more": 1}, "field-unknown"),
        ({"key": "AAAA"}, "token-keys-malformed"),
        ({"key": "A"}, "base64-malformed"),
        ({"key": pkcs8(OTHER_CURVE)}, "token-keys-malformed"),
        ({"key": pkcs8(OTHER_KIND)}, "token-keys-malformed"),
        ({"key": spki(FIRST.private)}, "token-keys-malformed"),
        ({"created": "yesterday"}, "token-keys-malformed"),
        ({"created": "2026-11-27T12:00:00"}, "token-keys-malformed"),
        ({"older": [{**OLD, "until": None}]}, "field-type"),
        ({"older": [{**OLD, "until": "never"}]}, "token-keys-malformed"),
        ({"older": [{**OLD, "kid": "mine"}]}, "field-unknown"),
        ({"older": [{**OLD, "key": spki(OTHER_CURVE)}]}, "token-keys-malformed"),
        ({"older": [{**OLD, "key": spki(OTHER_KIND)}]}, "token-keys-malformed"),
        ({"older": [OLD, OLD]}, "token-keys-malformed"),
        ({"older": [{**OLD, "key": spki(SECOND.private)}]}, "token-keys-malformed"),
        ({"older": [OLD] * (OLDER + 1)}, "field-too-long"),
    ],
)
def test_records_that_are_refused(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        decode_keys(record(**changes))
    assert caught.value.code == code


@given(st.integers(0, len(FIRST.encode()) - 1), st.integers(0, 255))
@settings(max_examples=80)
def test_a_damaged_record_ends_in_our_errors(place: int, byte: int) -> None:
    damaged = bytearray(FIRST.encode())
    damaged[place] = byte
    try:
        keys = decode_keys(bytes(damaged))
    except KokonError:
        return
    assert keys.verifying[keys.header[:-1]].kid == keys.current.kid


# -- tokens against the oracle -------------------------------------------------------------------------------------


def public(keys: TokenKeys) -> ECKey:
    return ECKey.import_key(keys.jwks(NOW)["keys"][0])


def test_the_oracle_reads_our_tokens() -> None:
    for _ in range(20):  # r and s with leading zeros now and then
        token = oracle.decode(sign(CLAIMS, FIRST), public(FIRST), ["ES256"])
        assert token.claims == CLAIMS
        assert token.header == {"alg": "ES256", "kid": FIRST.current.kid, "typ": "JWT"}


def test_the_header_is_always_the_same() -> None:
    header, _, _ = sign(CLAIMS, FIRST).partition(".")
    assert header == FIRST.header[:-1]
    assert unb64url(header, what="it") == (f'{{"alg":"ES256","kid":"{FIRST.current.kid}","typ":"JWT"}}'.encode())


@given(st.integers(1, 2**256 - 1), st.integers(1, 2**256 - 1))
@settings(max_examples=30)
def test_signatures_have_64_bytes(r: int, s: int) -> None:
    from dataclasses import replace

    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    class Fixed:
        def sign(self, data: bytes, algorithm: Any) -> bytes:
            return encode_dss_signature(r, s)

    token = sign({}, replace(FIRST, private=Fixed()))  # type: ignore[arg-type]
    raw = unb64url(token.rpartition(".")[2], what="it", size=64)
    assert (int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")) == (r, s)
