"""Operations on the server itself, and those that are for anybody. Pure."""

from __future__ import annotations

from typing import Any, Final

from kokon.provisioning.web.api.common import (
    ADMIN,
    DIGEST,
    KOKON,
    PLAIN,
    admin,
    anybody,
    conflict,
    matching,
    number,
    ok,
)
from kokon.provisioning.web.api.logs import SERVER_OPERATIONS
from kokon.provisioning.web.api.schemas import SCHEMAS, TEXT, array, closed
from kokon.provisioning.web.table import JSON, Answer, Content, Operation, Parameter, ref

TAG: Final = "server"
OPEN: Final = "anybody"


def _server(name: str, method: str, path: str, summary: str, *answers: Answer, **more: Any) -> Operation:
    body = more.get("request") is not None
    return Operation(
        name,
        method,
        KOKON + path,
        summary,
        admin(*answers, body=body, project=False),
        security=ADMIN,
        tags=(TAG,),
        **more,
    )


def _none(description: str) -> Answer:
    return Answer(404, description, Content(ref("Error")))


_PROJECT: Final = Parameter("name", "the project's name", "path", SCHEMAS["Project"]["properties"]["name"])
_PRINCIPAL: Final = Parameter("identity", "the principal's id", "path", matching(r"^[a-z2-7]{12}$"))

OPERATIONS: Final = (
    _server(
        "list-projects",
        "GET",
        "/projects",
        "The projects in the scope.",
        ok("names", closed({"projects": array(TEXT)})),
    ),
    _server(
        "add-project",
        "POST",
        "/projects",
        "Make a project.",
        ok("it is there", ref("Project")),
        conflict(),
        request=Content(ref("Project")),
    ),
    _server(
        "delete-project",
        "DELETE",
        "/projects/{name}",
        "Close a project: nothing of it is served any more. Its records and its log stay.",
        ok("closed", closed({"closed": TEXT})),
        _none("there is no such project"),
        conflict(),
        parameters=(_PROJECT,),
    ),
    _server(
        "list-principals",
        "GET",
        "/principals",
        "The principals that are not beyond the one who asks.",
        ok("without their tokens", closed({"principals": array(ref("Principal"))})),
    ),
    _server(
        "add-principal",
        "POST",
        "/principals",
        "Let somebody use the admin interface, by a token, or by a certificate if one is given.",
        ok("the principal", ref("PrincipalAdded")),
        conflict(),
        request=Content(ref("PrincipalAdd")),
    ),
    _server(
        "delete-principal",
        "DELETE",
        "/principals/{identity}",
        "Take a principal's access away.",
        ok("it is gone", closed({"deleted": TEXT})),
        _none("there is no such principal"),
        conflict(),
        parameters=(_PRINCIPAL,),
    ),
    _server("status", "GET", "/status", "How the server is.", ok("figures and keys", ref("Status"))),
    _server(
        "rotate-token-key",
        "POST",
        "/token-key",
        "Sign tokens with a new key; those of the last one stay good until they expire.",
        ok("the new key's id", closed({"kid": TEXT})),
        conflict(),
    ),
    _server(
        "rotate-data-key",
        "POST",
        "/data-key",
        "Seal records with a new data key: all that there are, and those to come.",
        ok(
            "the new key's id, and the ids of those that nothing is sealed with any more, which are destroyed",
            closed({"key_id": number(), "retired": array(number())}),
        ),
        conflict(),
    ),
    *SERVER_OPERATIONS,
    Operation(
        "owner-key",
        "GET",
        f"{KOKON}/owner-key",
        "The key that authors encrypt layer keys to.",
        anybody(ok("the key", closed({"jwk": ref("Jwk"), "fingerprint": matching(DIGEST)}))),
        tags=(OPEN,),
        project=True,
    ),
    Operation(
        "jwks",
        "GET",
        "/.well-known/jwks.json",
        "The keys that attestation tokens are verified with.",
        anybody(ok("a JWK set (RFC 7517)", closed({"keys": array(ref("Jwk"))}))),
        tags=(OPEN,),
    ),
    Operation("health", "GET", "/healthz", "Whether the process answers.", (Answer(200, "it does"),), tags=(OPEN,)),
    Operation(
        "ready",
        "GET",
        "/readyz",
        "Whether the server can serve.",
        (
            ok("it can", ref("Ready")),
            Answer(503, "it cannot, or ends; the checks that failed are named", Content(ref("Ready"))),
        ),
        tags=(OPEN,),
    ),
    Operation(
        "metrics",
        "GET",
        "/metrics",
        "Figures for Prometheus.",
        (ok("its text format", None, PLAIN),),
        tags=(OPEN,),
    ),
    Operation(
        "openapi",
        "GET",
        "/openapi.json",
        "This document.",
        anybody(ok("OpenAPI 3.1", {"type": "object"}, JSON)),
        tags=(OPEN,),
    ),
)
