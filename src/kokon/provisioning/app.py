"""The server over HTTP: the key broker's endpoints for guests and `/kokon/v1` for principals, below each project's URL.

Bodies are bounded and timed before anything looks at them. A guest is told a code and a denial id, nothing more; who
may administrate is told everything. Statuses are the right ones (403, 404, 413, 503), which key broker clients
tolerate, where the reference server answers 401 to everything; `literal` does as that one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from kokon.errors import KokonError
from kokon.jose.jwe import public_jwk
from kokon.provisioning.admin.callers import Callers
from kokon.provisioning.admin.handlers import ADMIN, Handler, bearer_of, optional_number, project_of, raw_path
from kokon.provisioning.admin.trustee import TRUSTEE
from kokon.provisioning.core import Core, Refusal
from kokon.provisioning.guests import Guests
from kokon.provisioning.kbs.answers import Where, error_document, refusal, refusal_of
from kokon.provisioning.kbs.messages import ATTEST_LIMIT, REQUEST_LIMIT, challenge
from kokon.provisioning.kbs.paths import check_path
from kokon.provisioning.kbs.session import read_cookie, set_cookie
from kokon.provisioning.keys import fingerprint
from kokon.provisioning.web.api import API, project_routes
from kokon.provisioning.web.body import read_body
from kokon.provisioning.web.dispatch import Dispatcher
from kokon.provisioning.web.logging import get_logger
from kokon.provisioning.web.openapi import document, routes

if TYPE_CHECKING:
    from starlette.types import Scope

    from kokon.provisioning.ledger.keys import VerifierKey
    from kokon.provisioning.web.health import Health

RESOURCES = "/kbs/v0/resource/"
SECRETS = "/kokon/v1/secrets/"
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the application needs besides the core: `log_key` gives a project's verifier key, `ready` and `metrics`
    their answers, `certificate_of` the SHA-256 of a client certificate's SubjectPublicKeyInfo, if one was shown.
    `close` is called when the application ends. `literal`: statuses as the reference server has them."""

    log_key: Callable[[str], VerifierKey]
    ready: Callable[[], Health]
    metrics: Callable[[], bytes]
    certificate_of: Callable[[Scope], bytes | None] = lambda _: None
    close: Callable[[], None] = lambda: None
    literal: bool = False
    description: Mapping[str, Any] = field(default_factory=lambda: document(API))


def build_app(core: Core, surroundings: Surroundings) -> Dispatcher:
    """The application around `core`."""
    guests = Guests(core)

    async def close() -> None:
        guests.close()
        await run_in_threadpool(surroundings.close)

    state = State(core, guests, Callers(core), surroundings)
    every = [*routes(API, TABLE), *project_routes(TABLE)]
    marks = {"Kokon-Mode": "development"} if core.demands.development else {}
    return Dispatcher(every, state, failed, close, get_logger("kokon.http"), marks)


@dataclass(frozen=True, slots=True)
class State:
    """What handlers find in `request.app.state`."""

    core: Core
    guests: Guests
    callers: Callers
    surroundings: Surroundings

    def log_key(self, project: str) -> VerifierKey:
        """The verifier key of a project's log."""
        return self.surroundings.log_key(project)

    def certificate_of(self, scope: Scope) -> bytes | None:
        """The SHA-256 of the SubjectPublicKeyInfo of the client's certificate."""
        return self.surroundings.certificate_of(scope)


# -- guests --------------------------------------------------------------------------------------------------------


async def _auth(request: Request) -> Response:
    body = await read_body(request.scope, request.receive, REQUEST_LIMIT)
    session, nonce = _guests(request).auth(project_of(request), body)
    return _with_session(request, challenge(nonce), session)


async def _attest(request: Request) -> Response:
    body = await read_body(request.scope, request.receive, ATTEST_LIMIT)
    granted = await _guests(request).attest(project_of(request), _cookie(request), body)
    return _with_session(request, {"token": granted.token}, granted.session)


async def _get_resource(request: Request) -> Response:
    path, version = raw_path(request, RESOURCES), optional_number(request, "version")
    message = await _guests(request).resource(project_of(request), _cookie(request), bearer_of(request), path, version)
    return Response(msgspec.json.encode(message), media_type=JSON)


async def _event(request: Request) -> Response:
    body = await read_body(request.scope, request.receive, REQUEST_LIMIT)
    await _guests(request).event(project_of(request), bearer_of(request), body)
    return JSONResponse({"logged": True})


def _with_session(request: Request, members: Mapping[str, Any], session: str) -> Response:
    """The session's cookie is for the project's address, so that guests of two projects on one host keep two."""
    base = f"/p/{request.path_params['project']}" if "project" in request.path_params else ""
    headers = {"Set-Cookie": set_cookie(session, f"{base}/kbs/v0")}
    return Response(msgspec.json.encode(members), media_type=JSON, headers=headers)


def _cookie(request: Request) -> str | None:
    return read_cookie(request.headers.get("cookie"))


def _guests(request: Request) -> Guests:
    return request.app.state.guests  # type: ignore[no-any-return]


GUESTS: Mapping[str, Handler] = {
    "auth": _auth,
    "attest": _attest,
    "get-resource": _get_resource,
    "event": _event,
}


# -- anybody -------------------------------------------------------------------------------------------------------


async def _owner_key(request: Request) -> Response:
    public = request.app.state.core.keys.owner.public_key()
    return JSONResponse({"jwk": public_jwk(public), "fingerprint": fingerprint(public)})


async def _jwks(request: Request) -> Response:
    core: Core = request.app.state.core
    return JSONResponse(core.tokens.jwks(core.clock()))


async def _health(_: Request) -> Response:
    return PlainTextResponse("")


async def _ready(request: Request) -> Response:
    health = await run_in_threadpool(_surroundings(request).ready)
    return Response(health.body, health.status, media_type=JSON)


async def _metrics(request: Request) -> Response:
    figures = await run_in_threadpool(_surroundings(request).metrics)
    return Response(figures, media_type="text/plain; version=0.0.4; charset=utf-8")


async def _openapi(request: Request) -> Response:
    return JSONResponse(_surroundings(request).description)


def _surroundings(request: Request) -> Surroundings:
    return request.app.state.surroundings  # type: ignore[no-any-return]


OTHERS: Mapping[str, Handler] = {
    "owner-key": _owner_key,
    "jwks": _jwks,
    "health": _health,
    "ready": _ready,
    "metrics": _metrics,
    "openapi": _openapi,
}


TABLE: Mapping[str, Handler] = {**GUESTS, **ADMIN, **TRUSTEE, **OTHERS}
"""The handlers of all operations of `web.api`."""


# -- refusals ------------------------------------------------------------------------------------------------------


def failed(request: Request, error: Exception) -> Response:
    """The answer to what a handler raised."""
    if isinstance(error, Refusal):
        return _refused(request, error)
    if isinstance(error, KokonError):
        return _failed(request, error)
    return _http(request, error) if isinstance(error, HTTPException) else _bug(request)


def _refused(request: Request, error: Refusal) -> Response:
    literal = _surroundings(request).literal
    answer = refusal(error.code, error.kind, _where(request), denial=error.denial, literal=literal)
    return Response(answer.body, answer.status, answer.headers)


def _failed(request: Request, error: KokonError) -> Response:
    where = _where(request)
    answer = refusal_of(error, where, literal=_surroundings(request).literal and where != "admin")
    members: dict[str, Any] = dict(answer.document) if _is_kbs(request) else {}
    headers = dict(answer.headers)
    if answer.status == 500:
        get_logger("kokon.http").error("failed", code=error.code, found=str(error.found or "")[:200])
    if where == "admin":
        members["error"] = error.as_dict()
        headers |= {"WWW-Authenticate": "Bearer"} if answer.status == 401 else {}
    return JSONResponse(members, answer.status, headers)


def _where(request: Request) -> Where:
    path = _path(request)
    if path in ("/kbs/v0/auth", "/kbs/v0/attest"):
        return "handshake"
    reads = request.method == "GET" and path.startswith(RESOURCES)
    return "resource" if reads or path == "/kokon/v1/events" else "admin"


def _path(request: Request) -> str:
    """The path below the project's address."""
    path: str = request.scope["path"]
    return "/" + path.split("/", 3)[3] if path.startswith("/p/") and path.count("/") > 2 else path


def _bug(request: Request) -> Response:
    """What a peer is told of an exception that nobody foresaw; the log has the traceback for the operator."""
    members: dict[str, Any] = error_document("PluginInternalError", "internal") if _is_kbs(request) else {}
    return JSONResponse({**members, "error": {"code": "internal", "kind": "internal", "message": "a bug"}}, 500)


def _http(request: Request, error: HTTPException) -> Response:
    if error.status_code == 404 and _path(request).startswith((RESOURCES, SECRETS)):
        try:
            check_path("")
        except KokonError as wrong:
            return _failed(request, wrong)
    code = {404: "no-such-path", 405: "no-such-method"}.get(error.status_code, "http-error")
    members: dict[str, Any] = {}
    if _is_kbs(request):
        variant = {404: "PluginNotFound"}.get(error.status_code, "InvalidRequestPath")
        members |= error_document(variant, code)
    told = {"code": code, "kind": "usage", "message": error.detail}
    return JSONResponse({**members, "error": told}, error.status_code, error.headers)


def _is_kbs(request: Request) -> bool:
    """Whether the protocol's error document is due."""
    path = _path(request)
    return path.startswith("/kbs/") or path == "/kokon/v1/events"
