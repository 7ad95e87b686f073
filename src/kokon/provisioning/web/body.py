"""Reads the body of a request: bounded in size, refused before it is read where that can be known.

How long it may take is the connection's affair (`web.pool`), which ends it for the application.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kokon.errors import MalformedError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The request's body, of at most `limit` bytes.

    A length that is declared too large is refused unread: a client that asked with `Expect: 100-continue` need not send
    it. Raises `MalformedError` (`body-too-large`, and `body-incomplete` if the client has left or was too slow).
    """
    if _declared(scope) > limit:
        raise _too_large(limit)
    received = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise _incomplete()
        chunk: bytes = message.get("body", b"")
        if len(received) + len(chunk) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(received + chunk) if received else bytes(chunk)
        received += chunk


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
