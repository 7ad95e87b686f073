"""Reads the body of a request: bounded in size and time, refused before it is read where that can be known."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kokon.errors import MalformedError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

BODY_SECONDS = 30.0
"""How long a peer may take to send a body."""


async def read_body(scope: Scope, receive: Receive, limit: int, seconds: float = BODY_SECONDS) -> bytes:
    """The request's body, of at most `limit` bytes, that came within `seconds`.

    A length that is declared too large is refused unread: a client that asked with `Expect: 100-continue` need not send
    it. Raises `MalformedError` (`body-too-large`, `body-timeout`, and `body-incomplete` if the client has left).
    """
    if _declared(scope) > limit:
        raise _too_large(limit)
    received = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise _incomplete()
                chunk = message.get("body", b"")
                if len(received) + len(chunk) > limit:
                    raise _too_large(limit)
                if not message.get("more_body", False):
                    return bytes(received + chunk) if received else bytes(chunk)
                received += chunk
    except TimeoutError as error:
        raise MalformedError(
            "body-timeout", "the request's body did not come in time", expected=f"within {seconds:.0f} s"
        ) from error


def _declared(scope: Scope) -> int:
    """Content-Length, 0 if there is none. The server's parser has refused wrong ones; here they count as huge."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() and len(value) < 20 else 1 << 63
    return 0


def _too_large(limit: int) -> MalformedError:
    return MalformedError("body-too-large", "the request's body is too large", expected=f"<= {limit} bytes")


def _incomplete() -> MalformedError:
    return MalformedError("body-incomplete", "the request's body did not come in full")
