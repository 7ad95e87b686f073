"""A whole server around an application: limits, figures, access log, readiness, TLS, connections, an orderly end.

From the outside in: `Server` (connections, TLS), `Access` (figures, log), `Limits` (429, 503), the application.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec

from kokon.errors import UsageError
from kokon.provisioning.access.project import DEFAULT, is_project
from kokon.provisioning.kbs.answers import Where, refusal
from kokon.provisioning.web.access import Access, AccessLines
from kokon.provisioning.web.limits import OVERLOADED, RATE_LIMITED, LimitOptions, Limits, Rate
from kokon.provisioning.web.logging import get_logger
from kokon.provisioning.web.server import Server, ServerOptions, fit_descriptors

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Scope

    from kokon.provisioning.web.health import Readiness
    from kokon.provisioning.web.metrics import Metrics
    from kokon.provisioning.web.tls import ServerTls

_KINDS = {RATE_LIMITED: "denied", OVERLOADED: "host"}
_MESSAGES = {RATE_LIMITED: "too many requests", OVERLOADED: "too much is under way"}
_EVENTS = "/kokon/v1/events"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Limits of requests, how connections are served (their limits are `server.limits`), what the access log has.

    A line for each request takes some 0.2 ms of the processor, as much as many an answer.
    """

    limits: LimitOptions = field(default_factory=LimitOptions)
    server: ServerOptions = field(default_factory=ServerOptions)
    lines: AccessLines = "failures"


def limits_of(per_second: float) -> LimitOptions:
    """Limits for clients that may make so many requests a second (0: without any limit).

    Raises `UsageError` (`rate-malformed`).
    """
    if per_second == 0:
        return LimitOptions(address=None, project=None)
    if not 0.1 <= per_second <= 1e6:
        raise UsageError("rate-malformed", "not a rate of requests", expected="0, or 0.1 to 1000000", found=per_second)
    address = Rate(per_second, max(1, round(4 * per_second)))
    return LimitOptions(address=address, project=Rate(10 * per_second, max(1, round(40 * per_second))))


def make_server(
    app: ASGIApp,
    *,
    listeners: Sequence[socket.socket],
    tls: ServerTls | None,
    metrics: Metrics,
    readiness: Readiness,
    known_project: Callable[[str], bool],
    options: RunOptions = RunOptions(),
    logger: Any = None,
    ready: Callable[[], None] = lambda: None,
    ending: Callable[[], None] = lambda: None,
) -> Server:
    """The server: `start` it.

    `tls` None: plain HTTP. `metrics` must know the operations' names. `readiness` says no once the end begins; then
    `ending` is called, and `ready` once requests are answered. `known_project` says whether there is a project of that
    name, from memory: each has limits of its own, and a client must not be able to make some.
    """
    logger = get_logger("kokon.http") if logger is None else logger

    def project_of(scope: Scope) -> str | None:
        return project_in(scope["path"], known_project)

    def note(code: str) -> None:
        metrics.denial(code)

    def end() -> None:
        readiness.ending = True
        ending()

    limits = Limits(app, options.limits, project_of=project_of, document=refused, note=note)
    access = Access(limits, metrics, logger, project_of=project_of, lines=options.lines)
    fitted = fit_descriptors(options.server.limits)
    if fitted != options.server.limits:
        logger.warning("few descriptors", connections=fitted.connections, wanted=options.server.limits.connections)
    server = Server(
        access,
        listeners,
        tls,
        replace(options.server, limits=fitted),
        ready=ready,
        ending=end,
        note=metrics.connection_event,
    )
    metrics.watch(lambda: server.pool.size, lambda: limits.in_flight)
    return server


def project_in(path: str, known: Callable[[str], bool]) -> str | None:
    """The project that a request is for by its (decoded) path; None if there is no such project."""
    if not path.startswith("/p/"):
        return DEFAULT
    name = path.split("/", 3)[2]
    return name if name == DEFAULT or (is_project(name) and known(name)) else None


def refused(scope: Scope, code: str) -> bytes:
    """The body of a refusal that no handler saw: as the application's, with the protocol's document where it is due."""
    path = scope["path"]
    below = "/" + path.split("/", 3)[3] if path.startswith("/p/") and path.count("/") > 2 else path
    error = {"code": code, "kind": _KINDS.get(code, "denied"), "message": _MESSAGES.get(code, "refused")}
    members: Mapping[str, Any] = {"error": {**error, "hint": "try again after Retry-After seconds"}}
    if below.startswith("/kbs/") or below == _EVENTS:
        where: Where = "handshake" if below.endswith(("/auth", "/attest")) else "resource"
        members = {**refusal(code, error["kind"], where).document, **members}
    return msgspec.json.encode(members)
