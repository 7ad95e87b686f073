"""Runs the server: state directory, listening socket, uvicorn with TLS, an orderly end on SIGTERM and SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from kokon.errors import HostError, UsageError
from kokon.provisioning.app import build_app
from kokon.provisioning.client import ADMIN_FILE
from kokon.provisioning.keys import ADMIN_TOKEN, fingerprint, keep_token_keys, open_keys, write_private
from kokon.provisioning.service import Service
from kokon.provisioning.store import Store
from kokon.provisioning.tls import TlsIdentity, open_tls, server_context
from kokon.tee.endorsements import Endorsements

if TYPE_CHECKING:
    from types import FrameType

    from kokon.appraisal.lacking import Completion
    from kokon.appraisal.policy import Policy

OWNER_JWK = "owner-key.jwk"
"""What the owner gives to authors: the public key that layer keys are encrypted to."""
CONNECTIONS = 1024
KEEP_ALIVE = 15
HEAD_SECONDS = 20.0
"""How long a peer may take to send a request's head; twice as long at most, since that is how often it is looked at."""
GRACE = 5
HEAD_LIMIT = 64 << 10
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - recognised, not bound


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """State directory, address to listen on, further names for the certificate, accepted simulated roots (hex).

    `endorsements` are known beforehand, `complete` gets what is lacking (None: nothing is fetched), and `policy` is
    demanded of every platform (None: the strict default).
    """

    state: Path
    host: str = "127.0.0.1"
    port: int = 8443
    names: tuple[str, ...] = ()
    accepted_simulated: frozenset[str] = frozenset()
    endorsements: Endorsements = field(default_factory=Endorsements)
    complete: Completion | None = None
    policy: Policy | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """What a server that listens tells: never the token, only where its file is."""

    url: str
    certificate: Path
    owner_key: Path
    owner_fingerprint: str
    admin: Path
    admin_token: Path
    accepted_simulated: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "url": self.url,
            "certificate": str(self.certificate),
            "owner_key": str(self.owner_key),
            "owner_fingerprint": self.owner_fingerprint,
            "admin": str(self.admin),
            "admin_token_file": str(self.admin_token),
            "accepted_simulated": list(self.accepted_simulated),
        }


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[address]:port`. Raises `UsageError` (`listen-malformed`)."""
    host, separator, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise UsageError(
            "listen-malformed", "not an address to listen on", expected="127.0.0.1:8443", found=repr(text[:200])
        )
    return host, int(port)


def parse_fingerprint(text: str) -> str:
    """A root's fingerprint in lower case. Raises `UsageError` (`fingerprint-malformed`)."""
    digits = text.strip().lower().replace(":", "").removeprefix("sha256")
    if len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
        raise UsageError(
            "fingerprint-malformed", "not a fingerprint", expected="64 hexadecimal digits", found=repr(text[:100])
        )
    return digits


def serve(options: ServeOptions, announce: Callable[[Ready], None]) -> None:
    """Serve until SIGTERM or SIGINT; `announce` is called once requests are answered. Call it from the main thread.

    Raises `HostError` (`port-taken`, `listen-failed`, and those of the store), and what keys and certificate raise.
    """
    _raise_descriptor_limit()
    now = datetime.now(UTC)
    keys = open_keys(options.state, now)
    named = () if options.host in _WILDCARDS else (options.host,)
    identity = open_tls(options.state, (*named, *options.names), now)
    listener = _listen(options.host, options.port)
    with contextlib.closing(listener):
        store = Store(options.state, keys.master)
        service = Service(
            store,
            keys,
            identity.certificate,
            options.endorsements | Endorsements(accepted_simulated=options.accepted_simulated),
            lambda: datetime.now(UTC),
            policy=options.policy,
            complete=options.complete,
            keep=lambda tokens: keep_token_keys(options.state, tokens),
        )
        url = _url(options, listener.getsockname()[1])
        access = {"url": url, "token": keys.admin_token, "certificate": identity.certificate}
        write_private(options.state / ADMIN_FILE, json.dumps(access).encode())
        owner_key = options.state / OWNER_JWK
        write_private(owner_key, json.dumps(service.owner_key()["jwk"]).encode(), mode=0o644)
        ready = Ready(
            url=url,
            certificate=identity.certificate_file,
            owner_key=owner_key,
            owner_fingerprint=fingerprint(keys.owner.public_key()),
            admin=options.state / ADMIN_FILE,
            admin_token=options.state / ADMIN_TOKEN,
            accepted_simulated=tuple(sorted(options.accepted_simulated)),
        )
        server = _Server(configuration(service, identity), lambda: announce(ready))
        asyncio.run(server.serve(sockets=[listener]))


def configuration(service: Service, identity: TlsIdentity) -> uvicorn.Config:
    """How uvicorn runs the application: bounded connections, heads and times; no access log."""
    return uvicorn.Config(
        build_app(service),
        http=_Protocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=512,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
        h11_max_incomplete_event_size=HEAD_LIMIT,
        ssl_context_factory=lambda _config, _default: server_context(identity),
    )


class _Protocol(H11Protocol):
    """uvicorn's HTTP/1.1, which by itself waits for ever for a request's head once its first byte has come."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(HEAD_SECONDS, self._watch, None)

    def _watch(self, before: object) -> None:
        """Give up a peer that has begun no request since `before` was the latest and is in the middle of none."""
        if self.transport.is_closing():
            return
        if self.cycle is before and self.conn.their_state is h11.IDLE:
            self.transport.close()
            return
        self.loop.call_later(HEAD_SECONDS, self._watch, self.cycle)


class _Server(uvicorn.Server):
    """uvicorn that says when it is ready, and ends with status 0 on the signals that ask it to."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        def end(_number: int, _frame: FrameType | None) -> None:
            self.should_exit = True

        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _raise_descriptor_limit() -> None:
    """Allow as many descriptors as the process may have: by default fewer than `CONNECTIONS` and the store need."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # asyncio switches Nagle's delay off only for sockets that say their protocol.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise HostError("listen-failed", f"cannot listen on {host}", found=error.strerror) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise HostError(
                "port-taken",
                f"port {port} is already in use on {host}",
                hint="stop what listens there, or choose another with --listen",
            ) from error
        raise HostError("listen-failed", f"cannot listen on {host}", found=error.strerror) from error
    return listener


def _url(options: ServeOptions, port: int) -> str:
    host = options.host
    if host in _WILDCARDS:
        host = options.names[0] if options.names else "127.0.0.1"
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
