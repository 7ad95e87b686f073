"""The admin interface's operations by their names in `web.api`: what each reads of a request, and what it calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from kokon.errors import UsageError
from kokon.provisioning.access.project import DEFAULT
from kokon.provisioning.admin import logs, policies, principals, projects, secret_store, server, workloads
from kokon.provisioning.admin.request import Asked
from kokon.provisioning.admission import ADMISSION_LIMIT
from kokon.provisioning.keys import SERVER
from kokon.provisioning.web.body import read_body

if TYPE_CHECKING:
    from starlette.requests import Request

Handler = Callable[["Request"], Awaitable[Response]]
Operation = Callable[..., Any]


def bearer_of(request: Request) -> str | None:
    """The token of the Authorization header, or None."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token else None


def project_of(request: Request) -> str:
    """The project whose base URL was asked."""
    return str(request.path_params.get("project", DEFAULT))


def raw_path(request: Request, before: str, after: str = "") -> str:
    """What stands between `before` and `after` in the path as it was sent. Plain segments need no percent-encoding, and
    what is decoded could hide a slash or a line end; so an encoded path is no path."""
    path = str(request.scope["raw_path"].partition(b"?")[0].decode("latin-1"))
    return path.partition(before)[2].removesuffix(after)


def number(request: Request, name: str, default: int = 0) -> int:
    """A number of the query. Raises `UsageError` (`query-malformed`)."""
    found = optional_number(request, name)
    return default if found is None else found


def optional_number(request: Request, name: str) -> int | None:
    """The same, None if there is none."""
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise UsageError("query-malformed", f"{name} must be a number", found=repr(text[:40]))
    return int(text)


async def asked(request: Request, project: str) -> Asked:
    """Who asks what. Raises as `Callers.identify` and `Core.check_project`."""
    state = request.app.state
    if project != SERVER:
        state.core.check_project(project)
    certificate = state.certificate_of(request.scope)
    principal = await run_in_threadpool(state.callers.identify, bearer_of(request), certificate, project)
    if project != SERVER:
        state.core.check_project(project)  # it may be known only now that another replica closed it
    return Asked(state.core, state.callers, principal, project)


def _project(function: Operation, *names: str, limit: int = 0, server: bool = False) -> Handler:
    """A handler that calls `function` with who asks, the path's parameters `names`, and the body if it may have
    `limit` bytes."""

    async def handle(request: Request) -> Response:
        one = await asked(request, SERVER if server else project_of(request))
        body = (await read_body(request.scope, request.receive, limit),) if limit else ()
        given = [request.path_params[name] for name in names]
        return JSONResponse(await run_in_threadpool(function, one, *given, *body))

    return handle


def _server(function: Operation, *names: str, limit: int = 0) -> Handler:
    return _project(function, *names, limit=limit, server=True)


# -- secrets -------------------------------------------------------------------------------------------------------


async def _put_resource(request: Request) -> Response:
    one = await asked(request, project_of(request))
    path = raw_path(request, "/kbs/v0/resource/")
    value = await read_body(request.scope, request.receive, secret_store.VALUE_LIMIT)
    return JSONResponse(await run_in_threadpool(secret_store.put_value, one, path, value))


async def _delete_resource(request: Request) -> Response:
    one = await asked(request, project_of(request))
    path = raw_path(request, "/kbs/v0/resource/")
    return JSONResponse(await run_in_threadpool(secret_store.delete_secret, one, path, None))


async def _put_secret(request: Request) -> Response:
    one = await asked(request, project_of(request))
    body = await read_body(request.scope, request.receive, secret_store.BODY_LIMIT)
    path = raw_path(request, "/kokon/v1/secrets/")
    return JSONResponse(await run_in_threadpool(secret_store.put_secret, one, path, body))


async def _rotate_secret(request: Request) -> Response:
    one = await asked(request, project_of(request))
    body = await read_body(request.scope, request.receive, secret_store.BODY_LIMIT)
    path = raw_path(request, "/kokon/v1/secrets/", "/rotate")
    return JSONResponse(await run_in_threadpool(secret_store.rotate_secret, one, path, body))


async def _delete_secret(request: Request) -> Response:
    one = await asked(request, project_of(request))
    path, version = raw_path(request, "/kokon/v1/secrets/"), optional_number(request, "version")
    return JSONResponse(await run_in_threadpool(secret_store.delete_secret, one, path, version))


# -- logs ----------------------------------------------------------------------------------------------------------


def _logs(prefix: str, place: Callable[[Request], str]) -> dict[str, Handler]:
    """The operations of a log: of a project's, or of the server's own."""

    async def entries(request: Request) -> Response:
        start, limit = number(request, "start", 0), number(request, "limit", logs.PAGE)
        return JSONResponse(await run_in_threadpool(logs.entries, await asked(request, place(request)), start, limit))

    async def checkpoint(request: Request) -> Response:
        one = await asked(request, place(request))
        return PlainTextResponse(await run_in_threadpool(logs.checkpoint, one))

    async def tile(request: Request) -> Response:
        one = await asked(request, place(request))
        path = "tile/" + raw_path(request, "/log/tile/")
        return Response(await run_in_threadpool(logs.tile, one, path), media_type="application/octet-stream")

    async def key(request: Request) -> Response:
        await asked(request, place(request))
        return PlainTextResponse(f"{request.app.state.log_key(place(request))}\n")

    async def receipt(request: Request) -> Response:
        one = await asked(request, place(request))
        text = str(request.path_params["index"])
        if not (text.isascii() and text.isdigit() and len(text) < 16):
            raise UsageError("query-malformed", "an entry has a number", found=repr(text[:40]))
        return Response(await run_in_threadpool(logs.receipt, one, int(text)), media_type="application/json")

    async def consistency(request: Request) -> Response:
        one, first = await asked(request, place(request)), number(request, "from", 0)
        return JSONResponse(await run_in_threadpool(logs.consistency, one, first))

    async def cosignature(request: Request) -> Response:
        one, signer = await asked(request, place(request)), request.app.state.log_key(place(request))
        body = await read_body(request.scope, request.receive, logs.BODY_LIMIT)
        return JSONResponse(await run_in_threadpool(logs.add_cosignature, one, body, signer))

    async def cosigned(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(logs.cosigned, await asked(request, place(request))))

    async def whole(request: Request) -> Response:
        one, signer = await asked(request, place(request)), request.app.state.log_key(place(request))
        lines = await run_in_threadpool(logs.lines, one, signer)
        return StreamingResponse(iterate_in_threadpool(lines), media_type="text/plain")

    return {
        f"{prefix}-entries": entries,
        f"{prefix}-checkpoint": checkpoint,
        f"{prefix}-tile": tile,
        f"{prefix}-key": key,
        f"{prefix}-receipt": receipt,
        f"{prefix}-consistency": consistency,
        f"{prefix}-cosignature": cosignature,
        f"{prefix}-cosigned": cosigned,
        f"{prefix}-export": whole,
    }


ADMIN: Mapping[str, Handler] = {
    "put-resource": _put_resource,
    "delete-resource": _delete_resource,
    "list-secrets": _project(secret_store.list_secrets),
    "put-secret": _put_secret,
    "rotate-secret": _rotate_secret,
    "delete-secret": _delete_secret,
    "list-workloads": _project(workloads.list_workloads),
    "admit-workload": _project(workloads.admit_workload, limit=ADMISSION_LIMIT),
    "show-workload": _project(workloads.show_workload, "name"),
    "workload-history": _project(workloads.history, "name"),
    "withdraw-workload": _project(workloads.withdraw, "name"),
    "workload-log-token": _project(workloads.log_token, "name"),
    "add-statement": _project(workloads.add_statement, "name", limit=ADMISSION_LIMIT),
    "delete-statement": _project(workloads.delete_statement, "name", "host_data"),
    "list-policies": _project(policies.list_policies),
    "show-policy": _project(policies.show_policy, "kind", "name"),
    "put-policy": _project(policies.put_policy, "kind", "name", limit=policies.BODY_LIMIT),
    "delete-policy": _project(policies.delete_policy, "kind", "name"),
    "show-denial": _project(logs.show_denial, "identity"),
    "list-projects": _server(projects.list_projects),
    "add-project": _server(projects.add_project, limit=projects.BODY_LIMIT),
    "delete-project": _server(projects.delete_project, "name"),
    "list-principals": _server(principals.list_principals),
    "add-principal": _server(principals.add_principal, limit=principals.BODY_LIMIT),
    "delete-principal": _server(principals.delete_principal, "identity"),
    "status": _server(server.status),
    "rotate-token-key": _server(server.rotate_token_key),
    "rotate-data-key": _server(server.rotate_data_key),
    **_logs("log", project_of),
    **_logs("server-log", lambda _: SERVER),
}
"""All but those that Trustee's clients know, which are in `admin.trustee`."""
