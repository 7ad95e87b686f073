"""Cases of GET /resource: who is given a resource, and in what form."""

from __future__ import annotations

from typing import Final

from kokon.conformance.case import Cases, Level, Notes, Violation
from kokon.conformance.keys import check_header, check_members
from kokon.conformance.messages import VERSIONS, unb64url
from kokon.conformance.world import World

CASES: Final = Cases()
WRAPPED: Final = 40
"""Bytes of a 32-byte key under AES key wrap, RFC 3394."""


@CASES.add("resource-cookie", Level.MUST, "Get Resource", "an attested session gets the resource, encrypted to its key")
def by_cookie(world: World, notes: Notes) -> None:
    world.attested()
    world.release(world.attested())
    notes.say("opens" if world.resource().value is None else "opens, the value that was set")


@CASES.add(
    "resource-bearer", Level.MUST, "Get Resource", "a token as Bearer gets the resource, encrypted to the key in it"
)
def by_bearer(world: World, notes: Notes) -> None:
    world.readable()
    world.release(world.attested(), bearer=True)
    notes.say("opens")


def _by_version(version: str) -> None:
    @CASES.add(
        f"resource-{version}",
        Level.SHOULD,
        "Get Resource",
        f"a session of version {version} gets the resource, in the form of 0.2.0 and later",
    )
    def check(world: World, notes: Notes) -> None:
        world.readable()
        world.release(world.handshake(version))
        notes.say("opens")


for _version in VERSIONS[1:]:
    _by_version(_version)


def _for_key(kind: str, level: Level) -> None:
    @CASES.add(f"jwe-{kind.lower()}", level, "Key Format", f"the resource can be encrypted to a key {_named(kind)}")
    def check(world: World, notes: Notes) -> None:
        world.readable()
        key = world.key(kind)
        message = world.release(world.handshake(key=key))
        check_members(message)
        check_header(message, key)
        notes.say(key.algorithm)


def _named(kind: str) -> str:
    return "for RSA-OAEP-256" if kind == "RSA" else f"on {kind} (ECDH-ES+A256KW)"


for _kind, _level in (
    ("P-256", Level.MUST),
    ("P-521", Level.MUST),
    ("P-384", Level.SHOULD),
    ("RSA", Level.MUST),
):
    _for_key(_kind, _level)


@CASES.add(
    "jwe-members", Level.MUST, "RFC 7516 7.2.2", "the answer is a flattened JWE: five members, base64url, A256GCM sizes"
)
def members(world: World, notes: Notes) -> None:
    world.readable()
    message = world.release(world.attested())
    check_members(message)
    size = len(unb64url(message["encrypted_key"], "encrypted_key"))
    if size != WRAPPED:
        raise Violation(f"encrypted_key has {size} bytes, not {WRAPPED}")
    notes.say(" ".join(message))


@CASES.add(
    "jwe-header", Level.MUST, "Resource Response", "the protected header is the very text that clients write again"
)
def header(world: World, notes: Notes) -> None:
    world.readable()
    check_header(world.release(world.attested()), world.attested().key)
    notes.say("{alg,enc,epk{crv,kty,x,y}}, compact")


@CASES.add(
    "jwe-fresh", Level.MUST, "RFC 7516 11.1", "each answer has a content key, an ephemeral key and an iv of its own"
)
def fresh(world: World, notes: Notes) -> None:
    world.readable()
    first, second = (world.release(world.attested()) for _ in range(2))
    same = [name for name in ("protected", "encrypted_key", "iv") if first[name] == second[name]]
    if same:
        raise Violation(f"the same {', '.join(same)} twice")
    notes.say("all differ")


@CASES.add(
    "resource-content-type", Level.SHOULD, "Resource Response", "the answer comes as application/json or jose+json"
)
def content_type(world: World, notes: Notes) -> None:
    resource = world.readable()
    kind = world.get(resource.path, cookie=world.attested().session.cookie).header("content-type")
    if kind.partition(";")[0].strip() not in ("application/json", "application/jose+json", "application/jwe"):
        raise Violation(f"{kind[:60]!r}")
    notes.say(kind[:60])


@CASES.add("resource-unattested", Level.MUST, "Get Resource", "without session and token nothing is released; 401")
def unattested(world: World, notes: Notes) -> None:
    notes.refused(world.get(world.readable().path), "no session, no token", 401)


@CASES.add("resource-half-session", Level.MUST, "Session", "a session that has not attested gets nothing; 401")
def half_session(world: World, notes: Notes) -> None:
    resource = world.readable()
    notes.refused(world.get(resource.path, cookie=world.auth().cookie), "a session without attestation", 401)


@CASES.add("resource-garbage-cookie", Level.MUST, "Session", "a made-up or altered cookie gets nothing; 401")
def garbage_cookie(world: World, notes: Notes) -> None:
    resource = world.readable()
    genuine = world.attested().session.cookie
    middle = len(genuine) // 2
    altered = genuine[:middle] + ("a" if genuine[middle] != "a" else "b") + genuine[middle + 1 :]
    world.secret(altered)
    for value in ("", "x", "0" * 32, altered, genuine[:-8]):
        world.secret(value)
        notes.refused(world.get(resource.path, cookie=value), "a made-up cookie", 401)


@CASES.add(
    "resource-cookie-or-bearer",
    Level.SHOULD,
    "Session",
    "a good token counts beside a bad cookie, and the other way round",
)
def either(world: World, notes: Notes) -> None:
    resource, attested = world.readable(), world.attested()
    for cookie, bearer in (("0" * 32, attested.token), (attested.session.cookie, "no-token")):
        answer = world.get(resource.path, cookie=cookie, bearer=bearer)
        if answer.status != 200:
            raise Violation(f"{'bad cookie, good token' if bearer == attested.token else 'good cookie, bad token'}: "
                            f"{answer.summary()}")  # fmt: skip
    notes.say("200")


@CASES.add("resource-missing", Level.MUST, "Get Resource", "a resource that does not exist is refused: 404, or 403")
def missing(world: World, notes: Notes) -> None:
    world.readable()
    cookie = world.attested().session.cookie
    notes.refused(world.get(world.own_path("missing"), cookie=cookie), "no such resource", 404, 403)
