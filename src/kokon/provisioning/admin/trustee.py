"""What admin clients of Confidential Containers' key broker ask for: Rego policies and reference values.

Answers to changes are empty, as those clients expect. Policies are kept with the others of the project and have the
same history.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, PlainTextResponse, Response

from kokon.errors import DeniedError
from kokon.provisioning.access.roles import Action
from kokon.provisioning.admin.handlers import Handler, asked, project_of
from kokon.provisioning.admin.policies import BODY_LIMIT, KINDS, set_policy
from kokon.provisioning.catalogue import REFERENCE
from kokon.provisioning.database.values import Delete, Put
from kokon.provisioning.history import decode_text
from kokon.provisioning.rego.messages import parse_attestation_policy, parse_resource_policy
from kokon.provisioning.rego.reference import MESSAGE_LIMIT, StoredValue, decode_value, encode_value, read_message
from kokon.provisioning.web.body import read_body

if TYPE_CHECKING:
    from starlette.requests import Request

    from kokon.provisioning.admin.request import Asked


def set_from_message(asked: Asked, kind: str, identity: str | None, body: bytes) -> None:
    """Set the Rego policy of a message, by the id in the path, the one in the message, or the usual one.

    Raises as `set_policy` and as messages are parsed.
    """
    asked.allow(Action.POLICY_SET)
    message = parse_attestation_policy(body) if kind == "attestation" else parse_resource_policy(body)
    set_policy(asked, kind, identity or message.name, message.text, None)


def policy_names(asked: Asked, kind: str) -> list[str]:
    """The ids of the policies of a kind."""
    asked.allow(Action.POLICY_READ)
    return list(asked.store.snapshot(asked.project).names(KINDS[kind]))


def policy_text(asked: Asked, kind: str, name: str) -> str:
    """A policy's text. Raises `DeniedError` (`policy-unknown`)."""
    asked.allow(Action.POLICY_READ)
    record = asked.store.read(asked.project, KINDS[kind], name)
    if record is None:
        raise DeniedError("policy-unknown", "there is no such policy", found=f"{kind}/{name[:80]}")
    return decode_text(record).text


def register(asked: Asked, body: bytes) -> None:
    """Register the reference values of a message. Raises as `read_message`."""
    asked.allow(Action.REFERENCE_SET)
    values = read_message(body, asked.now)
    changes = [Put(REFERENCE, one.name, encode_value(one), one.expiration) for one in values]
    snapshot = asked.store.snapshot(asked.project)
    old = [
        Delete(REFERENCE, one.name, meta.version) for one in values for meta in snapshot.versions(REFERENCE, one.name)
    ]
    asked.write("reference-set", {"names": [one.name[:80] for one in values][:100]}, (*changes, *old))


def references(asked: Asked) -> dict[str, StoredValue]:
    """All reference values that have not expired, by name."""
    asked.allow(Action.REFERENCE_READ)
    found = {}
    for name in asked.store.snapshot(asked.project).names(REFERENCE):
        record = asked.store.read(asked.project, REFERENCE, name)
        if record is not None and (value := decode_value(record)).expiration > asked.now:
            found[name] = value
    return found


def list_references(asked: Asked) -> dict[str, Any]:
    """Names, values and ends."""
    return {
        "references": [
            {"name": name, "value": one.value, "expires": one.expiration.isoformat()}
            for name, one in references(asked).items()
        ]
    }


def delete_reference(asked: Asked, name: str) -> dict[str, Any]:
    """Delete a reference value. Raises `DeniedError` (`reference-unknown`)."""
    asked.allow(Action.REFERENCE_SET)
    if asked.store.snapshot(asked.project).get(REFERENCE, name) is None:
        raise _no_reference(name)
    asked.write("reference-deleted", {"names": [name[:80]]}, (Delete(REFERENCE, name),))
    return {"deleted": name}


def _no_reference(name: str) -> DeniedError:
    return DeniedError("reference-unknown", "there is no reference value of this name", found=name[:80])


def _setting(kind: str) -> Handler:
    async def handle(request: Request) -> Response:
        one = await asked(request, project_of(request))
        body = await read_body(request.scope, request.receive, BODY_LIMIT)
        await run_in_threadpool(set_from_message, one, kind, request.path_params.get("identity"), body)
        return Response(b"", media_type="text/xml")

    return handle


def _getting(kind: str) -> Handler:
    async def handle(request: Request) -> Response:
        one = await asked(request, project_of(request))
        name = request.path_params.get("identity")
        if name is None:
            return JSONResponse(await run_in_threadpool(policy_names, one, kind))
        return PlainTextResponse(await run_in_threadpool(policy_text, one, kind, name))

    return handle


async def _set_reference(request: Request) -> Response:
    one = await asked(request, project_of(request))
    body = await read_body(request.scope, request.receive, MESSAGE_LIMIT)
    await run_in_threadpool(register, one, body)
    return Response(b"", media_type="text/xml")


async def _get_reference(request: Request) -> Response:
    found = await run_in_threadpool(references, await asked(request, project_of(request)))
    name = request.path_params.get("name")
    if name is None:
        return JSONResponse({each: one.value for each, one in found.items()})
    if name not in found:
        raise _no_reference(name)
    return JSONResponse(found[name].value)


async def _list_references(request: Request) -> Response:
    return JSONResponse(await run_in_threadpool(list_references, await asked(request, project_of(request))))


async def _delete_reference(request: Request) -> Response:
    one = await asked(request, project_of(request))
    return JSONResponse(await run_in_threadpool(delete_reference, one, request.path_params["name"]))


TRUSTEE: Mapping[str, Handler] = {
    "set-attestation-policy": _setting("attestation"),
    "get-attestation-policy": _getting("attestation"),
    "set-resource-policy": _setting("resource"),
    "get-resource-policy": _getting("resource"),
    "set-reference-value": _set_reference,
    "get-reference-value": _get_reference,
    "list-references": _list_references,
    "delete-reference": _delete_reference,
}
