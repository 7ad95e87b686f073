"""Messages between the server and its policy workers: JSON behind its length, four bytes, big-endian.

Standard library only: the worker's process loads it.
"""

from __future__ import annotations

import json
import os
import struct
from typing import Any, Final

HEAD: Final = struct.Struct(">I")


class FrameError(Exception):
    """Bytes that are no message: too long, cut off, or no JSON."""


def pack(message: Any) -> bytes:
    """A message as it travels."""
    body = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
    return HEAD.pack(len(body)) + body


def body_size(received: bytes | bytearray, limit: int) -> int | None:
    """Length of the body that `received` begins; None if not even that is known yet. Raises `FrameError`."""
    if len(received) < HEAD.size:
        return None
    size: int = HEAD.unpack_from(received)[0]
    if size > limit:
        raise FrameError(f"{size} bytes, {limit} are allowed")
    return size


def unpack(body: bytes | bytearray) -> dict[str, Any]:
    """The message in a body. Raises `FrameError`."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FrameError("no JSON") from error
    if not isinstance(message, dict):
        raise FrameError("no object")
    return message


def read_message(descriptor: int, limit: int) -> dict[str, Any] | None:
    """The next message from a blocking descriptor; None at its end. Raises `FrameError`."""
    head = _read(descriptor, HEAD.size)
    if not head:
        return None
    size = body_size(head, limit)
    if size is None:
        raise FrameError("cut off")
    body = _read(descriptor, size)
    if len(body) != size:
        raise FrameError("cut off")
    return unpack(body)


def write_message(descriptor: int, message: Any) -> None:
    """Send a message over a blocking descriptor. Raises `OSError`."""
    left = memoryview(pack(message))
    while left:
        left = left[os.write(descriptor, left) :]


def _read(descriptor: int, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = os.read(descriptor, min(size - len(parts), 1 << 16))
        if not part:
            break
        parts += part
    return bytes(parts)
