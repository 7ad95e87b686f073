"""Two ways to end a guest: ask its agent through the control port, or tell QEMU through its monitor (QMP)."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kokon.errors import MalformedError
from kokon.wire import parse_json

ANSWER_LIMIT = 64 << 10


@contextlib.contextmanager
def connected(path: Path, timeout: float = 2.0) -> Iterator[socket.socket | None]:
    """A connection to the UNIX socket `path`; None if nobody listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(timeout)
        try:
            peer.connect(str(path))
        except OSError:
            yield None
        else:
            yield peer


def listener_pid(path: Path) -> int | None:
    """Id of the process that listens on the UNIX socket `path` (unix(7): SO_PEERCRED)."""
    with connected(path) as peer:
        return None if peer is None else _peer_pid(peer)


def _peer_pid(peer: socket.socket) -> int | None:
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", credentials)[0]
    return pid or None


def is_complete(path: Path, pid: int) -> bool:
    """Whether process `pid` takes orders at the monitor socket `path`.

    QEMU listens there before it has opened disks and ports, and takes orders once it has everything.
    """
    with connected(path) as peer:
        if peer is None or _peer_pid(peer) != pid:
            return False
        with peer.makefile("rb") as answers:
            return _greeted(peer, answers)


@contextlib.contextmanager
def stop_request(path: Path, signal_number: int) -> Iterator[bool]:
    """Ask the agent to stop the container with `signal_number`; yields whether the request was handed over.

    The connection stays open for as long as the context: QEMU drops what the guest has not read when it ends.
    """
    line = json.dumps({"op": "stop", "signal": signal_number}).encode() + b"\n"
    with connected(path) as peer:
        yield peer is not None and _sent(peer, line)


def _sent(peer: socket.socket, data: bytes) -> bool:
    try:
        peer.sendall(data)
    except OSError:
        return False
    return True


def quit_machine(path: Path) -> bool:
    """Tell QEMU to end through the monitor socket `path` (QEMU Machine Protocol: quit); whether it took the order."""
    with connected(path) as peer:
        if peer is None:
            return False
        with peer.makefile("rb") as answers:
            if not _greeted(peer, answers) or not _sent(peer, b'{"execute":"quit"}\n'):
                return False
            answer = _reply(answers)
            return answer is None or "return" in answer  # QEMU may be gone before its answer is out


def _greeted(peer: socket.socket, answers: Any) -> bool:
    """Take QEMU's greeting and enter command mode."""
    if _answer(answers) is None or not _sent(peer, b'{"execute":"qmp_capabilities"}\n'):
        return False
    return "return" in (_reply(answers) or {})


def _reply(answers: Any) -> dict[str, Any] | None:
    """The answer to an order, without the events before it."""
    answer = _answer(answers)
    while answer is not None and "event" in answer:
        answer = _answer(answers)
    return answer


def _answer(answers: Any) -> dict[str, Any] | None:
    try:
        value = parse_json(answers.readline(ANSWER_LIMIT), limit=ANSWER_LIMIT, what="QMP answer")
    except (OSError, MalformedError):
        return None
    return value if isinstance(value, dict) else None
