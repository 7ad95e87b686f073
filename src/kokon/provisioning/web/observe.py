"""Sees each request: figures by operation, and a line in the log for each that failed on our side.

ASGI middleware right around the application. What was asked of whom is in the signed log, not here: here is no address
of a client, no name of a resource and no header.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from kokon.provisioning.web.metrics import Metrics


class Observer:
    """`templates` gives the path's template of each operation; what is none counts as `other`."""

    def __init__(self, app: ASGIApp, metrics: Metrics, templates: Mapping[str, str], logger: Any) -> None:
        self._app = app
        self._metrics = metrics
        self._templates = templates
        self._logger = logger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request and note how that went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            took = time.perf_counter() - began
            template = self._templates.get(scope.get("operation", ""))
            self._metrics.request(template, status, took)
            if status >= 500:
                self._logger.error("request failed", route=template or "other", status=status, seconds=round(took, 4))
