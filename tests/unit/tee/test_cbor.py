"""The strict CBOR reader against an independent encoder, and against everything that it must refuse."""

import math
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.tee.cbor import DEPTH, ITEMS_LIMIT, Tag, read_cbor, write_cbor

scalars = (
    st.integers(-(2**64), 2**64 - 1)
    | st.binary(max_size=300)
    | st.text(max_size=80)
    | st.booleans()
    | st.none()
    | st.floats(allow_nan=False, allow_infinity=False)
)
keys = st.integers(-1000, 2**64 - 1) | st.text(max_size=5) | st.binary(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=30) | st.dictionaries(keys, inner, max_size=30) | st.builds(Tag, st.just(60000), inner)
    ),
    max_leaves=40,
)


def read(data: bytes, **options: Any) -> Any:
    return read_cbor(data, **({"limit": 1 << 20, "what": "the test"} | options))


def as_cbor2(value: Any) -> Any:
    if isinstance(value, Tag):
        return cbor2.CBORTag(value.number, as_cbor2(value.value))
    if isinstance(value, list):
        return [as_cbor2(item) for item in value]
    if isinstance(value, dict):
        return {key: as_cbor2(item) for key, item in value.items()}
    return value


@given(values)
def test_what_another_encoder_writes_is_read(value: Any) -> None:
    assert read(cbor2.dumps(as_cbor2(value)), depth=60) == value


@given(values)
def test_what_is_written_is_read(value: Any) -> None:
    assert read(write_cbor(value), depth=60) == value


@given(values.filter(lambda value: "e" not in repr(value) and "." not in repr(value)))
def test_the_shortest_form_is_that_of_another_encoder(value: Any) -> None:
    assert write_cbor(value) == cbor2.dumps(as_cbor2(value))


@given(values)
def test_indefinite_lengths_only_if_allowed(value: Any) -> None:
    data = cbor2.dumps(as_cbor2([value]), indefinite_containers=True)
    assert read(data, indefinite=True, depth=60) == [value]
    with pytest.raises(MalformedError) as caught:
        read(data, depth=60)
    assert caught.value.code == "cbor-malformed"


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_read_or_refused(data: bytes, indefinite: bool) -> None:
    try:
        read(data, indefinite=indefinite)
    except MalformedError as error:
        assert error.code == "cbor-malformed"  # noqa: PT017


@given(values, st.binary(min_size=1, max_size=3))
def test_nothing_may_follow(value: Any, junk: bytes) -> None:
    with pytest.raises(MalformedError):
        read(write_cbor(value) + junk, depth=60)


@given(values)
def test_nothing_may_be_missing(value: Any) -> None:
    data = write_cbor(value)
    for size in range(min(len(data), 200)):
        with pytest.raises(MalformedError):
            read(data[:size], depth=60)


@pytest.mark.parametrize(
    "data",
    [
        "a201010102",  # a key twice
        "bf01010102ff",  # the same, indefinite
        "a2010118010a",  # a key twice, once not in its shortest form
        "a1f500",  # true as a key
        "a1f600",  # null as a key
        "a1f9000000",  # a float as a key
        "a1800000",  # an array as a key
        "f7",  # undefined
        "f8ff",  # another simple value
        "e0",
        "fb7ff8000000000000",  # NaN
        "f97c00",  # infinity
        "62ffff",  # no UTF-8
        "7f61c261a9ff",  # a character cut across chunks
        "5f6161ff",  # a text in a byte string
        "5f5f4161ffff",  # an indefinite chunk
        "df00",  # a tag of indefinite number
        "1f",  # an integer of indefinite size
        "3f",
        "1c00",  # reserved head
        "ff",  # break
        "81ff",
        "9bffffffffffffffff",  # longer than anything
        "bb7fffffffffffffff",
        "5bffffffffffffffff",
        "bf00ff",  # a key without a value
        "",
    ],
)
def test_what_is_refused(data: str) -> None:
    with pytest.raises(MalformedError) as caught:
        read(bytes.fromhex(data), indefinite=True)
    assert caught.value.code == "cbor-malformed"


def test_chunks_are_joined() -> None:
    assert read(bytes.fromhex("5f4101420203ff"), indefinite=True) == b"\1\2\3"
    assert read(bytes.fromhex("7f616161627fff"[:10] + "ff"), indefinite=True) == "ab"
    assert read(bytes.fromhex("5fff"), indefinite=True) == b""


def test_tags_are_not_interpreted() -> None:
    assert read(bytes.fromhex("c074323031332d30332d32315432303a30343a30305a")) == Tag(0, "2013-03-21T20:04:00Z")
    assert read(bytes.fromhex("d81c81d81d00")) == Tag(28, [Tag(29, 0)])


def test_depth_is_bounded() -> None:
    assert read(b"\x81" * (DEPTH - 1) + b"\0") is not None
    for opening in (b"\x81", b"\xc1", b"\xa1\0"):
        with pytest.raises(MalformedError, match="strict"):
            read(opening * DEPTH + b"\0")
    with pytest.raises(MalformedError):
        read(b"\x9f" * 100_000, indefinite=True)


def test_size_and_items_are_bounded() -> None:
    with pytest.raises(MalformedError) as caught:
        read(bytes(11), limit=10)
    assert caught.value.code == "cbor-too-large"
    many = b"\x9a" + (ITEMS_LIMIT + 1).to_bytes(4, "big") + b"\x80" * (ITEMS_LIMIT + 1)
    chunks = b"\x5f" + b"\x40" * (ITEMS_LIMIT + 1) + b"\xff"
    with pytest.raises(MalformedError):
        read(many)
    assert read(chunks, indefinite=True) == b""


def test_floats_of_every_size() -> None:
    assert read(bytes.fromhex("f93e00")) == 1.5
    assert read(bytes.fromhex("fa7f7fffff")) == 3.4028234663852886e38
    assert math.copysign(1, read(bytes.fromhex("f98000"))) == -1


@pytest.mark.parametrize("value", [object(), {1, 2}, 2**64, -(2**64) - 1, [object()]])
def test_what_has_no_form_is_not_written(value: Any) -> None:
    with pytest.raises(MalformedError) as caught:
        write_cbor(value)
    assert caught.value.code == "cbor-unwritable"
