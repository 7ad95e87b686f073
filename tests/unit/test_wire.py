"""Strict readers: what is accepted, and the code of each refusal."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import KokonError, MalformedError, UsageError
from kokon.wire import Fields, b64, b64url, canonical_json, parse_json, unb64, unb64url, unhex

SAFE = 2**53 - 1
KEYS = st.text(st.characters(max_codepoint=127), max_size=8)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
LEAVES = st.none() | st.booleans() | st.integers(-SAFE, SAFE) | TEXT
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=4) | st.dictionaries(KEYS, v, max_size=4), max_leaves=20)


def code_of(error: pytest.ExceptionInfo[KokonError]) -> str:
    return error.value.code


@given(VALUES)
def test_canonical_json_is_stable(value: object) -> None:
    data = canonical_json(value)
    assert canonical_json(parse_json(data, limit=1 << 20, what="value")) == data


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":2}',
        "[NaN]",
        "[1e999]",
        "{} x",
        "{",
        '"\\ud800"',
        '{"\\udfff":1}',
        "[" * 40 + "]" * 40,
        "[" * 100000,
        "\xff",
    ],
)
def test_loose_json_is_refused(text: str) -> None:
    with pytest.raises(MalformedError) as error:
        parse_json(text.encode("latin-1"), limit=1 << 20, what="value")
    assert code_of(error) == "json-malformed"


def test_size_comes_first() -> None:
    with pytest.raises(MalformedError) as error:
        parse_json(b"[1,2,3]", limit=6, what="value")
    assert code_of(error) == "json-too-large"


@pytest.mark.parametrize("value", [1.5, {"ä": 1}, 2**53, b"x", {1: 2}])
def test_values_without_canonical_form_are_refused(value: object) -> None:
    with pytest.raises(MalformedError) as error:
        canonical_json(value)
    assert code_of(error) == "json-not-canonical"


@given(st.binary(max_size=100))
def test_base64_survives(data: bytes) -> None:
    assert unb64(b64(data), what="x", size=len(data)) == data
    assert unb64url(b64url(data), what="x") == data
    assert unhex(data.hex(), what="x") == data if data else True


@pytest.mark.parametrize("text", ["YQ", "YR==", "Y Q==", "YQ==\n", "ä", "-_-_", "Y" * 200])
def test_loose_base64_is_refused(text: str) -> None:
    with pytest.raises(MalformedError) as error:
        unb64(text, what="x", limit=100)
    assert code_of(error) == "base64-malformed"


@pytest.mark.parametrize("text", ["YQ==", "YR", "+/+/"])
def test_loose_base64url_is_refused(text: str) -> None:
    with pytest.raises(MalformedError) as error:
        unb64url(text, what="x")
    assert code_of(error) == "base64-malformed"


@pytest.mark.parametrize("text", ["", "0", "zz", "0 0", "00" * (1 << 20)])
def test_loose_hex_is_refused(text: str) -> None:
    with pytest.raises(MalformedError) as error:
        unhex(text, what="x")
    assert code_of(error) == "hex-malformed"


def test_wrong_size_is_refused() -> None:
    for call in (
        lambda: unb64(base64.b64encode(b"ab").decode(), what="x", size=3),
        lambda: unhex("00", what="x", size=2),
    ):
        with pytest.raises(MalformedError) as error:
            call()
        assert code_of(error) == "size-mismatch"


def test_fields_give_what_is_there() -> None:
    fields = Fields({"t": "x", "i": 3, "b": True, "l": [1], "o": {"k": 1}, "v": None}, "thing")
    assert fields.text("t") == "x"
    assert fields.integer("i") == 3
    assert fields.flag("b") is True
    assert fields.array("l") == [1]
    assert fields.table("o") == {"k": 1}
    assert fields.value("v") is None
    assert fields.text("absent", default="d") == "d"
    assert fields.optional_text("absent") is None
    assert fields.optional_array("absent") is None
    fields.finish()


@pytest.mark.parametrize(
    ("members", "read", "code"),
    [
        ([], lambda f: f, "field-type"),
        ({}, lambda f: f.text("a"), "field-missing"),
        ({"a": 1}, lambda f: f.text("a"), "field-type"),
        ({"a": True}, lambda f: f.integer("a"), "field-type"),
        ({"a": 5}, lambda f: f.integer("a", high=4), "field-range"),
        ({"a": "xxx"}, lambda f: f.text("a", limit=2), "field-too-long"),
        ({"a": [1, 2]}, lambda f: f.array("a", limit=1), "field-too-long"),
        ({"a": 1}, lambda f: f.finish(), "field-unknown"),
    ],
)
def test_fields_refuse(members: object, read: object, code: str) -> None:
    with pytest.raises(MalformedError) as error:
        read(Fields(members, "thing"))  # type: ignore[operator]
    assert code_of(error) == code


def test_errors_speak_for_themselves() -> None:
    error = UsageError("some-code", "it is wrong", expected=1, found=2, hint="do this")
    assert str(error) == "it is wrong [some-code] (expected 1, found 2)"
    assert error.as_dict() == {
        "code": "some-code", "kind": "usage", "message": "it is wrong", "expected": "1", "found": "2", "hint": "do this"
    }  # fmt: skip
    assert json.dumps(UsageError("c", "m").as_dict()) == '{"code": "c", "kind": "usage", "message": "m"}'
