"""The text of admin tokens."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import MalformedError, UsageError
from kokon.provisioning.access.bearer import TOKEN_ENTROPY, is_id, make_id, make_token, parse_token, same_digest

ENTROPY = bytes(range(TOKEN_ENTROPY))
TEXT = make_token(ENTROPY).text


def test_the_form() -> None:
    token = make_token(ENTROPY)
    assert token.text == "kokon_aaaqeayeauda_CAkKCwwNDg8QERITFBUWFxgZGhscHR4fICEiIyQlJic"
    assert token.id == "aaaqeayeauda"
    assert token.digest == hashlib.sha256(token.text.encode()).digest()
    assert repr(token) == "Token(id='aaaqeayeauda')"
    assert make_id(ENTROPY[:8]) == token.id


@given(st.binary(min_size=TOKEN_ENTROPY, max_size=TOKEN_ENTROPY))
def test_round_trip(entropy: bytes) -> None:
    token = make_token(entropy)
    again = parse_token(token.text)
    assert (again.id, again.text, again.digest) == (token.id, token.text, token.digest)
    assert len(token.text) == 62
    assert is_id(token.id)


@pytest.mark.parametrize(
    "text",
    [
        "",
        TEXT[:-1],
        TEXT + "=",
        TEXT + "A",
        TEXT[:-1] + "d",
        TEXT + "\n",
        " " + TEXT,
        TEXT.upper(),
        TEXT.replace("kokon_", "kokon-"),
        TEXT.replace("kokon_", "xokon_"),
        TEXT.replace("aaaqeayeauda", "AAAQEAYEAUDA"),
        TEXT.replace("aaaqeayeauda", "aaaqeayeaud1"),
        TEXT.replace("aaaqeayeauda_", "aaaqeayeauda-"),
        TEXT[:30] + "+" + TEXT[31:],
        TEXT[:30] + "=" + TEXT[31:],
        TEXT[:30] + "ä" + TEXT[31:],
        TEXT[:30] + "\0" + TEXT[31:],
        TEXT * 10000,
    ],
)
def test_malformed_tokens(text: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_token(text)
    assert caught.value.code == "admin-token-malformed"
    assert text[20:] not in str(caught.value.as_dict()) or not text[20:]
    assert caught.value.__cause__ is None


@given(st.text(max_size=80))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_token(text)


@given(st.integers(0, 61), st.characters())
def test_one_other_character_is_another_token_or_none(place: int, char: str) -> None:
    text = TEXT[:place] + char + TEXT[place + 1 :]
    try:
        token = parse_token(text)
    except MalformedError:
        return
    assert same_digest(token.digest, make_token(ENTROPY).digest) is (text == TEXT)


@pytest.mark.parametrize("size", [0, 7, 39, 41])
def test_too_little_randomness(size: int) -> None:
    for make in (make_token, make_id):
        with pytest.raises(UsageError) as caught:
            make(bytes(size))
        assert caught.value.code == "admin-token-entropy"


def test_digests_are_compared_as_a_whole() -> None:
    assert same_digest(b"d" * 32, b"d" * 32)
    assert not same_digest(b"d" * 32, b"d" * 31 + b"e")
    assert not same_digest(b"d" * 32, b"d" * 31)
