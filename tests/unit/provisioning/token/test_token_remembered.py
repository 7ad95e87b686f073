"""Tokens that are taken for verified since they were signed here: all but the signature is checked as ever."""

from datetime import UTC, datetime, timedelta

import pytest

from kokon.errors import KokonError
from kokon.provisioning.token.keys import generate_keys
from kokon.provisioning.token.sign import sign
from kokon.provisioning.token.verify import SKEW, TokenVerifier, Verified

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
BASE = int(NOW.timestamp())
KEYS = generate_keys(NOW)
CLAIMS = {"iss": "kokon", "aud": "default", "iat": BASE, "exp": BASE + 1800}
TOKEN = sign(CLAIMS, KEYS)


def verifier(limit: int = 4096) -> tuple[TokenVerifier[int], list[object]]:
    read: list[object] = []
    by: TokenVerifier[int] = TokenVerifier(KEYS, "kokon", lambda claims: len(read.append(claims) or read), limit=limit)
    by.remember(TOKEN, Verified(7, "default", BASE, BASE + 1800))
    return by, read


def refusal(by: TokenVerifier[int], token: str = TOKEN, audience: str = "default", now: datetime = NOW) -> str:
    with pytest.raises(KokonError) as caught:
        by.verify(token, audience, now)
    return caught.value.code


def test_it_is_not_read_again() -> None:
    by, read = verifier()
    assert by.verify(TOKEN, "default", NOW) == 7
    assert read == []


def test_all_but_the_signature_is_checked() -> None:
    by, _ = verifier()
    assert refusal(by, audience="clinic") == "token-audience"
    assert refusal(by, now=NOW + timedelta(seconds=1800)) == "token-expired"
    assert refusal(by, now=NOW - timedelta(seconds=SKEW + 1)) == "token-early"


def test_a_key_that_is_gone_takes_its_tokens_with_it() -> None:
    by, _ = verifier()
    rotated = KEYS.rotate(NOW, HOUR)
    by.replace_keys(rotated)
    assert by.verify(TOKEN, "default", NOW) == 7
    by.replace_keys(rotated.without(KEYS.current.kid))
    assert refusal(by) == "token-key-unknown"


def test_a_token_that_differs_in_a_letter_is_another() -> None:
    by, read = verifier()
    payload, _, signature = TOKEN.rpartition(".")
    other = "A" if signature[10] != "A" else "B"
    forged = f"{payload}.{signature[:10]}{other}{signature[11:]}"
    assert refusal(by, forged) == "token-signature"
    assert read == []


def test_one_that_was_forgotten_is_verified() -> None:
    by, read = verifier(limit=1)
    by.remember("another", Verified(8, "default", BASE, BASE + 1800))
    assert by.verify(TOKEN, "default", NOW) == 1
    assert read == [CLAIMS]
