"""The guest's own `email` gives `http.client` the headers that Python's gives."""

import email.message
import email.parser
import http.client
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.guest.build import quick_email


class Standard(email.message.Message):
    pass


def both(text: str) -> tuple[Any, Any]:
    return email.parser.Parser(_class=Standard).parsestr(text), quick_email.Parser().parsestr(text)


HEADERS = "Content-Length: 5\r\ncontent-type:  text/plain \r\nSet-Cookie: a=1; b\r\nSet-Cookie: c\r\nX-Empty:\r\n\r\n"


def test_an_ordinary_block() -> None:
    standard, ours = both(HEADERS)
    for name in ("content-length", "CONTENT-TYPE", "set-cookie", "x-empty", "none"):
        assert ours.get(name) == standard.get(name)
        assert ours.get(name, "y") == standard.get(name, "y")
        assert ours.get_all(name) == standard.get_all(name)
        assert (name in ours) == (name in standard)
        assert ours[name] == standard[name]
    assert (ours.items(), ours.keys(), list(ours)) == (standard.items(), standard.keys(), list(standard))


@pytest.mark.parametrize(
    "text",
    ["", "\r\n", "A: b\r\n c\r\nD: e\r\n\r\n", "A: b\r\nno colon\r\nC: d\r\n\r\n", ": x\r\n\r\n", "A: b\n\nC: d\n"],
)
def test_odd_blocks_alike(text: str) -> None:
    standard, ours = both(text)
    assert ours.items() == standard.items()


NAMES = st.text("ABCabc-0", min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_any_fields_alike(fields: list[tuple[str, str]]) -> None:
    standard, ours = both("".join(f"{name}: {value}\r\n" for name, value in fields) + "\r\n")
    assert ours.items() == standard.items() == fields


@given(st.text(max_size=200))
def test_no_text_crashes_it(text: str) -> None:
    quick_email.Parser().parsestr(text)


class Wire:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self.data)


@pytest.mark.parametrize(
    ("headers", "body"),
    [(b"Content-Length: 5\r\n", b"hello and more"), (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n")],
)
def test_http_client_reads_answers_with_it(monkeypatch: pytest.MonkeyPatch, headers: bytes, body: bytes) -> None:
    monkeypatch.setattr(http.client, "HTTPMessage", quick_email.Message)
    monkeypatch.setattr(http.client.parse_headers, "__defaults__", (quick_email.Message,))
    monkeypatch.setattr(email.parser, "Parser", quick_email.Parser)
    response = http.client.HTTPResponse(Wire(b"HTTP/1.1 200 OK\r\nServer: x\r\n" + headers + b"\r\n" + body))  # type: ignore[arg-type]
    response.begin()
    assert isinstance(response.headers, quick_email.Message)
    assert response.read() == b"hello"
    assert response.getheader("server") == "x"
