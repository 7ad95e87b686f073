"""Cases of the administrator's endpoints: closed without a token, and working with one.

Nothing that an open server would take over is sent without a token, but resources under names of the suite's own:
policies are malformed, and it is told apart whether the server refused the sender or the body.
"""

from __future__ import annotations

import os
from typing import Final

from kokon.conformance.case import Cases, Level, Notes, Skip, Violation
from kokon.conformance.connection import Answer, Broken
from kokon.conformance.world import KBS, World

CASES: Final = Cases()
LATER: Final = frozenset({
    "InvalidRequestPath", "ParsePolicyError", "PluginInternalError", "PluginNotFound", "PolicyDeny",
    "PolicyEngineError", "RvpsError", "SerdeError", "StorageBackendInitialization",
})  # fmt: skip
"""Variants of errors that come up only after a server has let somebody in."""
MALFORMED_POLICY: Final = b'{"policy":"!"}'
ENDPOINTS: Final = (
    ("POST", "/resource-policy", MALFORMED_POLICY),
    ("GET", "/resource-policy", None),
    ("POST", "/attestation-policy", MALFORMED_POLICY),
    ("POST", "/reference-value", b'{"version":"0.1.0","type":"no-such-extractor","payload":""}'),
    ("GET", "/reference-value/kokon-conformance", None),
)


def _closed(notes: Notes, answer: Answer, what: str) -> None:
    """`answer` must refuse the sender, not the body. Raises `Violation`."""
    notes.refused(answer, what, 401, 403)
    error = answer.error()
    if answer.status not in (401, 403) or (error is not None and error[0] in LATER):
        raise Violation(f"{what}: the request was looked at before its sender was: {answer.summary()}")


def _writes(world: World) -> list[tuple[str, Answer]]:
    """Attempts to write and to delete a resource of the suite's own name; what was written by mistake is deleted."""
    path = world.own_path("probe")
    written = world.call("POST", f"{KBS}/resource/{path}", body=b"probe", kind=None)
    world.wrote(f"{KBS}/resource/{path}", written)
    deleted = world.call("DELETE", f"{KBS}/resource/{path}")
    return [("POST /resource", written), ("DELETE /resource", deleted)]


@CASES.add(
    "admin-resource-closed", Level.MUST, "Authentication", "nobody sets or deletes a resource without an admin token"
)
def resource_closed(world: World, notes: Notes) -> None:
    for what, answer in _writes(world):
        _closed(notes, answer, what)


@CASES.add(
    "admin-policy-closed",
    Level.MUST,
    "Authentication",
    "nobody sets or reads policies and reference values without one",
)
def policy_closed(world: World, notes: Notes) -> None:
    absent = []
    for method, path, body in ENDPOINTS:
        answer = world.call(method, KBS + path, body=body)
        if answer.status in (404, 405):
            absent.append(f"{method} {path}")
            continue
        _closed(notes, answer, f"{method} {path}")
    if len(absent) == len(ENDPOINTS):
        raise Skip("the server has none of these endpoints")
    if absent:
        notes.say(f"not there: {', '.join(absent)}")


@CASES.add(
    "admin-token-wrong",
    Level.MUST,
    "Authentication",
    "a wrong admin token, an empty one and another scheme are refused",
)
def token_wrong(world: World, notes: Notes) -> None:
    path = f"{KBS}/resource/{world.own_path('probe')}"
    for value in ("Bearer wrong", "Bearer ", "Bearer", "Basic YWRtaW46YWRtaW4=", "wrong", f"Bearer {'A' * 4000}"):
        answer = world.call("POST", path, body=b"probe", kind=None, headers=(("Authorization", value),))
        world.wrote(path, answer)
        _closed(notes, answer, f"{value[:12]!r}")


@CASES.add(
    "admin-token-guest", Level.MUST, "Authentication", "a guest's token and a guest's session are no admin token"
)
def token_guest(world: World, notes: Notes) -> None:
    attested = world.attested()
    path = f"{KBS}/resource/{world.own_path('probe')}"
    by_token = world.call("POST", path, body=b"probe", kind=None, bearer=attested.token)
    by_session = world.call("POST", path, body=b"probe", kind=None, cookie=attested.session.cookie)
    world.wrote(path, by_token, by_session)
    _closed(notes, by_token, "a guest's token")
    _closed(notes, by_session, "a guest's session")


@CASES.add(
    "admin-guest-secret", Level.MUST, "Authentication", "the admin token does not read resources: only guests do"
)
def no_admin_read(world: World, notes: Notes) -> None:
    resource = world.readable()
    answer = world.admin("GET", f"/resource/{resource.path}")
    notes.refused(answer, "reading with the admin token")


@CASES.add(
    "admin-resource", Level.MUST, "Get Resource", "a resource that is set, set again and deleted is read so by a guest"
)
def resource_round(world: World, notes: Notes) -> None:
    resource = world.readable()
    if not resource.own or resource.value is None:
        raise Skip("the resource is not the suite's own: it is only read")
    attested = world.attested()
    world.write(resource.path, os.urandom(64))
    try:
        world.release(attested)
    except Violation as error:
        if "another value" not in str(error):
            raise
    else:
        raise Violation("the old value after a new one was set")
    world.write(resource.path, resource.value)
    world.release(attested)
    deleted = world.delete(resource.path)
    if not 200 <= deleted.status < 300:
        raise Violation(f"deleting: {deleted.summary(detail=True)}")
    gone = world.get(resource.path, cookie=attested.session.cookie)
    notes.refused(gone, "the deleted resource", 404, 403)
    world.write(resource.path, resource.value)
    world.release(attested)


@CASES.add(
    "admin-resource-path", Level.MUST, "Get Resource", "a resource cannot be set under a name that cannot be read"
)
def resource_path(world: World, notes: Notes) -> None:
    for name in (
        "kokon-conformance/two",
        f"{world.own_path('a')}/b",
        "kokon-conformance/.x/y",
        "kokon-conformance/%2e%2e/x",
    ):
        notes.refused(world.admin("POST", f"/resource/{name}", b"probe"), name.replace(world.mark, "…"), 400, 404)


@CASES.add("admin-too-large", Level.MUST, "HTTP Integration", "a resource of 3 MiB is refused, best with 413")
def too_large(world: World, notes: Notes) -> None:
    try:
        notes.refused(world.admin("POST", f"/resource/{world.own_path('large')}", bytes(3 << 20)), "3 MiB", 413)
    except Broken as error:
        notes.tolerate(f"the connection was cut without an answer ({error})")
    world.auth()


@CASES.add("admin-delete-missing", Level.SHOULD, "Get Resource", "deleting what is not there is answered with 404")
def delete_missing(world: World, notes: Notes) -> None:
    answer = world.admin("DELETE", f"/resource/{world.own_path('never')}")
    if answer.status != 404:
        raise Violation(answer.summary())
    notes.say("404")


@CASES.add("admin-policy-list", Level.SHOULD, "Admin", "GET /resource-policy lists the policies' names")
def policy_list(world: World, notes: Notes) -> None:
    answer = world.admin("GET", "/resource-policy")
    if answer.status != 200:
        raise Violation(answer.summary())
    value = answer.json()
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise Violation("not an array of texts")
    notes.say(f"{len(value)}")
