"""The form of the table of operations, and a check that it does not contradict itself. Pure.

A schema is written out, or refers to one of `Api.schemas`, or is a type that msgspec knows. Operations of a project are
in the table once, at the root; they are served below `Api.prefix` too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kokon.errors import InternalError

if TYPE_CHECKING:
    from starlette.requests import Request

JSON = "application/json"
Schema = Mapping[str, Any] | type
"""JSON Schema, or a type for `msgspec.json.schema_components`."""
_METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "PATCH"})
HOLE = re.compile(r"\{([a-z_]+)(?::([a-z]+))?\}")
"""A parameter in a path, with Starlette's converter."""
_OPERATION_ID = re.compile(r"[a-z][a-z0-9-]*")
COMPONENTS = "#/components/schemas/"
"""What references to schemas begin with."""


def ref(name: str) -> Mapping[str, Any]:
    """The schema of that name in `Api.schemas`."""
    return {"$ref": COMPONENTS + name}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in `where`: path, query, header or cookie. Those in the path are always required."""

    name: str
    description: str
    where: str = "query"
    schema: Schema = field(default_factory=lambda: {"type": "string"})
    required: bool = False


@dataclass(frozen=True, slots=True)
class Content:
    """A body of `media_type`; `schema` None: any bytes."""

    schema: Schema | None
    media_type: str = JSON
    description: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a status means, and the body that comes with it (None: none). `headers`: names and what they say.

    `common` ones are not specific to the operation: a page explains them once.
    """

    status: int
    description: str
    content: Content | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    common: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. `name` is its identity, lower-case words with dashes; `handler` the key of its handler,
    if that is another than its name.

    `security` names schemes, of which one must be met; empty: for anybody. `project`: it is served for each project.
    """

    name: str
    method: str
    path: str
    summary: str
    answers: tuple[Answer, ...]
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    request: Content | None = None
    security: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    project: bool = False
    handler: str = ""

    @property
    def handled_by(self) -> str:
        """The key of its handler."""
        return self.handler or self.name

    @property
    def template(self) -> str:
        """The path as OpenAPI and the metrics have it, without Starlette's converters."""
        return HOLE.sub(r"{\1}", self.path)


@dataclass(frozen=True, slots=True)
class Api:
    """All that the server offers. `schemes` are OpenAPI's security scheme objects by name, `schemas` JSON Schemas that
    others refer to. `prefix` has one parameter, the project, of which `prefix_description` tells.
    """

    title: str
    version: str
    description: str
    operations: tuple[Operation, ...]
    schemes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    schemas: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    prefix: str = ""
    prefix_description: str = ""


Handler = Callable[["Request"], Any]
"""`async def handler(request) -> Response`."""


def check(api: Api) -> None:
    """Raise `InternalError` (`api-table-wrong`) if the table contradicts itself."""
    names: set[str] = set()
    places: set[tuple[str, str]] = set()
    for operation in api.operations:
        place = (operation.method, HOLE.sub("{}", operation.path))
        if operation.name in names or place in places:
            raise _wrong(operation, "there twice")
        names.add(operation.name)
        places.add(place)
        _check_operation(operation, api)
    lacking = {name for schema in _written(api) for name in _references(schema)} - set(api.schemas)
    if lacking:
        raise InternalError("api-table-wrong", "schemas are referred to that there are not", found=sorted(lacking))


def _check_operation(operation: Operation, api: Api) -> None:
    holes = [name for name, _ in HOLE.findall(operation.path)]
    described = [parameter.name for parameter in operation.parameters if parameter.where == "path"]
    statuses = [answer.status for answer in operation.answers]
    problems = {
        "name": not _OPERATION_ID.fullmatch(operation.name),
        "method": operation.method not in _METHODS,
        "path": not operation.path.startswith("/") or len(set(holes)) != len(holes),
        "path parameters": sorted(holes) != sorted(described),
        "parameters": any(p.where not in ("path", "query", "header", "cookie") for p in operation.parameters),
        "answers": not statuses or len(set(statuses)) != len(statuses),
        "security": not set(operation.security) <= set(api.schemes),
        "tags": not set(operation.tags) <= set(api.tags),
    }
    for what, wrong in problems.items():
        if wrong:
            raise _wrong(operation, what)


def _wrong(operation: Operation, what: str) -> InternalError:
    return InternalError("api-table-wrong", f"the table of operations is wrong at {operation.name}", found=what)


def declared_schemas(api: Api) -> Iterator[Schema]:
    """Every schema that an operation gives."""
    for operation in api.operations:
        for content in (operation.request, *(answer.content for answer in operation.answers)):
            if content is not None and content.schema is not None:
                yield content.schema
        yield from (parameter.schema for parameter in operation.parameters)


def _written(api: Api) -> Iterator[Mapping[str, Any]]:
    yield from (schema for schema in declared_schemas(api) if not isinstance(schema, type))
    yield from api.schemas.values()


def _references(schema: Any) -> Iterator[str]:
    """Names of the components that `schema` refers to."""
    if isinstance(schema, Mapping):
        target = schema.get("$ref")
        if isinstance(target, str):
            yield target.removeprefix(COMPONENTS)
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list | tuple):
        for value in schema:
            yield from _references(value)
