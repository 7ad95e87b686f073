"""Pass bytes between a TLS connection and a plain socket, in one thread, with back-pressure and half-close."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from typing import TYPE_CHECKING

from kokon.channel.tls import BUFFER, send_at_once
from kokon.errors import UnreachableError

if TYPE_CHECKING:
    from kokon.channel.tls import TlsStream


def relay(tls: TlsStream, plain: socket.socket, *, idle: float) -> None:
    """Relay until both sides have ended; closes both. Nothing for `idle` seconds ends it too.

    The end of one direction is passed on and the other goes on. If a side ends in disorder (TLS without close_notify,
    which may be somebody in between; a reset; silence), so does the other: the plain side is reset, TLS gets no
    close_notify, lest a cut message passes for a whole one.
    """
    plain.setblocking(False)
    send_at_once(plain)
    try:
        _Relay(tls, plain).run(idle)
    except (UnreachableError, OSError):
        with contextlib.suppress(OSError):
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        tls.abort()
    finally:
        tls.close()
        plain.close()


class _Relay:
    """State of one relay: bytes on their way to the plain socket and which side has ended."""

    def __init__(self, tls: TlsStream, plain: socket.socket) -> None:
        self._tls = tls
        self._plain = plain
        self._to_plain = b""
        self._tls_ended = False
        self._plain_ended = False
        self._told_plain = False

    def run(self, idle: float) -> None:
        self._step(tls_ready=False, plain_ready=False)
        while not self._done():
            poll = select.poll()
            # A descriptor of which nothing is wanted stays out: its hang-up would be reported again and again.
            for descriptor, events in (
                (self._tls.socket, self._tls_events()),
                (self._plain, self._plain_events()),
            ):
                if events:
                    poll.register(descriptor, events)
            ready = dict(poll.poll(idle * 1000))
            if not ready:
                raise UnreachableError("peer-timeout", "the connection was idle for too long")
            self._step(
                tls_ready=bool(ready.get(self._tls.socket.fileno(), 0) & ~select.POLLOUT),
                plain_ready=bool(ready.get(self._plain.fileno(), 0) & ~select.POLLOUT),
            )

    def _done(self) -> bool:
        return self._tls_ended and self._plain_ended and not self._to_plain and not self._tls.unsent

    def _tls_events(self) -> int:
        reading = select.POLLIN if not self._tls_ended and not self._to_plain else 0
        return reading | (select.POLLOUT if self._tls.unsent else 0)

    def _plain_events(self) -> int:
        reading = select.POLLIN if not self._plain_ended and not self._tls.unsent else 0
        return reading | (select.POLLOUT if self._to_plain else 0)

    def _step(self, *, tls_ready: bool, plain_ready: bool) -> None:
        if tls_ready:
            self._tls.feed()
        if plain_ready and not self._plain_ended:
            self._from_plain()
        self._tls.flush()
        while self._to_plain or self._decrypted():
            if not self._send_plain():
                return
        if self._tls_ended and not self._told_plain:
            self._told_plain = True
            self._plain.shutdown(socket.SHUT_WR)

    def _from_plain(self) -> None:
        try:
            data = self._plain.recv(BUFFER)
        except (BlockingIOError, InterruptedError):
            return
        if data:
            self._tls.queue(data)
            return
        self._plain_ended = True
        # Sending close_notify makes OpenSSL drop records that it holds unread, so take them out first.
        held = [self._to_plain]
        self._to_plain = b""
        while self._decrypted():
            held.append(self._to_plain)
        self._to_plain = b"".join(held)
        self._tls.close_write()

    def _decrypted(self) -> bool:
        """Whether there is more plaintext, which is then in `_to_plain`."""
        data = None if self._tls_ended else self._tls.plaintext()
        if data == b"":
            self._tls_ended = True
        self._to_plain = data or b""
        return bool(data)

    def _send_plain(self) -> bool:
        """Send to the plain socket; whether it took all."""
        try:
            self._to_plain = self._to_plain[self._plain.send(self._to_plain) :]
        except (BlockingIOError, InterruptedError):
            return False
        return not self._to_plain
