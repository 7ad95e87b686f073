"""The HTTP connection without a socket: any bytes, in any pieces."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from test_web_connection import AMBIGUOUS
from uvicorn.server import ServerState
from web_factory import echo, request

from kokon.provisioning.web.connection import Connection
from kokon.provisioning.web.pool import ConnectionLimits, Pool, Wait

LIMITS = ConnectionLimits(head_bytes=400, headers=8, pipeline=3)


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1), "sockname": ("192.0.2.2", 2)})
        self.written = b""
        self.closing = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


CONFIG = uvicorn.Config(echo, http=Connection, ws="none", interface="asgi3", log_config=None, access_log=False)
CONFIG.load()


def feed(*pieces: bytes) -> tuple[Connection, Transport, list[str]]:
    """What a connection has done after `pieces` came and the application had its turns."""
    notes: list[str] = []

    async def run() -> tuple[Connection, Transport]:
        pool = Pool(LIMITS, notes.append)
        connection = Connection(pool, CONFIG, ServerState(), {}, asyncio.get_running_loop())
        assert pool.admit(connection, Wait.HANDSHAKE, 0)
        transport = Transport()
        connection.connection_made(transport)
        for piece in pieces:
            if transport.closing:
                break
            connection.data_received(piece)
            for _ in range(4):
                await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        state = connection.wait
        transport.closing = True
        connection.connection_lost(None)
        for _ in range(4):
            await asyncio.sleep(0)
        assert pool.size == 0
        connection.wait = state
        return connection, transport

    return *asyncio.run(run()), notes


def statuses(transport: Transport) -> list[int]:
    return [int(part[:3]) for part in transport.written.split(b"HTTP/1.1 ")[1:]]


PIECES = [
    b"GET ", b"POST ", b"/", b"/a%20b", b" HTTP/1.1", b" HTTP/1.0", b"\r\n", b"\n", b"\r", b"Host: x\r\n", b"\r\n\r\n",
    b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n",
    b"0\r\n\r\n", b"abc", b"Connection: close\r\n", b"Upgrade: x\r\nConnection: upgrade\r\n",
    b"Expect: 100-continue\r\n", b"\0", b" ", request(),
    request("POST", "/", "Content-Length: 2", body=b"ab"), b"X: " + b"y" * 300 + b"\r\n", b": ", b"\xff",
]  # fmt: skip


@settings(max_examples=300)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=20)), max_size=12))
def test_any_bytes_leave_the_connection_in_order(pieces: list[bytes]) -> None:
    connection, transport, notes = feed(*pieces)
    told = statuses(transport)
    assert set(told) <= {100, 200, 400, 413, 417, 431, 501, 505}
    refused = [status for status in told if status not in (100, 200)]
    assert len(refused) <= 1, "one refusal is the last word"
    assert not refused or told[-1] == refused[0]
    assert len(notes) <= 1
    assert connection.wait in (Wait.IDLE, Wait.HEAD, Wait.BODY, Wait.CLOSE, Wait.NOTHING)
    if refused:
        assert connection.wait is Wait.CLOSE
        assert b"connection: close" in transport.written
    if connection.wait is Wait.HEAD:
        assert connection._head_bytes <= LIMITS.head_bytes


@settings(max_examples=100)
@given(st.data())
def test_it_does_not_matter_where_a_packet_ends(data: st.DataObject) -> None:
    whole = request("POST", "/a", "Content-Length: 4", body=b"abcd") + request(path="/b")
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=8)))
    parts = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    connection, transport, notes = feed(*parts)
    assert statuses(transport) == [200, 200]
    assert transport.written.count(b'"path": "/a"') == transport.written.count(b'"path": "/b"') == 1
    assert (connection.wait, notes) == (Wait.IDLE, [])


@pytest.mark.parametrize("name", AMBIGUOUS)
@pytest.mark.parametrize("size", [1, 7])
def test_ambiguous_requests_are_refused_in_pieces_too(name: str, size: int) -> None:
    status, whole = AMBIGUOUS[name]
    connection, transport, notes = feed(*(whole[at : at + size] for at in range(0, len(whole), size)))
    assert statuses(transport)[-1] == status
    assert 200 not in statuses(transport)
    assert (connection.wait, notes) == (Wait.CLOSE, ["bad-request"])
