"""Runs the server: state directory, listening socket, TLS, an orderly end on SIGTERM and SIGINT."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kokon.errors import KokonError, UsageError
from kokon.provisioning.admin.principals import ENROLLED, enrolled
from kokon.provisioning.app import Surroundings, build_app
from kokon.provisioning.client import ADMIN_FILE
from kokon.provisioning.core import Demands
from kokon.provisioning.keys import SERVER, fingerprint, key_pem
from kokon.provisioning.replica import CERTIFICATE, OWNER_JWK, Replica, open_replica, write_access
from kokon.provisioning.state import Settings, held_by, holder_of, read_settings
from kokon.provisioning.tls import tls_identity
from kokon.provisioning.web.api import API
from kokon.provisioning.web.connection import client_key
from kokon.provisioning.web.health import Readiness
from kokon.provisioning.web.logging import configure_logging, get_logger
from kokon.provisioning.web.metrics import Metrics
from kokon.provisioning.web.run import RunOptions, make_server
from kokon.provisioning.web.server import Server, listeners
from kokon.provisioning.web.tls import ServerTls, TlsOptions

if TYPE_CHECKING:
    import socket

    from kokon.provisioning.custody.enclave import Derive

_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - recognised, not bound
ENROLMENT_SECONDS = 1.0
"""How long it may take until a client certificate that another replica enrolled is known here."""


def _no_secret(what: str) -> bytes:
    raise UsageError(
        "custody-incomplete",
        f"the master key needs a {what}",
        hint="give it with --passphrase-fd or --credential",
    )


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """State directory, address to listen on, further names for the certificate, and what is demanded of guests.

    `secret` is asked for the passphrase or PIN that opens the master key, `derive` is the enclave's that the server
    runs in. `settings` None: those of the state directory. `old_guests` allows TLS 1.2.
    """

    state: Path
    host: str = "127.0.0.1"
    port: int = 8443
    names: tuple[str, ...] = ()
    demands: Demands = field(default_factory=Demands)
    settings: Settings | None = None
    secret: Callable[[str], bytes] = _no_secret
    derive: Derive | None = None
    new_certificate: bool = False
    literal_statuses: bool = False
    old_guests: bool = True
    run: RunOptions = field(default_factory=RunOptions)


@dataclass(frozen=True, slots=True)
class Ready:
    """What a server that listens tells: never the token, only where its file is."""

    url: str
    certificate: Path
    owner_key: Path
    owner_fingerprint: str
    admin: Path
    accepted_simulated: tuple[str, ...]
    development: bool = False

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "url": self.url,
            "certificate": str(self.certificate),
            "owner_key": str(self.owner_key),
            "owner_fingerprint": self.owner_fingerprint,
            "admin": str(self.admin),
            "accepted_simulated": list(self.accepted_simulated),
            "development": self.development,
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

    Raises `HostError` (`port-taken`, `listen-failed`, `server-start-failed`), and as `open_replica` does.
    """
    configure_logging()
    settings = options.settings or read_settings(options.state)
    holder = holder_of(held_by(options.state), settings, options.secret, options.derive)
    named = () if options.host in _WILDCARDS else (options.host,)
    metrics = Metrics(operation.name for operation in API.operations)
    with ExitStack() as stack:
        sockets = listeners([(options.host, options.port)])
        for one in sockets:
            stack.callback(one.close)
        replica = stack.enter_context(
            open_replica(
                options.state,
                holder,
                settings,
                options.demands,
                lambda: datetime.now(UTC),
                names=(*named, *options.names),
                new_certificate=options.new_certificate,
                counters=metrics,
            )
        )
        url = _url(options, sockets[0].getsockname()[1])
        write_access(replica, url)
        running = Running(replica, options, metrics, sockets, lambda: announce(_ready(replica, url)))
        stack.enter_context(running).start()


class Running(ExitStack):
    """A server around a replica, as a context: start it."""

    def __init__(
        self,
        replica: Replica,
        options: ServeOptions,
        metrics: Metrics,
        sockets: list[socket.socket],
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._replica = replica
        self._options = options
        self._metrics = metrics
        self._sockets = sockets
        self._ready = ready

    def __enter__(self) -> Server:  # type: ignore[override]
        super().__enter__()
        replica, options, metrics = self._replica, self._options, self._metrics
        keys = replica.keys
        identity = self.enter_context(tls_identity(key_pem(keys.tls), keys.certificate))
        tls = ServerTls(identity, TlsOptions(old_guests=options.old_guests))
        self.enter_context(_Enrolment(replica, tls))
        readiness = Readiness({"database": replica.store.ping}, _tell_readiness)
        surroundings = Surroundings(
            log_key=replica.logs.verifier,
            ready=lambda: readiness(time.monotonic()),
            metrics=metrics.render,
            certificate_of=client_key,
            literal=options.literal_statuses,
        )
        return make_server(
            build_app(replica.core, surroundings),
            listeners=self._sockets,
            tls=tls,
            metrics=metrics,
            readiness=readiness,
            known_project=replica.core.has_project,
            options=options.run,
            ready=self._ready,
        )


def _tell_readiness(failures: Mapping[str, str]) -> None:
    logger = get_logger("kokon.ready")
    if failures:
        logger.error("not ready", **failures)
    else:
        logger.info("ready again")


class _Enrolment:
    """Keeps TLS' list of client certificates what the principals are."""

    def __init__(self, replica: Replica, tls: ServerTls) -> None:
        self._store = replica.store
        self._tls = tls
        self._known: object = None
        self._end = threading.Event()
        self._look()
        self._thread = threading.Thread(target=self._run, name="enrolment", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(ENROLMENT_SECONDS):
            with suppress(KokonError):
                self._look()

    def _look(self) -> None:
        snapshot = self._store.snapshot(SERVER)
        named = tuple((name, snapshot.get(ENROLLED, name)) for name in snapshot.names(ENROLLED))
        if named != self._known:
            self._tls.enroll(enrolled(self._store))
            self._known = named


def _ready(replica: Replica, url: str) -> Ready:
    directory = replica.directory
    return Ready(
        url=url,
        certificate=directory / CERTIFICATE,
        owner_key=directory / OWNER_JWK,
        owner_fingerprint=fingerprint(replica.keys.owner.public_key()),
        admin=directory / ADMIN_FILE,
        accepted_simulated=tuple(sorted(replica.core.demands.endorsements.accepted_simulated)),
        development=replica.core.demands.development,
    )


def _url(options: ServeOptions, port: int) -> str:
    host = options.host
    if host in _WILDCARDS:
        host = options.names[0] if options.names else "127.0.0.1"
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
