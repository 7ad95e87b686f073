"""Witnesses' keys and memory: bytes to values and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import KokonError, MalformedError, UsageError
from kokon.provisioning.ledger.checkpoint import Checkpoint, sign_checkpoint
from kokon.provisioning.ledger.keys import Use, signing_key
from kokon.provisioning.ledger.merkle import EMPTY_ROOT
from kokon.provisioning.witness import (
    Remembered,
    encode_memory,
    encode_witness_key,
    make_witness_key,
    parse_memory,
    parse_witness_key,
)

KEY = make_witness_key("audit.example.org/a", lambda size: bytes(range(size)))
TEXT = encode_witness_key(KEY)


def test_a_key_comes_back() -> None:
    again = parse_witness_key(TEXT)
    assert again.verifier == KEY.verifier
    assert again.sign(b"x", Use.WITNESS) == KEY.sign(b"x", Use.WITNESS)
    assert TEXT not in repr(again)
    with pytest.raises(UsageError):
        again.sign(b"x", Use.LOG)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "PRIVATE+KEY+",
        TEXT[:-1],
        TEXT + "A",
        TEXT.replace("audit", "other"),
        TEXT.removeprefix("PRIVATE+KEY+"),
        str(KEY.verifier),
        "PRIVATE+KEY+" + str(KEY.verifier),
        TEXT * 40,
    ],
)
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_witness_key(text)
    assert caught.value.code == "witness-key-malformed"
    assert text == "" or text not in str(caught.value)


def test_a_logs_key_is_no_witnesss() -> None:
    log = signing_key("a", bytes(32), Use.LOG)
    with pytest.raises(MalformedError) as caught:
        parse_witness_key(encode_witness_key(log))
    assert caught.value.code == "witness-key-malformed"


def test_memory_comes_back() -> None:
    log = signing_key("log", bytes(32))
    remembered = Remembered(log.verifier, sign_checkpoint(Checkpoint("log", 0, EMPTY_ROOT), log))
    again = parse_memory(encode_memory(remembered))
    assert again == remembered
    assert again.checkpoint.size == 0


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_property_nothing_else_is_raised(data: bytes) -> None:
    for call in (lambda: parse_memory(data), lambda: parse_witness_key(data.decode("utf-8", "replace"))):
        with pytest.raises(KokonError):
            call()


@given(st.integers(0, len(TEXT) - 1), st.characters(codec="ascii", exclude_characters="\n"))
def test_property_a_changed_key_is_refused(place: int, char: str) -> None:
    changed = TEXT[:place] + char + TEXT[place + 1 :]
    if changed != TEXT:
        with pytest.raises(MalformedError):
            parse_witness_key(changed)
