"""The host's one wish: stop with a signal. Everything else is dropped."""

import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import KokonError, MalformedError
from kokon.guest.agent.control import LINE_LIMIT, LineBuffer, Stop, follow, parse_command


def test_stop_is_read() -> None:
    assert parse_command(b'{"op":"stop","signal":15}') == Stop(15)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"op":"exec","signal":15}', "control-malformed"),
        (b'{"op":"stop"}', "field-missing"),
        (b'{"op":"stop","signal":0}', "field-range"),
        (b'{"op":"stop","signal":65}', "field-range"),
        (b'{"op":"stop","signal":19}', "control-malformed"),
        (b'{"op":"stop","signal":true}', "field-type"),
        (b'{"op":"stop","signal":9,"signal":15}', "json-malformed"),
        (b'{"op":"stop","signal":9,"x":1}', "field-unknown"),
        (b"[]", "field-type"),
        (b"{", "json-malformed"),
        (b" " * (LINE_LIMIT + 1), "json-too-large"),
    ],
)
def test_anything_else_is_refused(line: bytes, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_command(line)
    assert caught.value.code == code


@given(st.binary(max_size=400))
def test_no_bytes_crash_the_parser(line: bytes) -> None:
    try:
        assert 1 <= parse_command(line).signal <= 64
    except KokonError:
        pass


@given(st.lists(st.binary(max_size=300).filter(lambda b: b"\n" not in b), max_size=8), st.integers(1, 50))
def test_lines_come_out_however_they_are_cut(lines: list[bytes], step: int) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    buffer = LineBuffer()
    out = [line for start in range(0, len(stream), step) for line in buffer.feed(stream[start : start + step])]
    assert out == [line for line in lines if len(line) <= LINE_LIMIT]


def test_an_endless_line_takes_no_memory() -> None:
    buffer = LineBuffer()
    for _ in range(100):
        assert list(buffer.feed(b"x" * 10_000)) == []
    assert list(buffer.feed(b'\n{"a":1}\n')) == [b'{"a":1}']


def test_commands_are_followed_and_rubbish_is_not() -> None:
    reading, writing = os.pipe()
    got: list[Stop] = []
    thread = threading.Thread(target=follow, args=(reading, got.append, 0.01), daemon=True)
    thread.start()
    os.write(writing, b'rubbish\n{"op":"stop","sig')
    os.write(writing, b'nal":9}\n')
    os.close(writing)  # the host is gone; the follower goes on looking
    for _ in range(200):
        if got:
            break
        time.sleep(0.01)
    assert got == [Stop(9)]
    assert thread.is_alive()
