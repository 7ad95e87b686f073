"""The fast JSON reader against the plain one: the same values, the same refusals."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.provisioning.kbs.strict import parse_strict
from kokon.wire import JSON_DEPTH, parse_json

LIMIT = 1 << 20
TEXTS = st.text(alphabet=st.sampled_from('ab"\\:{}[], \n\u00e9\U0001f600/\x7f'), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    SCALARS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def outcome(read: Any, data: bytes) -> Any:
    """The value as text, which tells 1 from 1.0 and True; or the error's code."""
    try:
        return repr(read(data, limit=LIMIT, what="it"))
    except MalformedError as error:
        return error.code


@given(VALUES, st.booleans())
@settings(max_examples=80)
def test_the_same_values(value: Any, escaped: bool) -> None:
    data = json.dumps(value, ensure_ascii=escaped).encode()
    assert outcome(parse_strict, data) == outcome(parse_json, data) == repr(value)


@given(VALUES, st.integers(0, 400), st.binary(max_size=2), st.booleans())
@settings(max_examples=100)
@example({"a": 1, "b": 2}, 6, b'"a', True)
def test_damage_is_judged_alike(value: Any, place: int, put: bytes, escaped: bool) -> None:
    data = json.dumps(value, ensure_ascii=escaped).encode()
    place %= len(data) + 1
    for damaged in (data[:place] + put + data[place:], data[:place] + put + data[place + len(put) :], data[:place]):
        assert outcome(parse_strict, damaged) == outcome(parse_json, damaged)


def members(pairs: list[tuple[str, Any]]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{json.dumps(value)}" for name, value in pairs) + "}"


@settings(max_examples=80)
@given(st.lists(st.tuples(TEXTS, VALUES), max_size=4), TEXTS, VALUES, VALUES, st.booleans())
def test_a_duplicate_anywhere_is_refused(
    others: list[tuple[str, Any]], name: str, one: Any, two: Any, nested: bool
) -> None:
    others = list(dict(others).items())
    text = members([(name, one), *(pair for pair in others if pair[0] != name)])
    assert outcome(parse_strict, text.encode()) != "json-malformed"
    text = members([(name, one), *others, (name, two)])
    assert outcome(parse_strict, (f'[1,{{"x":{text}}}]' if nested else text).encode()) == "json-malformed"


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"\\u0061":2}',
        b'{"":1,"":1}',
        b'[{"a":":","a":":"}]',
        b'{"a":{"b":1,"b":2}}',
        b'{"a\\"":1,"a\\u0022":2}',
        b'{"\\\\":1,"\\\\":2}',
        b"{'a':1}",
        b'"\\ud800"',
        b'"\xff"',
        b"NaN",
        b"1e999",
        b"[1,]",
        b"1 2",
        b"\xef\xbb\xbf1",
        b'"\x01"',
        b"",
        b"1" * 5000,
        b"[" * 100_000,
    ],
)
def test_what_is_not_strict_json(text: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_strict(text, limit=LIMIT, what="it")
    assert caught.value.code == "json-malformed"


def test_depth_and_size_are_bounded() -> None:
    for depth, fine in ((JSON_DEPTH - 1, True), (JSON_DEPTH, False), (JSON_DEPTH + 1, False)):
        for start, end in ((b"[", b"]"), (b'{"a":', b"}")):
            data = start * depth + b"1" + end * depth
            assert outcome(parse_strict, data) == outcome(parse_json, data)
            assert (outcome(parse_json, data) != "json-malformed") == fine
    with pytest.raises(MalformedError) as caught:
        parse_strict(b" " * 11, limit=10, what="it")
    assert caught.value.code == "json-too-large"
