"""A local port whose connections continue over the attested channel: for programs that know nothing of
attestation."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from typing import TYPE_CHECKING

from kokon.channel.relay import relay
from kokon.errors import HostError, KokonError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kokon.channel.client import AttestedPeer

CONNECTIONS = 256
IDLE = 3600.0


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:PORT`, `[::1]:PORT` or `localhost:PORT`; port 0 means any.

    What comes out of the local end is in clear, so no other machine may reach it. Raises `UsageError`
    (`listen-malformed`, `listen-not-loopback`).
    """
    host, _, digits = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (digits.isascii() and digits.isdigit()) or int(digits) > 65535:
        raise UsageError("listen-malformed", "not an address to listen on", expected="127.0.0.1:PORT", found=text)
    if not _loopback(host):
        raise UsageError(
            "listen-not-loopback",
            "the local end is in clear and must stay on this machine",
            expected="127.0.0.1, ::1 or localhost",
            found=host,
        )
    return host, int(digits)


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class LocalProxy:
    """Listens on a loopback address; each connection gets a new attested one from `peer`. `report` hears of
    refusals."""

    def __init__(self, peer: AttestedPeer, report: Callable[[KokonError], None]) -> None:
        self._peer = peer
        self._report = report
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        self._listener: socket.socket | None = None
        self._closing = threading.Event()

    def listen(self, host: str, port: int) -> tuple[str, int]:
        """Bind; the address in use is returned. Raises `HostError` (`port-taken`)."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, port), family=family, backlog=64)
        except OSError as error:
            raise HostError(
                "port-taken",
                "cannot listen",
                found=f"{host}:{port}: {error.strerror}",
                hint="choose another port with --listen",
            ) from error
        address: tuple[str, int] = self._listener.getsockname()[:2]
        return address

    def serve(self) -> None:
        """Serve until `close` is called."""
        listener = self._listener
        while listener is not None and not self._closing.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                self._closing.wait(0.05)
                continue
            if self._free.acquire(blocking=False):
                threading.Thread(target=self._tunnel, args=(sock,), name="tunnel", daemon=True).start()
            else:
                sock.close()

    def close(self) -> None:
        """Stop listening; tunnels that are open go on until they end."""
        self._closing.set()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()

    def _tunnel(self, sock: socket.socket) -> None:
        try:
            relay(self._peer.open(protocol=None), sock, idle=IDLE)
        except KokonError as error:
            self._report(error)
        finally:
            sock.close()
            self._free.release()
