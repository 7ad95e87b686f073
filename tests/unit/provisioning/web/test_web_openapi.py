"""One table makes the routes, the document and the page; and a table that contradicts itself makes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any

import jsonschema_rs
import msgspec
import pytest
import schemathesis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from kokon.errors import InternalError
from kokon.provisioning.web.openapi import Answer, Api, Content, Operation, Parameter, document, markdown, routes


class Rule(msgspec.Struct, forbid_unknown_fields=True):
    """What is admitted."""

    name: Annotated[str, msgspec.Meta(pattern="^[a-z]{1,20}$")]
    uses: int = 1


class Admission(msgspec.Struct, forbid_unknown_fields=True):
    """Rules together."""

    rules: Annotated[list[Rule], msgspec.Meta(max_length=5)]


ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "object"}}}
REFUSED = Answer(400, "the body is malformed", Content(ERROR))
NAME = Parameter("name", "the workload's name", "path", {"type": "string", "pattern": "^[a-z]{1,20}$"})
API = Api(
    title="Kokon provisioning server",
    version="1",
    description="What it offers.",
    tags={"workloads": "What may run.", "secrets": "What it gets."},
    schemes={"admin": {"type": "http", "scheme": "bearer"}},
    operations=(
        Operation(
            "list-workloads",
            "GET",
            "/workloads",
            "All workloads.",
            (Answer(200, "the names | in order", Content({"type": "array", "items": {"type": "string"}})),),
            parameters=(Parameter("after", "only later ones", schema={"type": "integer", "minimum": 0}),),
            security=("admin",),
            tags=("workloads",),
        ),
        Operation(
            "admit",
            "POST",
            "/workloads/{name}",
            "Admit a workload.",
            (Answer(200, "admitted", Content(Admission)), REFUSED),
            description="It replaces what was admitted.",
            parameters=(NAME,),
            request=Content(Admission, description="the rules"),
            security=("admin",),
            tags=("workloads",),
        ),
        Operation(
            "read-secret",
            "GET",
            "/resource/{path:path}",
            "A secret.",
            (Answer(200, "its bytes", Content(None, "application/octet-stream")), Answer(404, "there is none")),
            parameters=(Parameter("path", "with slashes", "path"),),
            tags=("secrets",),
        ),
        Operation("health", "GET", "/healthz", "Alive.", (Answer(200, "it is"),)),
    ),
)


async def handler(request: Request) -> JSONResponse:
    return JSONResponse({"operation": request.scope["route"].name, **request.path_params})


HANDLERS = dict.fromkeys(("list-workloads", "admit", "read-secret", "health"), handler)


def test_the_document_is_valid_openapi() -> None:
    made = document(API)
    assert made["openapi"] == "3.1.0"
    json.dumps(made)
    schema = schemathesis.openapi.from_dict(made)
    schema.validate()
    assert [operation.ok().label for operation in schema.get_all_operations()] == [
        "GET /workloads",
        "POST /workloads/{name}",
        "GET /resource/{path}",
        "GET /healthz",
    ]


def test_the_document_says_what_the_table_says() -> None:
    made = document(API)
    admit = made["paths"]["/workloads/{name}"]["post"]
    assert admit["operationId"] == "admit"
    assert admit["security"] == [{"admin": []}]
    assert made["paths"]["/healthz"]["get"]["security"] == []
    assert admit["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Admission"}
    assert admit["requestBody"]["required"] is True
    assert admit["parameters"][0]["required"] is True
    assert made["paths"]["/workloads"]["get"]["parameters"][0]["required"] is False
    secret = made["paths"]["/resource/{path}"]["get"]["responses"]
    assert secret["200"]["content"] == {"application/octet-stream": {}}
    assert "content" not in secret["404"]
    whole = {"$ref": "#/components/schemas/Admission", "components": made["components"]}
    validator = jsonschema_rs.Draft202012Validator(whole)
    assert validator.is_valid({"rules": [{"name": "clinic"}]})
    assert not validator.is_valid({"rules": [{"name": "Clinic"}]})
    assert not validator.is_valid({"rules": [], "more": 1})


def test_documents_that_break_the_rules_are_found_by_the_same_check() -> None:
    made = document(API)
    del made["info"]["title"]
    with pytest.raises(jsonschema_rs.ValidationError, match="title"):
        schemathesis.openapi.from_dict(made).validate()


def test_routes_are_those_of_the_table_and_no_others() -> None:
    client = TestClient(Starlette(routes=routes(API, HANDLERS)))
    assert client.get("/workloads").json() == {"operation": "list-workloads"}
    assert client.post("/workloads/clinic").json() == {"operation": "admit", "name": "clinic"}
    assert client.get("/resource/a/b/c").json() == {"operation": "read-secret", "path": "a/b/c"}
    assert client.post("/workloads").status_code == 405
    assert client.head("/workloads").status_code == 405
    assert client.get("/other").status_code == 404
    assert {route.path for route in routes(API, HANDLERS)} == {operation.path for operation in API.operations}


@pytest.mark.parametrize("handlers", [{}, HANDLERS | {"more": handler}, {"health": handler}])
def test_handlers_and_table_must_match(handlers: dict[str, Any]) -> None:
    with pytest.raises(InternalError) as caught:
        routes(API, handlers)
    assert caught.value.code == "api-table-wrong"


HEALTH = API.operations[3]
WRONG: dict[str, tuple[Operation, ...]] = {
    "there twice": (HEALTH, HEALTH),
    "there twice by path": (replace(HEALTH, name="a", path="/{x}"), replace(HEALTH, name="b", path="/{y}")),
    "name": (replace(HEALTH, name="Health"),),
    "method": (replace(HEALTH, method="get"),),
    "path": (replace(HEALTH, path="healthz"),),
    "path parameters": (replace(HEALTH, path="/{name}"),),
    "parameters": (replace(HEALTH, parameters=(Parameter("a", "b", "body"),)),),
    "answers": (replace(HEALTH, answers=()),),
    "security": (replace(HEALTH, security=("nobody",)),),
    "tags": (replace(HEALTH, tags=("nothing",)),),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_table_that_contradicts_itself_makes_nothing(what: str) -> None:
    wrong = replace(API, operations=WRONG[what])
    for make in (document, markdown, lambda api: routes(api, {})):
        with pytest.raises(InternalError) as caught:
            make(wrong)
        assert caught.value.code == "api-table-wrong"
        if "twice" not in what and what != "path parameters":
            assert caught.value.found == what


def test_the_page_has_every_operation() -> None:
    page = markdown(API)
    for operation in API.operations:
        assert f"### `{operation.method} {operation.template}`" in page
        assert operation.summary in page
    assert page.index("## workloads") < page.index("## secrets") < page.index("## other")
    assert "| 200 | `[text, ...]` | the names \\| in order |" in page
    assert "Needs: admin." in page
    assert "Needs: nothing." in page
    assert "Body: `application/json`: the rules" in page


def test_the_example_is_served_as_it_is_described() -> None:
    """What the lead's tests do with the whole server: schemathesis against the application, by the document."""

    async def admit(request: Request) -> JSONResponse:
        try:
            rules = msgspec.json.decode(await request.body(), type=Admission)
        except msgspec.DecodeError:
            return JSONResponse({"error": {}}, 400)
        return JSONResponse(msgspec.to_builtins(rules))

    app = Starlette(routes=routes(API, HANDLERS | {"admit": admit}))
    schema = schemathesis.openapi.from_dict(document(API))
    operation = schema["/workloads/{name}"]["POST"]
    case = operation.Case(
        path_parameters={"name": "clinic"}, body={"rules": [{"name": "a"}]}, media_type="application/json"
    )
    for body, status in (({"rules": [{"name": "a"}]}, 200), ({"rules": 1}, 400)):
        case.body = body
        response = case.call(app=app) if hasattr(case, "call") else None
        assert response is not None
        assert response.status_code == status
        case.validate_response(response, checks=[schemathesis.checks.response_schema_conformance])
