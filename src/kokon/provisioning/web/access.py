"""Sees every request: its figures by operation, one line in the log, and headers that each answer has.

A line has the operation, the project, the client's address, status and time. No path, no query, no header: names of
resources are nobody's business here, and what a client sends might hold a secret. What was decided is in the signed
log.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from kokon.provisioning.web.metrics import Metrics

AccessLines = Literal["all", "failures", "none"]
"""Which requests have a line in the log: `failures` are those with a status from 500 on, which `none` has too."""
QUIET = frozenset({"health", "ready", "metrics"})
"""Operations that are asked for all the time: lines only of failures."""
_HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
"""Nothing that is answered here is for a cache (RFC 9111) or to be guessed at; an answer's own go before."""


def _nowhere(_: Scope) -> str | None:
    return None


class Access:
    """ASGI middleware, the outermost. `scope["operation"]` is what the router found (`openapi.OperationRoute`).

    `project_of` names a request's project if there is such a one. `clock` gives seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        logger: Any,
        *,
        project_of: Callable[[Scope], str | None] = _nowhere,
        lines: AccessLines = "all",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._logger = logger
        self._project_of = project_of
        self._lines = lines
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request and note how that went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = self._clock(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": _completed(message.get("headers", ()))}
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:
            status = status or 500  # the server answers that, and logs why
            raise
        finally:
            self._note(scope, status, self._clock() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        """`status` 0: the client left before there was an answer."""
        operation = scope.get("operation")
        self._metrics.request(operation, status, seconds)
        failed = status >= 500
        if not failed and (self._lines != "all" or operation in QUIET):
            return
        client = scope.get("client")
        (self._logger.error if failed else self._logger.info)(
            "request",
            operation=operation or "other",
            project=self._project_of(scope),
            client=client[0] if client else None,
            status=status,
            milliseconds=round(seconds * 1000, 1),
        )


def _completed(headers: Any) -> list[tuple[bytes, bytes]]:
    given = list(headers)
    names = {name for name, _ in given}
    return given + [header for header in _HEADERS if header[0] not in names]
