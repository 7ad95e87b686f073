"""Bodies: their limits in size, without a server (with one, and in time: test_web_connection)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.provisioning.web.body import read_body


def read(pieces: list[bytes], limit: int, *headers: tuple[bytes, bytes], end: str = "complete") -> tuple[Any, int]:
    """The body or the code of the error, and how often something was received."""
    count = 0

    async def receive() -> dict[str, Any]:
        nonlocal count
        count += 1
        if count > len(pieces):
            return {"type": "http.disconnect"}
        more = count < len(pieces) or end != "complete"
        return {"type": "http.request", "body": pieces[count - 1], "more_body": more}

    try:
        scope = {"type": "http", "headers": [(b"host", b"x"), *headers]}
        return asyncio.run(read_body(scope, receive, limit)), count  # type: ignore[arg-type]
    except MalformedError as error:
        return error.code, count


@given(st.lists(st.binary(max_size=10), min_size=1, max_size=8), st.integers(0, 40))
def test_a_body_is_the_sum_of_its_pieces_or_too_large(pieces: list[bytes], limit: int) -> None:
    whole = b"".join(pieces)
    result, _ = read(pieces, limit)
    assert result == (whole if len(whole) <= limit else "body-too-large")


@pytest.mark.parametrize("length", [b"4", b"1073741824", b"9" * 30, b"-1", b"x", "\u0664".encode()])
def test_a_length_that_is_too_large_or_none_is_refused_unread(length: bytes) -> None:
    assert read([b"abc"], 3, (b"content-length", length)) == ("body-too-large", 0)


def test_a_body_of_the_right_length_is_read() -> None:
    assert read([b"abc"], 3, (b"content-length", b"3")) == (b"abc", 1)
    assert read([b"", b""], 0) == (b"", 2)


def test_an_undeclared_body_is_read_no_further_than_its_limit() -> None:
    assert read([b"ab", b"cd", b"ef"], 3) == ("body-too-large", 2)


def test_a_body_that_does_not_end() -> None:
    assert read([b"ab"], 3, end="disconnect") == ("body-incomplete", 2)
