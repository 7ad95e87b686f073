"""What the host may ask of a running guest: to stop the application with a signal, nothing else.

One JSON object per line, `{"op":"stop","signal":15}`. Anything else is dropped without an answer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kokon.errors import KokonError, MalformedError
from kokon.wire import Fields, parse_json

LINE_LIMIT = 256
SIGNALS = frozenset({1, 2, 3, 9, 10, 12, 15})
"""HUP, INT, QUIT, KILL, USR1, USR2, TERM: those that ask a program for something, or end it."""
_IDLE = 0.5


@dataclass(frozen=True, slots=True)
class Stop:
    """Send this signal, one of `SIGNALS`, to the application."""

    signal: int


def parse_command(line: bytes) -> Stop:
    """One line without its newline. Raises `MalformedError` (`control-malformed` and those of `kokon.wire`)."""
    fields = Fields(parse_json(line, limit=LINE_LIMIT, what="control line"), "control line")
    operation = fields.text("op", limit=16)
    if operation != "stop":
        raise MalformedError("control-malformed", "unknown operation", expected="stop")
    stop = Stop(fields.integer("signal", low=1, high=64))
    fields.finish()
    if stop.signal not in SIGNALS:
        raise MalformedError("control-malformed", "not a signal that the host may send", found=stop.signal)
    return stop


class LineBuffer:
    """Cuts a byte stream into lines of at most `LINE_LIMIT` bytes; longer ones are dropped whole."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that `data` completes, without their newlines."""
        *complete, rest = (self._rest + data).split(b"\n")
        for line in complete:
            skip, self._skipping = self._skipping, False
            if not skip and len(line) <= LINE_LIMIT:
                yield line
        self._skipping = self._skipping or len(rest) > LINE_LIMIT
        self._rest = b"" if self._skipping else rest


def follow(descriptor: int, act: Callable[[Stop], None], idle: float = _IDLE) -> None:
    """Read commands for ever and hand the good ones to `act`; while no host is connected, look every `idle` seconds."""
    lines = LineBuffer()
    while True:
        try:
            data = os.read(descriptor, 4096)
        except OSError:
            data = b""
        if not data:
            time.sleep(idle)
            continue
        for line in lines.feed(data):
            try:
                command = parse_command(line)
            except KokonError:
                continue
            act(command)
