"""The server over HTTP: the key broker's endpoints for guests, `/kokon/v1` for the owner.

Bodies are bounded and timed before anything looks at them. A guest is told a code and a denial id, nothing more; the
owner, who has the admin token, is told everything. Statuses are the right ones (403, 404, 413, 503), which key broker
clients tolerate, where the reference server answers 401 to everything.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from kokon.errors import KokonError, MalformedError, UsageError
from kokon.provisioning.admission import ADMISSION_LIMIT
from kokon.provisioning.aside import Aside
from kokon.provisioning.kbs.answers import Where, error_document, refusal, refusal_of
from kokon.provisioning.kbs.messages import ATTEST_LIMIT, REQUEST_LIMIT, challenge
from kokon.provisioning.kbs.session import read_cookie, set_cookie
from kokon.provisioning.release import Attempt
from kokon.provisioning.service import LOG_PAGE, RESOURCE_LIMIT, Refusal, Service

if TYPE_CHECKING:
    from starlette.types import ExceptionHandler

RESOURCES = "/kbs/v0/resource/"
BODY_SECONDS = 30.0
"""How long a peer may take to send a body."""


def build_app(service: Service) -> Starlette:
    """The application around `service`, which it stops when it shuts down."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.stop)

    handlers: Mapping[Any, ExceptionHandler] = {
        Refusal: _refused,
        KokonError: _failed,
        HTTPException: _http,
        Exception: _bug,
    }
    app = Starlette(routes=_routes(), lifespan=lifespan, exception_handlers=handlers)
    app.state.service = service
    app.state.aside = Aside()
    return app


def _routes() -> list[Route]:
    return [
        Route("/kbs/v0/auth", _auth, methods=["POST"]),
        Route("/kbs/v0/attest", _attest, methods=["POST"]),
        Route("/kbs/v0/resource/{path:path}", _get_resource, methods=["GET"]),
        Route("/kbs/v0/resource/{path:path}", _put_resource, methods=["POST"]),
        Route("/kbs/v0/resource/{path:path}", _delete_resource, methods=["DELETE"]),
        Route("/kokon/v1/events", _event, methods=["POST"]),
        Route("/.well-known/jwks.json", _jwks, methods=["GET"]),
        Route("/kokon/v1/token-key", _rotate, methods=["POST"]),
        Route("/kokon/v1/owner-key", _owner_key, methods=["GET"]),
        Route("/kokon/v1/resources", _list_resources, methods=["GET"]),
        Route("/kokon/v1/workloads", _list_workloads, methods=["GET"]),
        Route("/kokon/v1/workloads", _admit, methods=["POST"]),
        Route("/kokon/v1/workloads/{name}", _withdraw, methods=["DELETE"]),
        Route("/kokon/v1/workloads/{name}/log-token", _log_token, methods=["POST"]),
        Route("/kokon/v1/log", _log, methods=["GET"]),
        Route("/kokon/v1/denials/{identity}", _denial, methods=["GET"]),
        Route("/healthz", _health, methods=["GET"]),
    ]


# -- guests --------------------------------------------------------------------------------------------------------


async def _auth(request: Request) -> Response:
    body = await _body(request, REQUEST_LIMIT)
    session, nonce = await run_in_threadpool(_service(request).auth, body)
    return _with_session(JSONResponse(challenge(nonce)), session)


async def _attest(request: Request) -> Response:
    body = await _body(request, ATTEST_LIMIT)
    service = _service(request)
    granted = await run_in_threadpool(service.attest, _cookie(request), body)
    if isinstance(granted, Attempt):
        attempt = granted
        claims = await _aside(request).run(lambda: service.fetch(attempt))
        granted = await run_in_threadpool(service.resume, attempt, claims)
    return _with_session(JSONResponse({"token": granted.token}), granted.session)


async def _get_resource(request: Request) -> Response:
    path = _resource(request)
    service = _service(request)
    message = await run_in_threadpool(service.resource, _cookie(request), _bearer(request), path)
    return JSONResponse(message)


async def _jwks(request: Request) -> Response:
    return JSONResponse(_service(request).jwks())


async def _event(request: Request) -> Response:
    body = await _body(request, REQUEST_LIMIT)
    await run_in_threadpool(_service(request).event, _bearer(request), body)
    return JSONResponse({"logged": True})


def _with_session(response: Response, session: str) -> Response:
    response.headers["Set-Cookie"] = set_cookie(session, "/kbs/v0")
    return response


def _cookie(request: Request) -> str | None:
    return read_cookie(request.headers.get("cookie"))


# -- the owner -----------------------------------------------------------------------------------------------------


async def _owner_key(request: Request) -> Response:
    return JSONResponse(_service(request).owner_key())


async def _rotate(request: Request) -> Response:
    await _admin(request)
    return JSONResponse(await run_in_threadpool(_service(request).rotate_token_key))


async def _put_resource(request: Request) -> Response:
    await _admin(request)
    value = await _body(request, RESOURCE_LIMIT)
    version = await run_in_threadpool(_service(request).put_resource, _resource(request), value)
    return JSONResponse({"version": version})


async def _delete_resource(request: Request) -> Response:
    await _admin(request)
    path = _resource(request)
    await run_in_threadpool(_service(request).delete_resource, path)
    return JSONResponse({"deleted": path})


async def _list_resources(request: Request) -> Response:
    await _admin(request)
    return JSONResponse({"resources": await run_in_threadpool(_service(request).resources)})


async def _list_workloads(request: Request) -> Response:
    await _admin(request)
    return JSONResponse({"workloads": await run_in_threadpool(_service(request).workloads)})


async def _admit(request: Request) -> Response:
    await _admin(request)
    body = await _body(request, ADMISSION_LIMIT)
    return JSONResponse(await run_in_threadpool(_service(request).admit, body))


async def _withdraw(request: Request) -> Response:
    await _admin(request)
    await run_in_threadpool(_service(request).withdraw, request.path_params["name"])
    return JSONResponse({"withdrawn": request.path_params["name"]})


async def _log_token(request: Request) -> Response:
    await _admin(request)
    return JSONResponse({"token": await run_in_threadpool(_service(request).log_token, request.path_params["name"])})


async def _log(request: Request) -> Response:
    await _admin(request)
    after, limit = _number(request, "after", 0), _number(request, "limit", LOG_PAGE)
    return JSONResponse(await run_in_threadpool(_service(request).log, after, limit))


async def _denial(request: Request) -> Response:
    await _admin(request)
    return JSONResponse(await run_in_threadpool(_service(request).denial, request.path_params["identity"]))


async def _health(_: Request) -> Response:
    return PlainTextResponse("")


# -- common --------------------------------------------------------------------------------------------------------


def _service(request: Request) -> Service:
    return request.app.state.service  # type: ignore[no-any-return]


def _aside(request: Request) -> Aside:
    return request.app.state.aside  # type: ignore[no-any-return]


def _resource(request: Request) -> str:
    """The resource's path as it was sent. Plain segments need no percent-encoding, and what is decoded could hide a
    slash or a line end; so an encoded path is no path."""
    return str(request.scope["raw_path"].partition(b"?")[0].decode("latin-1")).removeprefix(RESOURCES)


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token else None


async def _admin(request: Request) -> None:
    if not await run_in_threadpool(_service(request).is_admin, _bearer(request)):
        raise HTTPException(401)


async def _body(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    received = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                received += chunk
                if len(received) > limit:
                    raise _too_large(limit)
    except (TimeoutError, ClientDisconnect) as error:
        raise MalformedError(
            "body-incomplete", "the request's body did not come in full", expected=f"within {BODY_SECONDS:.0f} s"
        ) from error
    return bytes(received)


def _too_large(limit: int) -> MalformedError:
    return MalformedError("body-too-large", "the request's body is too large", expected=f"<= {limit} bytes")


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise UsageError("query-malformed", f"{name} must be a number", found=repr(text[:40]))
    return int(text)


def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, Refusal):
        raise error
    answer = refusal(error.code, error.kind, _where(request), denial=error.denial)
    return Response(answer.body, answer.status, answer.headers)


def _failed(request: Request, error: Exception) -> Response:
    if not isinstance(error, KokonError):
        raise error
    answer = refusal_of(error, _where(request))
    document: dict[str, Any] = dict(answer.document) if _is_kbs(request) else {}
    if not _for_guest(request):
        document["error"] = error.as_dict()
    return JSONResponse(document, answer.status, answer.headers)


def _where(request: Request) -> Where:
    if request.url.path in ("/kbs/v0/auth", "/kbs/v0/attest"):
        return "handshake"
    return "resource" if _for_guest(request) else "admin"


def _bug(request: Request, _: Exception) -> Response:
    """What a peer is told of an exception that nobody foresaw; uvicorn prints the traceback for the owner."""
    document: dict[str, Any] = error_document("PluginInternalError", "internal") if _is_kbs(request) else {}
    return JSONResponse({**document, "error": {"code": "internal", "kind": "internal", "message": "a bug"}}, 500)


def _http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    code = {401: "admin-token", 404: "no-such-path", 405: "no-such-method"}.get(error.status_code, "http-error")
    document: dict[str, Any] = {}
    if _is_kbs(request):
        variant = {401: "AdminAuthAccess", 404: "PluginNotFound"}.get(error.status_code, "InvalidRequestPath")
        document |= error_document(variant, code)
    members = {
        "code": code,
        "kind": "denied",
        "message": "refused: the admin token is needed here",
        "hint": "the server keeps its token and address in admin.json in its state directory: name it with --admin",
    }
    if error.status_code != 401:
        members = {"code": code, "kind": "usage", "message": error.detail}
    return JSONResponse({**document, "error": members}, error.status_code, error.headers)


def _is_kbs(request: Request) -> bool:
    """Whether the protocol's error document is due."""
    return request.url.path.startswith("/kbs/") or request.url.path == "/kokon/v1/events"


def _for_guest(request: Request) -> bool:
    """Whether the asker is a guest, who is told as little as will do; only the owner changes resources."""
    return _is_kbs(request) and not (request.method != "GET" and request.url.path.startswith(RESOURCES))
