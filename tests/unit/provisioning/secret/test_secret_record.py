"""The stored form of a secret: one spelling, bounded, and nothing that cannot be read back."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kokon.errors import KokonError
from kokon.provisioning.secret.generate import generate, parse_recipe
from kokon.provisioning.secret.value import (
    HEADER_LIMIT,
    PUBLIC_LIMIT,
    RECIPE_LIMIT,
    VALUE_LIMIT,
    Secret,
    decode_secret,
    encode_secret,
)

HEAD = {"kind": "given", "public": "", "recipe": "", "version": 1}
SECRETS = st.builds(
    Secret,
    kind=st.sampled_from(["given", "generated", "derived"]),
    value=st.binary(min_size=1, max_size=300),
    recipe=st.text(max_size=RECIPE_LIMIT),
    public=st.text(max_size=100),
)


def head(**changes: object) -> bytes:
    return json.dumps({**HEAD, **changes}, sort_keys=True, separators=(",", ":")).encode()


def refusal(record: bytes) -> str:
    with pytest.raises(KokonError) as caught:
        decode_secret(record)
    return caught.value.code


@given(SECRETS)
@example(Secret("given", b"\n{}\n"))
def test_what_is_written_is_read(secret: Secret) -> None:
    record = encode_secret(secret)
    assert decode_secret(record) == secret
    assert record.endswith(b"\n" + secret.value)


@given(SECRETS, st.data())
def test_a_record_has_one_spelling(secret: Secret, data: st.DataObject) -> None:
    """Whatever byte of the head is changed, put in or taken out: refused, or another secret's own record."""
    record = encode_secret(secret)
    at = data.draw(st.integers(0, record.index(b"\n")))
    new = data.draw(st.binary(max_size=2))
    changed = record[:at] + new + record[at + data.draw(st.integers(0, 1)) :]
    try:
        read = decode_secret(changed)
    except KokonError:
        return
    assert encode_secret(read) == changed


@pytest.mark.parametrize(
    "line",
    [
        b" " + head(),
        head() + b" ",
        head() + b"\r",
        json.dumps(dict(reversed(HEAD.items())), separators=(",", ":")).encode(),
        json.dumps(HEAD).encode(),
        head().replace(b"given", b"giv\\u0065n"),
    ],
)
def test_another_spelling_is_refused(line: bytes) -> None:
    assert decode_secret(head() + b"\nx").value == b"x"
    assert refusal(line + b"\nx") == "secret-record"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (head(version=0), "field-range"),
        (head(version=2), "field-range"),
        (head(version=True), "field-type"),
        (head(more=1), "field-unknown"),
        (head(kind="taken"), "secret-record"),
        (head(recipe="r" * (RECIPE_LIMIT + 1)), "field-too-long"),
        (head(public="p" * (PUBLIC_LIMIT + 1)), "field-too-long"),
        (head()[:-1] + b',"version":1}', "json-malformed"),
        (b"[]", "field-type"),
    ],
)
def test_bad_heads(line: bytes, code: str) -> None:
    assert refusal(line + b"\nx") == code


def test_the_head_is_bounded_before_it_is_read() -> None:
    assert refusal(b" " * (HEADER_LIMIT + 1) + b"\nx") == "secret-record"
    assert refusal(b"x" * 100_000) == "secret-record"


def test_sizes_of_values() -> None:
    largest = Secret("given", bytes(VALUE_LIMIT))
    assert decode_secret(encode_secret(largest)) == largest
    assert refusal(head() + b"\n" + bytes(VALUE_LIMIT + 1)) == "resource-size"
    assert refusal(head() + b"\n") == "resource-size"
    for value in (b"", bytes(VALUE_LIMIT + 1)):
        with pytest.raises(KokonError) as caught:
            Secret("given", value)
        assert caught.value.code == "resource-size"


def test_nothing_is_made_that_cannot_be_read_back() -> None:
    for recipe, public in (("r" * (RECIPE_LIMIT + 1), ""), ("", "p" * (PUBLIC_LIMIT + 1))):
        with pytest.raises(KokonError) as caught:
            Secret("generated", b"x", recipe, public)
        assert caught.value.code == "secret-record"
    pair = generate(parse_recipe("p384"), bytes)
    assert decode_secret(encode_secret(pair)) == pair


def test_a_record_is_what_it_always_was() -> None:
    """Known answer: records are kept for years."""
    record = b'{"kind":"generated","public":"","recipe":"bytes:32","version":1}\n' + bytes(range(32))
    assert encode_secret(Secret("generated", bytes(range(32)), "bytes:32")) == record


@pytest.mark.parametrize("text", [repr, str, "{!r}".format, lambda secret: repr([secret])])
def test_no_text_of_a_secret_shows_its_value(text: object) -> None:
    shown = text(Secret("given", b"correct horse", "", "public half"))  # type: ignore[operator]
    assert "public half" in shown
    assert "correct" not in shown
    assert b"correct horse".hex() not in shown
