"""The table of all operations: complete, valid, and of the shapes that the server's own values have."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from kokon.errors import DeniedError, InternalError
from kokon.jose.jwe import encrypt_to, public_jwk
from kokon.provisioning.access.principal import Credential, make_principal
from kokon.provisioning.access.record import describe
from kokon.provisioning.access.roles import Role
from kokon.provisioning.access.scope import EVERYTHING
from kokon.provisioning.kbs.answers import refusal
from kokon.provisioning.kbs.messages import challenge, new_nonce
from kokon.provisioning.ledger.receipt import Receipt
from kokon.provisioning.token.keys import generate_keys
from kokon.provisioning.web.api import API, project_routes
from kokon.provisioning.web.health import ready
from kokon.provisioning.web.openapi import document, markdown, routes
from kokon.provisioning.web.page import shape

ROOT = Path(__file__).resolve().parents[4]
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)

SECRET = "{repository}/{type}/{tag}"
LOG = {"", "/checkpoint", "/tile/{path}", "/key", "/receipt/{index}", "/consistency", "/cosigned", "/export"}
OF_PROJECTS = {
    "POST /kbs/v0/auth",
    "POST /kbs/v0/attest",
    *(f"{method} /kbs/v0/resource/{SECRET}" for method in ("GET", "POST", "DELETE")),
    *(
        f"{m} /kbs/v0/{k}-policy{i}"
        for m in ("GET", "POST")
        for k in ("attestation", "resource")
        for i in ("", "/{identity}")
    ),
    "POST /kbs/v0/reference-value",
    "GET /kbs/v0/reference-value",
    "GET /kbs/v0/reference-value/{name}",
    "POST /kokon/v1/events",
    "GET /kokon/v1/secrets",
    f"PUT /kokon/v1/secrets/{SECRET}",
    f"DELETE /kokon/v1/secrets/{SECRET}",
    f"POST /kokon/v1/secrets/{SECRET}/rotate",
    "GET /kokon/v1/workloads",
    "POST /kokon/v1/workloads",
    "GET /kokon/v1/workloads/{name}",
    "DELETE /kokon/v1/workloads/{name}",
    "GET /kokon/v1/workloads/{name}/history",
    "POST /kokon/v1/workloads/{name}/log-token",
    "POST /kokon/v1/workloads/{name}/statements",
    "DELETE /kokon/v1/workloads/{name}/statements/{host_data}",
    "GET /kokon/v1/policies",
    *(f"{method} /kokon/v1/policies/{{kind}}/{{name}}" for method in ("GET", "PUT", "DELETE")),
    "GET /kokon/v1/references",
    "DELETE /kokon/v1/references/{name}",
    *(f"GET /kokon/v1/log{path}" for path in LOG),
    "POST /kokon/v1/log/cosignature",
    "GET /kokon/v1/denials/{identity}",
    "GET /kokon/v1/owner-key",
}
OF_THE_SERVER = {
    "GET /kokon/v1/projects",
    "POST /kokon/v1/projects",
    "DELETE /kokon/v1/projects/{name}",
    "GET /kokon/v1/principals",
    "POST /kokon/v1/principals",
    "DELETE /kokon/v1/principals/{identity}",
    "GET /kokon/v1/status",
    "POST /kokon/v1/token-key",
    "POST /kokon/v1/data-key",
    *(f"GET /kokon/v1/server/log{path}" for path in LOG),
    "POST /kokon/v1/server/log/cosignature",
    "GET /.well-known/jwks.json",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
    "GET /openapi.json",
}
"""What was agreed on; the table must have neither less nor more."""


def places(*, project: bool) -> set[str]:
    return {f"{one.method} {one.template}" for one in API.operations if one.project is project}


def test_all_that_was_agreed_on_and_nothing_else() -> None:
    assert places(project=True) == OF_PROJECTS
    assert places(project=False) == OF_THE_SERVER


def test_the_document_is_valid_and_says_where_projects_are() -> None:
    made = document(API)
    schemathesis.openapi.from_dict(made).validate()
    assert json.loads(json.dumps(made)) == made
    root, prefixed = made["servers"]
    assert root == {"url": "/"}
    assert prefixed["url"] == "/p/{project}"
    assert prefixed["variables"]["project"]["default"] == "default"
    for operation in API.operations:
        entry = made["paths"][operation.template][operation.method.lower()]
        assert (entry.get("servers") is None) is operation.project, operation.name
        assert entry["servers"] == [{"url": "/"}] if not operation.project else True


def test_every_shape_is_a_schema() -> None:
    for name in API.schemas:
        jsonschema_rs.Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": components()})
    for schema in API.schemas.values():
        jsonschema_rs.meta.validate({**schema, "$schema": "https://json-schema.org/draft/2020-12/schema"})


def test_requests_are_closed_unless_the_server_bears_more() -> None:
    """The server refuses members that it does not know: a schema that does not say so tells clients the wrong thing."""
    bears_more = {
        "WorkloadAdmission",
        "StatementRequest",
        "Attestation",
    }
    for operation in API.operations:
        if operation.request is None or operation.request.schema is None:
            continue
        name = str(operation.request.schema["$ref"]).rpartition("/")[2]
        schema = API.schemas[name]
        for form in schema.get("anyOf", [schema]):
            assert form.get("additionalProperties") is False or name in bears_more, name


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", API.operations, ids=lambda one: one.name)
def test_every_operation_tells_how_it_may_refuse(operation: Any) -> None:
    statuses = {answer.status for answer in operation.answers}
    if operation.name in ("health", "ready", "metrics"):
        assert statuses <= {200, 503}
        return
    assert {200, 400, 429, 500, 503} <= statuses
    assert (401 in statuses and 403 in statuses) is bool(operation.security)
    assert ({408, 413} <= statuses) is (operation.request is not None)
    assert 404 in statuses or not operation.project or operation.name == "owner-key"
    wanted = "BrokerError" if operation.path.startswith("/kbs/") or operation.name == "event" else "Error"
    for answer in operation.answers:
        if answer.status >= 400:
            assert answer.content.schema == {"$ref": f"#/components/schemas/{wanted}"}
        assert ("Retry-After" in answer.headers) is (answer.status in (429, 503))


def test_what_changes_something_may_meet_another_change() -> None:
    for operation in API.operations:
        changes = operation.method != "GET" and operation.name not in ("auth", "attest", "event", "workload-log-token")
        assert (409 in {answer.status for answer in operation.answers}) is changes, operation.name


# -- shapes and the values that they are of ----------------------------------------------------------------------------


def components() -> dict[str, Any]:
    return {"schemas": dict(API.schemas)}


def fits(name: str, value: Any) -> bool:
    schema = {"$ref": f"#/components/schemas/{name}", "components": components()}
    return jsonschema_rs.Draft202012Validator(schema).is_valid(json.loads(json.dumps(value)))


def owner() -> dict[str, Any]:
    return describe(
        make_principal(
            id="abcdefghijkl",
            name="owner",
            role=Role.OWNER,
            scopes=(EVERYTHING,),
            created=NOW,
            expires=NOW.replace(year=2027),
            credential=Credential("token", bytes(32)),
        )
    )


def real_values() -> list[tuple[str, Any]]:
    """What the server's own rooms make, and the shape that is promised for it."""
    key = ec.generate_private_key(ec.SECP384R1())
    error = DeniedError("changed-meanwhile", "it was changed", expected="a", found="b", hint="look again")
    answer = refusal("resource-not-granted", "denied", "resource", denial="0123456789abcdef")
    return [
        ("Error", {"error": error.as_dict()}),
        ("Error", {"error": DeniedError("admin-token", "needed").as_dict()}),
        ("BrokerError", answer.document),
        ("BrokerError", {**answer.document, "error": error.as_dict()}),
        ("Challenge", challenge(new_nonce(lambda size: bytes(size)))),
        ("Jwe", encrypt_to(key.public_key(), b"secret")),
        ("TeeKey", public_jwk(key)),
        ("Jwk", public_jwk(key)),
        ("Jwk", generate_keys(NOW).jwks(NOW)["keys"][0]),
        ("LogReceipt", json.loads(Receipt(b"{}", 0, (bytes(32),), b"note").encode())),
        ("Principal", owner()),
        ("PrincipalAdded", {**owner(), "token": "kokon_"}),
        ("Ready", json.loads(ready({"database": lambda: None}).body)),
    ]


@pytest.mark.parametrize(("name", "value"), real_values(), ids=lambda one: one if isinstance(one, str) else "")
def test_shapes_are_those_of_real_values(name: str, value: Any) -> None:
    assert fits(name, value)
    assert not fits(name, {})
    for lacking in value:
        if lacking in API.schemas[name].get("required", ()):
            assert not fits(name, {key: one for key, one in value.items() if key != lacking})


@pytest.mark.parametrize(
    ("name", "value", "good"),
    [
        ("SecretPut", {"value": "AAAA"}, True),
        ("SecretPut", {"generate": "bytes:32", "previous": 0, "keep": 3}, True),
        ("SecretPut", {"generate": "bytes:15"}, False),
        ("SecretPut", {"generate": "password:256"}, True),
        ("SecretPut", {"generate": "password:257"}, False),
        ("SecretPut", {"derive": "platform", "expires": "2026-11-27T12:00:00Z"}, True),
        ("SecretPut", {"derive": "planet"}, False),
        ("SecretPut", {"value": "AAAA", "derive": "platform"}, False),
        ("SecretPut", {"keep": 1}, False),
        ("SecretPut", {"value": "AAAA", "keep": 0}, False),
        ("Request", {"version": "0.4.0", "tee": "snp", "extra-params": ""}, True),
        ("Request", {"version": "0.1.0", "tee": "snp", "extra-params": ""}, False),
        ("Request", {"version": "0.4.0", "tee": "snp"}, False),
        ("Project", {"name": "a-b"}, True),
        ("Project", {"name": "a-"}, False),
        ("Project", {"name": ""}, False),
        ("PrincipalAdd", {"name": "x", "role": "owner", "scopes": [{"project": "*", "path": "*"}]}, True),
        ("PrincipalAdd", {"name": "x", "role": "root", "scopes": [{"project": "*", "path": "*"}]}, False),
        ("PrincipalAdd", {"name": "x", "role": "owner", "scopes": []}, False),
        (
            "WorkloadAdmission",
            {"name": "x", "references": "", "resources": [], "not_after": "2027-01-01T00:00:00Z"},
            True,
        ),
        ("WorkloadAdmission", {"name": "x"}, False),
        ("PolicyPut", {"text": "", "previous": "0" * 64}, True),
        ("PolicyPut", {"text": "", "previous": "0"}, False),
    ],
)
def test_what_a_request_may_be(name: str, value: Any, good: bool) -> None:
    assert fits(name, value) is good


def test_every_recipe_that_is_known_is_allowed_and_no_other() -> None:
    from kokon.errors import UsageError
    from kokon.provisioning.secret.generate import parse_recipe

    kinds = (
        "bytes",
        "hex",
        "base64",
        "password",
        "ed25519",
        "x25519",
        "p256",
        "p384",
        "rsa3072",
        "rsa4096",
        "uuid",
        "p521",
        "",
    )
    sizes = (
        "",
        *(f":{size}" for size in (0, 1, 15, 16, 17, 99, 100, 999, 1000, 1009, 1010, 1019, 1020, 1024, 1025, "016")),
    )
    for recipe in (f"{kind}{size}" for kind in kinds for size in sizes):
        try:
            known = bool(parse_recipe(recipe))
        except UsageError:
            known = False
        assert fits("SecretPut", {"generate": recipe}) is known, recipe


# -- routes ------------------------------------------------------------------------------------------------------------


async def tell(request: Request) -> JSONResponse:
    return JSONResponse({"operation": request.scope["operation"], **request.path_params})


@pytest.fixture(scope="module")
def client() -> TestClient:
    handlers = dict.fromkeys({one.handled_by for one in API.operations}, tell)
    app = Starlette(routes=[*routes(API, handlers), *project_routes(handlers)])
    app.router.redirect_slashes = False
    return TestClient(app)


@pytest.mark.parametrize("base", ["", "/p/a-b", "/p/default"])
def test_operations_of_a_project_are_at_the_root_and_below_its_address(client: TestClient, base: str) -> None:
    for operation in API.operations:
        path = operation.template.replace("{kind}", "platform")
        for hole in ("repository", "type", "tag", "name", "identity", "host_data", "index", "path"):
            path = path.replace(f"{{{hole}}}", "0")
        answer = client.request(operation.method, base + path)
        if base and not operation.project:
            assert answer.status_code == 404
            continue
        told = answer.json()
        assert told["operation"] == operation.name
        assert told.get("project") == (base.removeprefix("/p/") or None)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/kbs/v0/resource/a/b", 404),
        ("GET", "/kbs/v0/resource/a/b/c/d", 404),
        ("GET", "/kbs/v0/resource/a/b/c%2Fd", 404),
        ("GET", "/kbs/v0/resource/a/b/", 404),
        ("GET", "/kbs/v0/plugin/a", 404),
        ("POST", "/kbs/v0/auth/", 404),
        ("POST", "/p/a/p/b/kbs/v0/auth", 404),
        ("POST", "/p//kbs/v0/auth", 404),
        ("POST", "/p/a%2Fb/kbs/v0/auth", 404),
        ("GET", "/p/a/healthz", 404),
        ("HEAD", "/healthz", 405),
        ("GET", "/kbs/v0/auth", 405),
    ],
)
def test_what_is_not_in_the_table_is_not_offered(client: TestClient, method: str, path: str, status: int) -> None:
    assert client.request(method, path).status_code == status


@pytest.mark.parametrize("base", ["", "/p/x"])
def test_a_wrong_method_is_told_all_right_ones(client: TestClient, base: str) -> None:
    answer = client.patch(f"{base}/kbs/v0/resource/a/b/c")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, POST")


def test_a_handler_must_be_there_for_both() -> None:
    for make in (lambda handlers: routes(API, handlers), project_routes):
        with pytest.raises(InternalError) as caught:
            make({})
        assert caught.value.code == "api-table-wrong"


def test_a_reference_to_a_schema_that_is_not_there() -> None:
    schemas = {name: schema for name, schema in API.schemas.items() if name != "Problem"}
    with pytest.raises(InternalError) as caught:
        document(replace(API, schemas=schemas))
    assert caught.value.code == "api-table-wrong"
    assert "Problem" in str(caught.value.found)


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_is_current() -> None:
    assert (ROOT / "docs" / "API.md").read_text() == markdown(API), "run scripts/api"


def test_the_script_writes_it(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "src").symlink_to(ROOT / "src")
    script = tmp_path / "scripts" / "api"
    script.write_text((ROOT / "scripts" / "api").read_text())
    subprocess.run([sys.executable, str(script)], check=True)
    assert (tmp_path / "docs" / "API.md").read_text() == markdown(API)


def test_the_page_explains_every_shape_and_refusal() -> None:
    page = markdown(API)
    for name in API.schemas:
        assert f"| `{name}` |" in page
    for operation in API.operations:
        assert f"(`{operation.name}`)" in page
    assert "| 429 | too often: come again later |" in page
    assert page.count("Only at the root.") == len(OF_THE_SERVER)


@pytest.mark.parametrize(
    ("schema", "short"),
    [
        ({}, "any"),
        ({"type": "string", "format": "date-time"}, "time"),
        ({"type": ["string", "null"]}, "text | null"),
        ({"enum": ["a", 1]}, '"a" | 1'),
        ({"type": "object"}, "{...}"),
        ({"type": "array", "items": {"$ref": "#/components/schemas/Secret"}}, "[Secret, ...]"),
        (
            {
                "type": "object",
                "required": ["a"],
                "properties": {"a": {}, "b": {"type": "integer"}},
                "additionalProperties": False,
            },
            '{"a": any, "b"?: number}',
        ),
        ({"allOf": [{"const": 1}, {"type": "boolean"}]}, "1 & true or false"),
    ],
)
def test_a_schema_in_short(schema: dict[str, Any], short: str) -> None:
    assert shape(schema) == short
