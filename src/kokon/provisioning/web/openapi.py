"""What comes out of the table of operations: Starlette's routes, the OpenAPI document, docs/API.md. Pure.

OpenAPI 3.1.0, whose schemas are JSON Schema 2020-12. Starlette's `{path:path}` is `{path}` here: OpenAPI has no
parameter that spans slashes, so its description says so. That operations of projects are served below `Api.prefix` too
is said by a second server; all others name the root as their only one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.routing import Route

from kokon.errors import InternalError
from kokon.provisioning.web.page import page
from kokon.provisioning.web.table import (
    COMPONENTS,
    HOLE,
    JSON,
    Answer,
    Api,
    Content,
    Handler,
    Operation,
    Parameter,
    Schema,
    check,
    declared_schemas,
    ref,
)

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

__all__ = [
    "JSON",
    "Answer",
    "Api",
    "Content",
    "Handler",
    "Operation",
    "OperationRoute",
    "Parameter",
    "Schema",
    "check",
    "document",
    "markdown",
    "prefixed_routes",
    "ref",
    "routes",
]
VERSION = "3.1.0"


class OperationRoute(Route):
    """The route of one operation, which knows what other methods its path has. No HEAD besides GET: what is not in the
    table is not offered."""

    def __init__(self, path: str, operation: Operation, handler: Handler, allowed: frozenset[str]) -> None:
        super().__init__(path, handler, methods=[operation.method], name=operation.name)
        self.methods = {operation.method}
        self._allowed = ", ".join(sorted(allowed))

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As Starlette's, but `Allow` tells of all methods that the path has (RFC 9110, section 10.2.1)."""
        scope["operation"] = self.name
        if scope["method"] not in (self.methods or ()):
            raise HTTPException(405, headers={"Allow": self._allowed})
        await self.app(scope, receive, send)


def routes(api: Api, handlers: Mapping[str, Handler]) -> list[OperationRoute]:
    """Starlette's routes at the root, in the table's order; each sets `scope["operation"]` to its operation's name.

    Raises as `check`, also unless each operation has one handler and each handler an operation.
    """
    _check_handlers(api, handlers)
    return _routes(api.operations, "", handlers)


def prefixed_routes(api: Api, handlers: Mapping[str, Handler]) -> list[OperationRoute]:
    """The same for the operations of projects, below `api.prefix`."""
    _check_handlers(api, handlers)
    return _routes(tuple(one for one in api.operations if one.project), api.prefix, handlers)


def _check_handlers(api: Api, handlers: Mapping[str, Handler]) -> None:
    check(api)
    names = {operation.handled_by for operation in api.operations}
    if names != set(handlers):
        odd = sorted(names ^ set(handlers))
        raise InternalError("api-table-wrong", "handlers and operations differ", found=", ".join(odd))


def _routes(operations: tuple[Operation, ...], prefix: str, handlers: Mapping[str, Handler]) -> list[OperationRoute]:
    methods: dict[str, frozenset[str]] = {}
    for operation in operations:
        methods[operation.path] = methods.get(operation.path, frozenset()) | {operation.method}
    return [OperationRoute(prefix + one.path, one, handlers[one.handled_by], methods[one.path]) for one in operations]


def document(api: Api) -> dict[str, Any]:
    """The OpenAPI document, as JSON values. Raises as `check`."""
    check(api)
    schemas, components = _schemas(api)
    paths: dict[str, dict[str, Any]] = {}
    for operation in api.operations:
        made = _operation(operation, schemas)
        if api.prefix and not operation.project:
            made["servers"] = [_root()]
        paths.setdefault(operation.template, {})[operation.method.lower()] = made
    return {
        "openapi": VERSION,
        "info": {"title": api.title, "version": api.version, "description": api.description},
        "servers": [_root(), _prefixed(api)] if api.prefix else [_root()],
        "tags": [{"name": name, "description": text} for name, text in api.tags.items()],
        "paths": paths,
        "components": {
            "schemas": {**{name: dict(schema) for name, schema in api.schemas.items()}, **components},
            "securitySchemes": {name: dict(scheme) for name, scheme in api.schemes.items()},
        },
    }


def _root() -> dict[str, Any]:
    return {"url": "/"}


def _prefixed(api: Api) -> dict[str, Any]:
    name = HOLE.findall(api.prefix)[0][0]
    variable = {"default": "default", "description": api.prefix_description}
    return {"url": api.prefix, "description": api.prefix_description, "variables": {name: variable}}


_Schemas = Callable[[Schema], Mapping[str, Any]]


def _schemas(api: Api) -> tuple[_Schemas, dict[str, Any]]:
    """A function from a `Schema` to JSON Schema, and the components that msgspec made for those that are types."""
    types = list(dict.fromkeys(schema for schema in declared_schemas(api) if isinstance(schema, type)))
    made, components = msgspec.json.schema_components(types, ref_template=COMPONENTS + "{name}")
    by_type = dict(zip(types, made, strict=True))
    return lambda schema: by_type[schema] if isinstance(schema, type) else schema, components


def _operation(operation: Operation, schemas: _Schemas) -> dict[str, Any]:
    members: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": operation.description,
        "tags": list(operation.tags),
        "parameters": [_parameter(parameter, schemas) for parameter in operation.parameters],
        "responses": {str(answer.status): _answer(answer, schemas) for answer in operation.answers},
        "security": [{name: []} for name in operation.security],
    }
    if operation.request is not None:
        members["requestBody"] = {"required": True, **_content(operation.request, schemas)}
        if operation.request.description:
            members["requestBody"]["description"] = operation.request.description
    return {name: value for name, value in members.items() if value not in ("", []) or name == "security"}


def _parameter(parameter: Parameter, schemas: _Schemas) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "description": parameter.description,
        "required": parameter.required or parameter.where == "path",
        "schema": schemas(parameter.schema),
    }


def _answer(answer: Answer, schemas: _Schemas) -> dict[str, Any]:
    members: dict[str, Any] = {"description": answer.description}
    if answer.headers:
        members["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in answer.headers.items()
        }
    if answer.content is not None:
        members |= _content(answer.content, schemas)
    return members


def _content(content: Content, schemas: _Schemas) -> dict[str, Any]:
    media = {} if content.schema is None else {"schema": schemas(content.schema)}
    return {"content": {content.media_type: media}}


def markdown(api: Api) -> str:
    """docs/API.md. Raises as `check`."""
    check(api)
    return page(api)
