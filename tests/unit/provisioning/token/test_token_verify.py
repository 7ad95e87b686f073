"""Our own tokens and nobody else's, each check every time, and memory that never makes one outlive its key."""

import hashlib
import hmac
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws as oracle
from joserfc.jwk import ECKey

from kokon.errors import DeniedError, KokonError, MalformedError, StaleError, UntrustedError
from kokon.jose.jwe import public_jwk
from kokon.provisioning.token.keys import TokenKeys, generate_keys
from kokon.provisioning.token.sign import sign
from kokon.provisioning.token.verify import SKEW, TOKEN_LIMIT, TokenVerifier
from kokon.wire import b64url, unb64url

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
KEYS = generate_keys(NOW)
OTHER = generate_keys(NOW)
BASE = int(NOW.timestamp())
CLAIMS = {"iss": "kokon", "aud": "default", "iat": BASE, "exp": BASE + 1800, "jti": "0" * 32, "value": 7}
TOKEN = sign(CLAIMS, KEYS)


def verifier(keys: TokenKeys = KEYS, **options: Any) -> TokenVerifier[Any]:
    return TokenVerifier(keys, "kokon", lambda claims: claims["value"], **options)


def refusal(token: str, now: datetime = NOW, audience: str = "default", by: TokenVerifier[Any] | None = None) -> str:
    with pytest.raises(KokonError) as caught:
        (verifier() if by is None else by).verify(token, audience, now)
    return caught.value.code


def made(header: Any, claims: Any = CLAIMS, keys: TokenKeys = KEYS) -> str:
    """A token with any header, signed by `keys` all the same."""
    from dataclasses import replace

    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return sign(claims, replace(keys, header=b64url(text) + "."))


def test_a_token_is_read_and_remembered() -> None:
    seen = []
    by: TokenVerifier[Any] = TokenVerifier(KEYS, "kokon", lambda claims: seen.append(claims) or claims["value"])
    assert [by.verify(TOKEN, "default", NOW) for _ in range(3)] == [7, 7, 7]
    assert seen == [CLAIMS]
    assert len(by) == 1


def test_the_oracles_tokens_are_ours_if_the_key_and_header_are() -> None:
    pem = KEYS.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    header = {"alg": "ES256", "kid": KEYS.current.kid, "typ": "JWT"}
    token = oracle.serialize_compact(header, json.dumps(CLAIMS), ECKey.import_key(pem), ["ES256"])
    assert verifier().verify(token, "default", NOW) == 7


def test_time_is_checked_each_time() -> None:
    by = verifier()
    last = NOW + timedelta(seconds=1800) - timedelta(microseconds=1)
    assert by.verify(TOKEN, "default", last) == 7
    with pytest.raises(StaleError) as caught:
        by.verify(TOKEN, "default", NOW + timedelta(seconds=1800))
    assert caught.value.code == "token-expired"
    assert by.verify(TOKEN, "default", NOW - timedelta(seconds=SKEW)) == 7
    early = NOW - timedelta(seconds=SKEW + 1)
    assert refusal(TOKEN, early, by=by) == refusal(TOKEN, early) == "token-early"
    assert refusal(TOKEN, NOW + 2 * HOUR) == "token-expired"


def test_the_audience_is_checked_each_time() -> None:
    by = verifier()
    with pytest.raises(DeniedError) as caught:
        by.verify(TOKEN, "other", NOW)
    assert caught.value.code == "token-audience"
    assert by.verify(TOKEN, "default", NOW) == 7
    assert refusal(TOKEN, audience="other", by=by) == "token-audience"
    portable = {name: value for name, value in CLAIMS.items() if name != "aud"} | {"kokon.audience": "default"}
    assert verifier().verify(sign(portable, KEYS), "default", NOW) == 7
    assert refusal(sign(portable, KEYS), audience="other") == "token-audience"
    for wrong in (None, ["default"], 1, "", "Default"):
        assert refusal(sign({**CLAIMS, "aud": wrong}, KEYS)) == "token-audience"


def test_rotation() -> None:
    """The old key's tokens are good for the overlap, and not a moment longer, remembered or not."""
    by = verifier()
    assert by.verify(TOKEN, "default", NOW) == 7
    rotated = KEYS.rotate(NOW, timedelta(minutes=10))
    by.replace_keys(rotated)
    assert by.verify(sign(CLAIMS, rotated), "default", NOW) == 7
    assert by.verify(TOKEN, "default", NOW + timedelta(minutes=9)) == 7
    for one in (by, verifier(rotated)):
        assert refusal(TOKEN, NOW + timedelta(minutes=10), by=one) == "token-key-unknown"


def test_a_key_that_was_taken_away_takes_its_tokens_along() -> None:
    by = verifier(KEYS.rotate(NOW, HOUR))
    assert by.verify(TOKEN, "default", NOW) == 7
    by.replace_keys(KEYS.rotate(NOW, HOUR).without(KEYS.current.kid))
    assert refusal(TOKEN, by=by) == "token-key-unknown"
    by.replace_keys(OTHER)
    assert refusal(TOKEN, by=by) == "token-key-unknown"


def test_another_replicas_new_key_is_unknown_until_it_is_read() -> None:
    rotated = KEYS.rotate(NOW, HOUR)
    by, token = verifier(), sign(CLAIMS, rotated)
    with pytest.raises(UntrustedError) as caught:
        by.verify(token, "default", NOW)
    assert caught.value.code == "token-key-unknown"
    by.replace_keys(rotated)
    assert by.verify(token, "default", NOW) == 7


JWK = public_jwk(OTHER.private.public_key(), algorithm="ES256")
KID = KEYS.current.kid


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "ES256", "kid": OTHER.current.kid, "typ": "JWT"},
        {"alg": "ES256", "kid": KID, "typ": "JWT", "jwk": JWK},
        {"alg": "ES256", "kid": KID, "typ": "JWT", "x5c": ["AAAA"]},
        {"alg": "ES256", "kid": KID, "typ": "JWT", "jku": "https://example.com/jwks.json"},
        {"alg": "ES256", "kid": KID, "typ": "JWT", "crit": ["b64"], "b64": False},
        {"alg": "ES256", "typ": "JWT", "jwk": JWK},
        {"alg": "ES256", "kid": KID},
        {"alg": "ES384", "kid": KID, "typ": "JWT"},
        {"alg": "none", "kid": KID, "typ": "JWT"},
        {"alg": "HS256", "kid": KID, "typ": "JWT"},
        {"kid": KID, "alg": "ES256", "typ": "JWT"},
        b'{"alg": "ES256", "kid": "x"}',
    ],
)
@pytest.mark.parametrize("keys", [KEYS, OTHER])
def test_no_header_but_our_own(header: Any, keys: TokenKeys) -> None:
    """A header may name what it likes, a key of its own included: it is never read."""
    assert refusal(made(header, keys=keys)) == "token-key-unknown"


def test_another_keys_signature_under_our_header() -> None:
    header = {"alg": "ES256", "kid": KID, "typ": "JWT"}
    with pytest.raises(UntrustedError) as caught:
        verifier().verify(made(header, keys=OTHER), "default", NOW)
    assert caught.value.code == "token-signature"


def test_the_public_key_as_a_shared_secret() -> None:
    """Algorithm confusion: HMAC with what everybody knows."""
    signed = TOKEN.rpartition(".")[0]
    public = KEYS.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    mac = hmac.digest(public, signed.encode(), "sha256")
    assert refusal(f"{signed}.{b64url(mac)}") == "token-malformed"
    assert refusal(f"{signed}.{b64url(mac + mac)}") == "token-signature"


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        TOKEN + ".",
        TOKEN + "=",
        TOKEN[:-1],
        "." + TOKEN,
        TOKEN.rpartition(".")[0],
        TOKEN.rpartition(".")[0] + ".",
        TOKEN + " ",
        TOKEN.replace(".", ". ", 1),
        TOKEN + "\u00e9",
        TOKEN + "A" * TOKEN_LIMIT,
        "A" * TOKEN_LIMIT,
    ],
)
def test_what_is_no_token(token: str) -> None:
    with pytest.raises(MalformedError) as caught:
        verifier().verify(token, "default", NOW)
    assert caught.value.code == "token-malformed"


def test_signatures_that_are_numbers_out_of_range() -> None:
    signed = TOKEN.rpartition(".")[0]
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    raw = unb64url(TOKEN.rpartition(".")[2], what="it")
    r, s = raw[:32], raw[32:]
    for wrong in (bytes(64), r + bytes(32), bytes(32) + s, r + order.to_bytes(32, "big"), b"\xff" * 64, s + r):
        assert refusal(f"{signed}.{b64url(wrong)}") == "token-signature"


@given(st.integers(0, len(TOKEN) - 1), st.sampled_from("AQgw05_-.eJ"))
@settings(max_examples=150)
def test_a_changed_token_is_refused(place: int, put: str) -> None:
    changed = TOKEN[:place] + put + TOKEN[place + 1 :]
    if changed != TOKEN:
        assert refusal(changed) in {"token-malformed", "token-key-unknown", "token-signature"}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"iss": "other"}, "token-issuer"),
        ({"iss": None}, "field-type"),
        ({"exp": None}, "field-type"),
        ({"exp": "9999999999"}, "field-type"),
        ({"exp": 1e12}, "field-type"),
        ({"exp": True}, "field-type"),
        ({"exp": 1 << 60}, "field-range"),
        ({"iat": -1}, "field-range"),
        ({"exp": 0}, "token-expired"),
    ],
)
def test_claims_that_are_refused_though_signed(changes: dict[str, Any], code: str) -> None:
    assert refusal(sign({**CLAIMS, **changes}, KEYS)) == code


def test_payloads_that_are_refused_though_signed() -> None:
    for name in ("iss", "iat", "exp"):
        claims = {key: value for key, value in CLAIMS.items() if key != name}
        assert refusal(sign(claims, KEYS)) == "field-missing"
    assert refusal(sign([1], KEYS)) == "token-malformed"  # type: ignore[arg-type]


def test_nothing_bad_is_remembered_and_memory_is_bounded() -> None:
    by = verifier(limit=3)
    for token in (sign({**CLAIMS, "exp": 0}, KEYS), TOKEN[:-2], made({"alg": "none"})):
        refusal(token, by=by)
    refusal(TOKEN, audience="other", by=by)
    assert len(by) == 0
    tokens = [sign({**CLAIMS, "jti": str(number)}, KEYS) for number in range(4)]
    for token in (*tokens[:3], tokens[0], tokens[3]):
        assert by.verify(token, "default", NOW) == 7
    assert len(by) == 3
    kept = {hashlib.sha256(token.encode()).digest() for token in (tokens[0], tokens[2], tokens[3])}
    assert set(by._known) == kept, "the least recently used one gave way"


def test_what_cannot_be_read_is_not_remembered() -> None:
    by: TokenVerifier[Any] = TokenVerifier(KEYS, "kokon", lambda claims: _raise())
    assert refusal(TOKEN, by=by) == "some-code"
    assert len(by) == 0


def _raise() -> None:
    raise DeniedError("some-code", "no")


def test_many_threads() -> None:
    by = verifier(limit=2)
    tokens = [sign({**CLAIMS, "jti": str(number), "value": number}, KEYS) for number in range(5)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: by.verify(tokens[number % 5], "default", NOW), range(200)))
    assert found == [number % 5 for number in range(200)]
    assert len(by) <= 2


def test_a_verified_value_is_in_no_repr() -> None:
    by = verifier()
    by.verify(sign({**CLAIMS, "value": "hidden"}, KEYS), "default", NOW)
    assert "hidden" not in repr(by._known)
    assert isinstance(KEYS.private, ec.EllipticCurvePrivateKey)
