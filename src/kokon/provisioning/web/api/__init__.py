"""The table of all that the server offers over HTTP: routes, OpenAPI document and docs/API.md come out of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kokon import __version__
from kokon.provisioning.web import openapi
from kokon.provisioning.web.api import guests, logs, policies, secrets, server, workloads
from kokon.provisioning.web.api.common import PREFIX
from kokon.provisioning.web.api.schemas import SCHEMAS
from kokon.provisioning.web.table import Api, Handler

_DESCRIPTION = """\
Releases secrets to attested enclaves, and to nobody else. Guests speak the key broker protocol of Confidential \
Containers; all else is administration, for principals with a token or a client certificate.

A refusal is `{"error": {"code", "kind", "message", "expected"?, "found"?, "hint"?}}`; below `/kbs/`, and for events \
of guests, it is the protocol's error document. A guest is told a code and a denial's id, nothing more. A server that \
was told to be literal answers guests 401 where another status is due, as the stock key broker does."""

API: Final = Api(
    title="Kokon provisioning server",
    version=__version__,
    description=_DESCRIPTION,
    operations=(
        *guests.OPERATIONS,
        *secrets.OPERATIONS,
        *workloads.OPERATIONS,
        *policies.OPERATIONS,
        *logs.OPERATIONS,
        *server.OPERATIONS,
    ),
    schemes={
        "token": {
            "type": "http",
            "scheme": "bearer",
            "description": "A principal's token: `Authorization: Bearer kokon_...`.",
        },
        "certificate": {"type": "mutualTLS", "description": "A principal's client certificate."},
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": "kbs-session-id",
            "description": "The session that the guest carries.",
        },
        "attestation": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "The token that an attestation was answered with.",
        },
    },
    tags={
        guests.TAG: "What an enclave asks for.",
        secrets.TAG: "What enclaves get. Values go in, and come out to enclaves only.",
        workloads.TAG: "Which enclaves get it.",
        policies.TAG: "What is demanded of platforms, evidence and requests.",
        policies.BROKER: "The same for the key broker's admin clients.",
        logs.TAG: "What happened, in a form that proves that nothing was taken out or put in later.",
        server.TAG: "Projects, principals and keys: only at the root.",
        server.OPEN: "For anybody.",
    },
    schemas=SCHEMAS,
    prefix=PREFIX,
    prefix_description=(
        "The same for a project of this name, also for `default`, which is at the root too. What is not of a project "
        "is only at the root."
    ),
)
"""The table. Handlers find a project's name in `request.path_params["project"]`; it is not there at the root."""


def project_routes(handlers: Mapping[str, Handler]) -> list[openapi.OperationRoute]:
    """The routes of a project's operations below `/p/{project}`; `openapi.routes(API, handlers)` are those at the root.

    Raises `InternalError` (`api-table-wrong`) unless each operation has one handler and each handler an operation.
    """
    return openapi.prefixed_routes(API, handlers)
