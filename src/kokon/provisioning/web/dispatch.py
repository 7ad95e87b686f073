"""Finds a request's operation, calls its handler and turns what that raises into an answer: an ASGI application.

Starlette's routes, requests and responses without its router, which tries routes one after the other, and without its
layers for exceptions, which would take as long as all else that is done for a guest.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

if TYPE_CHECKING:
    from re import Pattern

    from starlette.convertors import Convertor
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from kokon.provisioning.web.openapi import OperationRoute

Endpoint = Callable[[Request], Awaitable["Response"]]
_Methods = dict[str, tuple[str, Endpoint]]


class Dispatcher:
    """Serves `routes`. `failed` makes an answer of what a handler raised, be it foreseen or not; `state` is for
    handlers (`request.app.state`); `close` is awaited when the server ends; every answer has `headers`."""

    def __init__(
        self,
        routes: Sequence[OperationRoute],
        state: object,
        failed: Callable[[Request, Exception], Response],
        close: Callable[[], Awaitable[None]],
        logger: Any,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.state = state
        self._failed = failed
        self._close = close
        self._logger = logger
        self._headers = dict(headers or {})
        self._plain: dict[str, _Methods] = {}
        self._patterns: dict[str, list[tuple[Pattern[str], Mapping[str, Convertor[Any]], _Methods]]] = {}
        for route in routes:
            self._add(route)

    def _add(self, route: OperationRoute) -> None:
        if not route.param_convertors:
            methods = self._plain.setdefault(route.path, {})
        else:
            patterns = self._patterns.setdefault(_beginning(route.path), [])
            known = next((found for regex, _, found in patterns if regex == route.path_regex), None)
            methods = {} if known is None else known
            if known is None:
                patterns.append((route.path_regex, route.param_convertors, methods))
        for method in route.methods or ():
            methods.setdefault(method, (route.name, route.endpoint))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or take part in the server's beginning and end."""
        if scope["type"] != "http":
            await self._lifespan(receive, send)
            return
        scope["app"] = self
        request = Request(scope, receive)
        try:
            response = await self._handler(scope)(request)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the peer gets an answer, and the operator is told
            response = self._failed(request, error)
            if response.status_code == 500:
                self._logger.error("a bug", error=type(error).__name__, trace=traceback.format_exc(limit=-8))
        if self._headers:
            response.headers.update(self._headers)
        await response(scope, receive, send)

    def _handler(self, scope: Scope) -> Endpoint:
        """The handler of a request, whose parameters are put into the scope. Raises `HTTPException` (404, 405)."""
        path: str = scope["path"]
        methods = self._plain.get(path)
        if methods is None:
            methods = self._match(path, scope)
        found = methods.get(scope["method"])
        if found is None:
            scope["operation"] = next(iter(methods.values()))[0]
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(methods))})
        scope["operation"], endpoint = found
        return endpoint

    def _match(self, path: str, scope: Scope) -> _Methods:
        for regex, convertors, methods in self._patterns.get(_beginning(path), ()):
            match = regex.match(path)
            if match is not None:
                scope["path_params"] = {
                    name: convertors[name].convert(text) for name, text in match.groupdict().items()
                }
                return methods
        raise HTTPException(404)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self._close()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _beginning(path: str) -> str:
    """The first three segments of a path or pattern, which no parameter is among; of projects' operations "p"."""
    segments = path.split("/", 4)[1:4]
    return "p" if segments[:1] == ["p"] else "/".join(segments)
