"""Messages between server and worker."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kokon.provisioning.rego.frame import FrameError, body_size, pack, read_message, unpack, write_message

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            pass


@settings(max_examples=50)
@given(JSON)
def test_there_and_back(value: object) -> None:
    packed = pack({"a": value})
    assert body_size(packed, 1 << 20) == len(packed) - 4
    assert unpack(packed[4:]) == {"a": value}


def test_through_a_pipe(pipe: tuple[int, int]) -> None:
    write_message(pipe[1], {"a": 1})
    write_message(pipe[1], {"b": "ü"})
    assert read_message(pipe[0], 100) == {"a": 1}
    assert read_message(pipe[0], 100) == {"b": "ü"}
    os.close(pipe[1])
    assert read_message(pipe[0], 100) is None


@pytest.mark.parametrize(
    "data", [b"\0", b"\0\0\0\x05{}", b"\0\0\0\x01", b"\xff\xff\xff\xff", b"\0\0\0\x02[]", b"\0\0\0\x01{"]
)
def test_what_is_no_message(pipe: tuple[int, int], data: bytes) -> None:
    os.write(pipe[1], data)
    os.close(pipe[1])
    with pytest.raises(FrameError):
        read_message(pipe[0], 100)


def test_a_length_is_known_with_four_bytes() -> None:
    assert body_size(b"\0\0\0", 9) is None
    assert body_size(b"\0\0\0\x09", 9) == 9
    with pytest.raises(FrameError):
        body_size(b"\0\0\0\x0a", 9)


def test_a_bottomless_answer() -> None:
    with pytest.raises(FrameError):
        unpack(b'{"a":' + b"[" * 100_000)
