"""TLS 1.3 over a socket with deadlines, half-close and no loss at the end: what both sides of the channel stand on.

`ssl.SSLSocket` cannot send close_notify and go on reading, and must not be read and written by two threads; TLS
over memory (`ssl.SSLObject`) can do the former, and one thread that polls does not need the latter.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import time
from typing import TYPE_CHECKING

from kokon.channel.protocol import HEADER_SIZE, encode_frame, frame_size
from kokon.errors import UnreachableError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

BUFFER = 64 << 10


def server_context(certificate: str, private_key: str, protocols: Sequence[str]) -> ssl.SSLContext:
    """A TLS 1.3 server context for a PEM certificate and PEM private key; the key touches no disk.

    There are no session tickets: every connection proves the key anew.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.set_alpn_protocols(list(protocols))
    descriptor = os.memfd_create("kokon-tls", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(private_key.encode() + certificate.encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context


def client_context(protocols: Sequence[str]) -> ssl.SSLContext:
    """A TLS 1.3 client context that accepts any certificate: the caller must verify the evidence in it.

    The peer's proof that it holds the certificate's key is checked all the same: CERT_NONE drops only the chain.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def send_at_once(sock: socket.socket) -> None:
    """Switch Nagle's delay off on a TCP socket; others have none."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class TlsStream:
    """One TLS connection over a connected socket, which it owns from now on. Times are seconds.

    Blocking calls (`handshake`, `read`, `write`, ...) take a deadline for the whole call, so that a peer that sends
    one byte at a time gains nothing. `feed`, `plaintext`, `queue` and `flush` never block; the relay uses them. All
    raise `UnreachableError` (`peer-timeout`, `peer-closed`, `tls-failed`).
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> None:
        sock.setblocking(False)
        send_at_once(sock)
        self.socket = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._unsent = b""
        self._write_closed = False

    @property
    def alpn(self) -> str | None:
        """The application protocol (RFC 7301) that was agreed on."""
        return self._tls.selected_alpn_protocol()

    @property
    def peer_certificate(self) -> bytes:
        """The peer's certificate, DER; empty if it sent none."""
        return self._tls.getpeercert(binary_form=True) or b""

    @property
    def unsent(self) -> bool:
        """Whether `flush` has something left to do."""
        return bool(self._unsent) or self._outgoing.pending > 0

    def readable(self) -> bool:
        """Whether the socket has something to take in, its end included."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(0))

    def handshake(self, timeout: float) -> None:
        """Shake hands."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._send_all(deadline)
                self._receive(deadline)
            except ssl.SSLEOFError as error:
                raise _closed(error) from error
            except ssl.SSLError as error:
                with contextlib.suppress(UnreachableError):
                    self.flush()  # the alert
                raise UnreachableError(
                    "tls-failed",
                    "the TLS handshake failed",
                    found=error.reason or type(error).__name__,
                    hint="the other end must speak TLS 1.3",
                ) from error
            else:
                self._send_all(deadline)
                return

    def read(self, limit: int, timeout: float) -> bytes:
        """Up to `limit` bytes; empty at the peer's orderly end."""
        deadline = time.monotonic() + timeout
        while (data := self.plaintext(limit)) is None:
            self._send_all(deadline)
            self._receive(deadline)
        return data

    def write(self, data: bytes, timeout: float) -> None:
        """Send all of `data`."""
        self.queue(data)
        self._send_all(time.monotonic() + timeout)

    def close_write(self) -> None:
        """Queue close_notify (RFC 8446 section 6.1); reading goes on."""
        if not self._write_closed:
            self._write_closed = True
            with contextlib.suppress(ssl.SSLError):  # SSLWantReadError: the peer has not closed its side yet
                self._tls.unwrap()

    def close(self) -> None:
        """Say close_notify if that can be done at once, and close the socket."""
        self.close_write()
        with contextlib.suppress(UnreachableError):
            self.flush()
        self.socket.close()

    def abort(self) -> None:
        """Close the socket without close_notify, lest the peer takes what it has for the whole."""
        self._write_closed = True
        self.socket.close()

    def feed(self) -> None:
        """Take in what the socket has."""
        try:
            data = self.socket.recv(BUFFER)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise _closed(error) from error
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def plaintext(self, limit: int = BUFFER) -> bytes | None:
        """Up to `limit` bytes from what was taken in; None if more is needed, empty at the peer's orderly end."""
        try:
            return self._tls.read(limit)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLError as error:
            raise _closed(error) from error

    def queue(self, data: bytes) -> None:
        """Encrypt `data` for sending."""
        try:
            if data:
                self._tls.write(data)
        except ssl.SSLError as error:
            raise _closed(error) from error

    def flush(self) -> None:
        """Send what the socket takes."""
        if not self._unsent:
            self._unsent = self._outgoing.read()
        try:
            while self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :] or self._outgoing.read()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise _closed(error) from error

    def _send_all(self, deadline: float) -> None:
        self.flush()
        while self.unsent:
            self._wait(select.POLLOUT, deadline)
            self.flush()

    def _receive(self, deadline: float) -> None:
        self._wait(select.POLLIN, deadline)
        self.feed()

    def _wait(self, event: int, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left > 0:
            poll = select.poll()
            poll.register(self.socket, event)
            if poll.poll(left * 1000):
                return
        raise UnreachableError("peer-timeout", "the peer took too long", hint="try again; the network may be slow")


def _closed(error: OSError) -> UnreachableError:
    reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    return UnreachableError("peer-closed", "the peer broke the connection off", found=reason or type(error).__name__)


def send_message(stream: TlsStream, message: Mapping[str, Any], timeout: float) -> None:
    """Send `message` as one frame. Raises `MalformedError` (`frame-too-large`) and as `TlsStream` does."""
    stream.write(encode_frame(message), timeout)


def receive_message(stream: TlsStream, *, limit: int, timeout: float) -> bytes | None:
    """The body of the next frame, at most `limit` bytes, within `timeout` in all; None at the peer's orderly end.

    Raises `MalformedError` (`frame-...`) and as `TlsStream` does.
    """
    deadline = time.monotonic() + timeout
    header = _exactly(stream, HEADER_SIZE, deadline)
    if not header:
        return None
    size = frame_size(header, limit=limit)
    body = _exactly(stream, size, deadline)
    if len(body) != size:
        raise UnreachableError("peer-closed", "the peer ended in the middle of a frame")
    return body


def _exactly(stream: TlsStream, size: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = stream.read(size - len(data), deadline - time.monotonic())
        if not part:
            break
        data += part
    return bytes(data)
