"""Cases that change policies and reference values: tried only with `--change-policies`, last."""

from __future__ import annotations

from typing import Final

from kokon.conformance import tokens
from kokon.conformance.case import Cases, Level, Notes, Skip, Violation
from kokon.conformance.messages import b64, b64url
from kokon.conformance.world import DENY_ALL, World, allow_only

CASES: Final = Cases()
BROKEN: Final = "package policy\n\nallow {{{ this is no rego\n"
ATTESTATION: Final = (
    'package policy\n\nimport rego.v1\n\ndefault executables := 33\n\ntrust_claims := {"executables": executables}\n'
)
NAME: Final = "kokon-conformance"
VALUES: Final = ["a", "b"]


@CASES.add("policy-deny", Level.MUST, "Admin", "under a policy that denies everything nothing is released; 403")
def deny(world: World, notes: Notes) -> None:
    world.may_change_policies()
    resource, cookie = world.readable(), world.attested().session.cookie
    try:
        world.set_policy(DENY_ALL)
        notes.refused(world.get(resource.path, cookie=cookie), "the resource", 403)
        notes.refused(world.get(resource.path, bearer=world.attested().token), "the resource by token", 403)
    finally:
        world.set_policy(allow_only(resource.path))


@CASES.add("policy-allow", Level.MUST, "Admin", "a policy that allows one resource releases that one and no other")
def allow(world: World, notes: Notes) -> None:
    world.may_change_policies()
    resource = world.readable()
    world.set_policy(allow_only(resource.path))
    world.release(world.attested())
    other = world.own_path("other")
    world.write(other, b"another one")
    answer = world.get(other, cookie=world.attested().session.cookie)
    notes.refused(answer, "another resource", 403)
    world.delete(other)


@CASES.add(
    "policy-broken", Level.SHOULD, "Admin", "a policy that is no Rego is refused, and the one before stays in force"
)
def broken(world: World, notes: Notes) -> None:
    world.may_change_policies()
    resource = world.readable()
    try:
        notes.refused(world.post_policy(BROKEN), "broken Rego")
        world.release(world.attested())
    finally:
        world.set_policy(allow_only(resource.path))


@CASES.add("policy-attestation", Level.SHOULD, "Admin", "POST /attestation-policy takes a policy under a new name")
def attestation_policy(world: World, notes: Notes) -> None:
    world.may_change_policies()
    body = {"type": "rego", "policy_id": NAME, "policy": b64url(ATTESTATION.encode())}
    answer = world.admin("POST", "/attestation-policy", tokens.dump(body), "application/json")
    if not 200 <= answer.status < 300:
        raise Violation(answer.summary(detail=True))
    notes.say(str(answer.status))


@CASES.add("reference-value", Level.SHOULD, "Admin", "a reference value that is registered can be asked for")
def reference_value(world: World, notes: Notes) -> None:
    world.may_change_policies()
    body = {"version": "0.1.0", "type": "sample", "payload": b64(tokens.dump({NAME: VALUES}))}
    answer = world.admin("POST", "/reference-value", tokens.dump(body), "application/json")
    if not 200 <= answer.status < 300:
        raise Violation(f"registering: {answer.summary(detail=True)}")
    answer = world.admin("GET", f"/reference-value/{NAME}")
    if answer.status != 200:
        raise Violation(f"asking: {answer.summary(detail=True)}")
    if answer.json() != VALUES:
        raise Violation("another value")
    notes.say("registered and read")


@CASES.add("reference-value-broken", Level.SHOULD, "Admin", "a reference value message that is none is refused")
def reference_value_broken(world: World, notes: Notes) -> None:
    world.may_change_policies()
    body = {"version": "0.1.0", "type": "sample", "payload": "!"}
    answer = world.admin("POST", "/reference-value", tokens.dump(body), "application/json")
    if answer.status == 404:
        raise Skip("the server has no reference values")
    notes.refused(answer, "a payload that is no base64")
