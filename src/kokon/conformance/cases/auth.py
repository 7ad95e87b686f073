"""Cases of POST /auth: Request and Challenge."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from kokon.conformance.case import Cases, Level, Notes, Violation
from kokon.conformance.connection import Broken
from kokon.conformance.messages import NEWEST, request
from kokon.conformance.world import KBS, World

CASES: Final = Cases()
NONCE_SIZE: Final = 32
NONCES: Final = 8
UNKNOWN_VERSIONS: Final = ("9.9.9", "0.4", "latest", "")
DEEP: Final = b'{"version":' + b"[" * 20_000
MALFORMED: Final = (b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe{}", b"{}{}", DEEP)


def _spoken(version: str) -> None:
    @CASES.add(
        f"auth-{version}",
        Level.MUST if version == NEWEST else Level.SHOULD,
        "Request",
        f"POST /auth speaks protocol version {version}",
    )
    def check(world: World, notes: Notes) -> None:
        world.auth(version)
        notes.say("200")


for _version in ("0.4.0", "0.3.0", "0.2.0", "0.1.1"):
    _spoken(_version)


@CASES.add("auth-version-unknown", Level.MUST, "Request", "a protocol version that does not exist is refused")
def version_unknown(world: World, notes: Notes) -> None:
    world.auth()
    for version in UNKNOWN_VERSIONS:
        answer = world.post("/auth", {**request(NEWEST, world.attester.tee), "version": version})
        notes.refused(answer, f"version {version!r}")


@CASES.add("auth-version-0.1.0", Level.SHOULD, "Request", "version 0.1.0, whose binding is ambiguous, is refused")
def version_ambiguous(world: World, notes: Notes) -> None:
    world.auth()
    notes.refused(world.post("/auth", request("0.1.0", world.attester.tee)), "version 0.1.0")


@CASES.add("auth-tee-unknown", Level.MUST, "Request", "a TEE that does not exist is refused")
def tee_unknown(world: World, notes: Notes) -> None:
    world.auth()
    for tee in ("no-such-tee", "", world.attester.tee.upper()):
        notes.refused(world.post("/auth", request(NEWEST, tee)), f"TEE {tee!r}")


@CASES.add("auth-member-missing", Level.MUST, "Request", "a Request without version or without TEE is refused")
def member_missing(world: World, notes: Notes) -> None:
    world.auth()
    for name in ("version", "tee"):
        value = request(NEWEST, world.attester.tee)
        del value[name]
        notes.refused(world.post("/auth", value), f"a Request without {name}")


@CASES.add("auth-malformed", Level.MUST, "Request", "bodies that are no JSON object are refused")
def malformed(world: World, notes: Notes) -> None:
    world.auth()
    for body in MALFORMED:
        notes.refused(world.call("POST", f"{KBS}/auth", body=body), f"body {body[:12]!r}")


@CASES.add("auth-duplicate-members", Level.SHOULD, "RFC 8259 4", "a Request that names a member twice is refused")
def duplicates(world: World, notes: Notes) -> None:
    world.auth()
    tee = world.attester.tee
    body = f'{{"version":"9.9.9","version":"{NEWEST}","tee":"{tee}","extra-params":""}}'.encode()
    notes.refused(world.call("POST", f"{KBS}/auth", body=body), "a member twice")


@CASES.add("auth-unknown-member", Level.MUST, "Request", "an unknown member is refused or ignored, and breaks nothing")
def unknown_member(world: World, notes: Notes) -> None:
    answer = world.post("/auth", {**request(NEWEST, world.attester.tee), "no-such-member": {"a": 1}})
    if answer.status != 200:
        notes.refused(answer, "an unknown member")
        return
    notes.say("ignored")


@CASES.add("auth-extra-params-text", Level.SHOULD, "Request", "extra-params may be an empty text or an object")
def extra_params_text(world: World, notes: Notes) -> None:
    forms: tuple[str | dict[str, str], ...] = ("", {})
    for extra in forms:
        answer = world.post("/auth", {**request(NEWEST, world.attester.tee), "extra-params": extra})
        if answer.status != 200:
            raise Violation(f"extra-params {extra!r}: {answer.summary()}")
        notes.say(f"{extra!r}")


@CASES.add("auth-content-type", Level.SHOULD, "HTTP Integration", "a Request without a content type is understood")
def content_type(world: World, notes: Notes) -> None:
    body = request(NEWEST, world.attester.tee)
    for kind in ("text/plain", None):
        answer = world.post("/auth", body, kind=kind)
        if answer.status >= 500:
            raise Violation(f"content type {kind}: {answer.summary()}")
        if answer.status != 200:
            notes.tolerate(f"content type {kind}: {answer.summary()}")
    notes.say("200")


@CASES.add("auth-chunked", Level.SHOULD, "RFC 9112 7.1", "a Request in chunks, as proxies send it, is understood")
def chunked(world: World, notes: Notes) -> None:
    answer = world.post("/auth", request(NEWEST, world.attester.tee), chunked=True)
    if answer.status != 200:
        raise Violation(answer.summary())
    notes.say("200")


@CASES.add("auth-too-large", Level.MUST, "HTTP Integration", "a body of 3 MiB is refused, best with 413")
def too_large(world: World, notes: Notes) -> None:
    world.auth()
    value = {**request(NEWEST, world.attester.tee), "extra-params": "x" * (3 << 20)}
    try:
        notes.refused(world.post("/auth", value), "3 MiB", 413)
    except Broken as error:
        notes.tolerate(f"the connection was cut without an answer ({error})")
    world.auth()


@CASES.add("challenge-nonce", Level.MUST, "Challenge", "the nonce is padded standard base64 of 32 bytes")
def nonce(world: World, notes: Notes) -> None:
    text = world.auth().nonce
    try:
        size = len(base64.b64decode(text, validate=True))
    except (ValueError, binascii.Error) as error:
        raise Violation(f"{len(text)} characters that are no base64") from error
    if size != NONCE_SIZE:
        raise Violation(f"{size} bytes")
    notes.say(f"{size} bytes")


@CASES.add("challenge-unique", Level.MUST, "Challenge", "no two handshakes have the same nonce or the same cookie")
def unique(world: World, notes: Notes) -> None:
    sessions = [world.auth() for _ in range(NONCES)]
    if len({one.nonce for one in sessions}) != NONCES:
        raise Violation("a nonce came twice")
    if len({one.cookie for one in sessions}) != NONCES:
        raise Violation("a cookie came twice")
    notes.say(f"{NONCES} of {NONCES} differ")


@CASES.add("challenge-form", Level.MUST, "Challenge", "the Challenge has nonce and extra-params, as application/json")
def challenge_form(world: World, notes: Notes) -> None:
    answer = world.auth().answer
    value = answer.json()
    if not isinstance(value, dict) or not isinstance(value.get("extra-params"), str | dict):
        raise Violation("extra-params is missing, or is neither text nor object")
    if set(value) != {"nonce", "extra-params"}:
        notes.tolerate("further members")
    if not answer.header("content-type").startswith("application/json"):
        raise Violation(f"content type {answer.header('content-type')[:60]!r}")
    notes.say("nonce, extra-params")
