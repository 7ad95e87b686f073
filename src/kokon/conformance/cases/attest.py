"""Cases of POST /attest: what is granted, and what is malformed."""

from __future__ import annotations

import json
from typing import Any, Final

from kokon.conformance.case import Cases, Level, Notes, Skip, Violation
from kokon.conformance.connection import Broken
from kokon.conformance.evidence import foreign
from kokon.conformance.keys import Fixed, make_key, unlock
from kokon.conformance.messages import NEWEST, attestation, b64, device_digest, init_data
from kokon.conformance.world import KBS, World

CASES: Final = Cases()


def _granted(version: str) -> None:
    @CASES.add(
        f"attest-{version}",
        Level.MUST if version == NEWEST else Level.SHOULD,
        "Attestation",
        f"good evidence gets a token with protocol version {version}",
    )
    def check(world: World, notes: Notes) -> None:
        if version == NEWEST:
            world.handshake()
        elif version == "0.1.1":
            _oldest(world, notes)
        else:
            world.handshake(version)
        notes.say("a token")


def _oldest(world: World, notes: Notes) -> None:
    """Clients of 0.1.1 sent the evidence as text; some of that time as an object."""
    try:
        world.handshake("0.1.1")
    except Violation:
        session = world.auth("0.1.1")
        key = world.key("RSA")
        evidence = world.attester.evidence(world.digest(session, key))
        answer = world.attest(session, attestation("0.2.0", session.nonce, key.jwk, evidence, "", None))
        if answer.status != 200:
            raise
        notes.say("evidence as an object")


for _version in ("0.4.0", "0.3.0", "0.2.0", "0.1.1"):
    _granted(_version)


@CASES.add("attest-form", Level.MUST, "Response", 'the answer to /attest is {"token": text}, as application/json')
def form(world: World, notes: Notes) -> None:
    answer = world.attested().answer
    if set(answer.json()) != {"token"}:
        notes.tolerate("further members")
    if not answer.header("content-type").startswith("application/json"):
        raise Violation(f"content type {answer.header('content-type')[:60]!r}")
    notes.say("token")


@CASES.add("attest-init-data-absent", Level.MUST, "Attestation", "init-data may be null, and may be missing")
def init_data_absent(world: World, notes: Notes) -> None:
    world.attested()
    key = world.key("P-256")
    for name in ("null", "missing"):
        session = world.auth()
        message = world.message(session, key, document=None)
        if name == "missing":
            del message["init-data"]
        answer = world.attest(session, message)
        if answer.status != 200:
            raise Violation(f"init-data {name}: {answer.summary(detail=True)}")
    notes.say("null and missing")


@CASES.add(
    "attest-init-data-wrong", Level.MUST, "Attestation", "a launch document that the hardware does not name is refused"
)
def init_data_wrong(world: World, notes: Notes) -> None:
    world.attested()
    if not world.attester.binds_init_data:
        raise Skip(f"{world.attester.tee} evidence has no place for it")
    session = world.auth()
    document = init_data(world.options.init_data + "\n")
    notes.refused(world.attest(session, world.message(session, world.key("P-256"), document=document)), "another one")


@CASES.add("attest-init-data-format", Level.SHOULD, "Attestation", "a launch document in an unknown format is refused")
def init_data_format(world: World, notes: Notes) -> None:
    world.attested()
    session = world.auth()
    document = {"format": "no-such-format", "body": world.options.init_data}
    notes.refused(world.attest(session, world.message(session, world.key("P-256"), document=document)), "the format")


@CASES.add("attest-devices", Level.MAY, "Attestation", "evidence of further devices is appraised with the first")
def devices(world: World, notes: Notes) -> None:
    world.attested()
    if world.attester.tee != "sample":
        raise Skip("only with --tee sample")
    session, key = world.auth(), world.key("P-256")
    device = {"svn": "2", "report_data": b64(device_digest(key.jwk, session.nonce, session.algorithm))}
    additional = json.dumps({"sampledevice": device})
    answer = world.attest(session, world.message(session, key, additional=additional))
    if answer.status != 200:
        raise Violation(answer.summary())
    notes.say("granted")


@CASES.add("attest-malformed", Level.MUST, "Attestation", "bodies that are no JSON object are refused")
def malformed(world: World, notes: Notes) -> None:
    world.attested()
    for body in (b"", b"{", b"[]", b"\xff", b'{"tee-evidence":' + b"[" * 20_000):
        session = world.auth()
        answer = world.call("POST", f"{KBS}/attest", body=body, cookie=session.cookie)
        notes.refused(answer, f"body {body[:12]!r}")


@CASES.add(
    "attest-member-missing", Level.MUST, "Attestation", "an Attestation without nonce, key or evidence is refused"
)
def member_missing(world: World, notes: Notes) -> None:
    world.attested()
    for path in (("runtime-data",), ("tee-evidence",), ("runtime-data", "nonce"), ("runtime-data", "tee-pubkey"),
                 ("tee-evidence", "primary_evidence")):  # fmt: skip
        session = world.auth()
        message = world.message(session, world.key("P-256"))
        inner: Any = message
        for name in path[:-1]:
            inner = inner[name]
        del inner[path[-1]]
        notes.refused(world.attest(session, message), f"no {'.'.join(path)}")


@CASES.add(
    "attest-unknown-member", Level.MUST, "Attestation", "an unknown member is refused or ignored, and breaks nothing"
)
def unknown_member(world: World, notes: Notes) -> None:
    world.attested()
    session = world.auth()
    message = {**world.message(session, world.key("P-256")), "no-such-member": [1]}
    answer = world.attest(session, message)
    if answer.status != 200:
        notes.refused(answer, "an unknown member")
        return
    notes.say("ignored")


@CASES.add("attest-too-large", Level.MUST, "HTTP Integration", "a body of 3 MiB is refused, best with 413")
def too_large(world: World, notes: Notes) -> None:
    world.attested()
    session = world.auth()
    message = world.message(session, world.key("P-256"), additional=" " * (3 << 20))
    try:
        notes.refused(world.attest(session, message), "3 MiB", 413)
    except Broken as error:
        notes.tolerate(f"the connection was cut without an answer ({error})")
    world.auth()


@CASES.add("evidence-truncated", Level.MUST, "Attestation", "evidence with something cut off is refused")
def truncated(world: World, notes: Notes) -> None:
    world.attested()
    session, key = world.auth(), world.key("P-256")
    evidence = world.attester.truncated(world.digest(session, key))
    notes.refused(world.attest(session, world.message(session, key, evidence=evidence)), "truncated evidence")


@CASES.add("evidence-altered", Level.MUST, "Attestation", "evidence that was altered after it was signed is refused")
def altered(world: World, notes: Notes) -> None:
    world.attested()
    session, key = world.auth(), world.key("P-256")
    evidence = world.attester.altered(world.digest(session, key))
    notes.refused(world.attest(session, world.message(session, key, evidence=evidence)), "altered evidence")


@CASES.add("evidence-foreign", Level.MUST, "Attestation", "evidence of another TEE than the Request named is refused")
def other_tee(world: World, notes: Notes) -> None:
    world.attested()
    session = world.auth()
    message = world.message(session, world.key("P-256"), evidence=foreign(world.attester.tee))
    notes.refused(world.attest(session, message), "another TEE's evidence")


@CASES.add("evidence-empty", Level.MUST, "Attestation", "null, {}, [] and texts are not taken for evidence")
def empty(world: World, notes: Notes) -> None:
    world.attested()
    things: tuple[Any, ...] = (None, {}, [], "", "evidence", 0)
    for evidence in things:
        session = world.auth()
        message = world.message(session, world.key("P-256"), evidence=evidence)
        notes.refused(world.attest(session, message), f"evidence {evidence!r}")


@CASES.add("key-malformed", Level.MUST, "Key Format", "nothing is released to a key that is none")
def key_malformed(world: World, notes: Notes) -> None:
    world.attested()
    good = world.key("P-256").jwk
    short, off_curve = {**good, "x": good["x"][:-4]}, {**good, "y": good["x"]}
    bad: tuple[dict[str, str], ...] = ({}, {**good, "kty": "oct"}, {**good, "crv": "P-999"}, short, off_curve)
    for jwk in bad:
        _not_released(world, notes, jwk)


def _not_released(world: World, notes: Notes, jwk: dict[str, str]) -> None:
    """Evidence that is properly bound to a bad key: refused at once, or at the latest when it comes to encryption."""
    session = world.auth()
    message = world.message(session, Fixed(jwk))
    answer = world.attest(session, message)
    if answer.status == 200:
        notes.tolerate("a token was given to a bad key")
        answer = world.get(world.readable().path, cookie=world.followed(session, answer).cookie)
    notes.refused(answer, "a bad key")


@CASES.add("key-rsa15", Level.SHOULD, "RFC 8017 7.2", "a key for RSA1_5, which invites padding oracles, is refused")
def rsa15(world: World, notes: Notes) -> None:
    world.attested()
    jwk = {**world.key("RSA").jwk, "alg": "RSA1_5"}
    _never_encrypted(world, notes, jwk, "RSA1_5")


@CASES.add("key-rsa-weak", Level.SHOULD, "RFC 7518 4.3", "an RSA key of 1024 bits is refused")
def rsa_weak(world: World, notes: Notes) -> None:
    world.attested()
    _never_encrypted(world, notes, make_key("RSA", bits=1024).jwk, "RSA-1024")


def _never_encrypted(world: World, notes: Notes, jwk: dict[str, str], what: str) -> None:
    session = world.auth()
    answer = world.attest(session, world.message(session, Fixed(jwk)))
    if answer.status == 200:
        answer = world.get(world.readable().path, cookie=world.followed(session, answer).cookie)
    notes.refused(answer, what)


@CASES.add("attest-refused-session", Level.MUST, "Session", "a session whose attestation was refused gets no resource")
def refused_session(world: World, notes: Notes) -> None:
    world.attested()
    resource = world.readable()
    session, key = world.auth(), world.key("P-256")
    evidence = world.attester.evidence(bytes(48))
    refused = world.attest(session, world.message(session, key, evidence=evidence))
    notes.refused(refused, "evidence over zeros")
    notes.refused(world.get(resource.path, cookie=session.cookie), "the session afterwards", 401)


@CASES.add(
    "replay-other-session", Level.MUST, "Challenge", "an Attestation is refused in another handshake than its own"
)
def replay_other(world: World, notes: Notes) -> None:
    attested = world.attested()
    notes.refused(world.attest(world.auth(), attested.message), "a replay")


@CASES.add("replay-same-session", Level.SHOULD, "Challenge", "an Attestation sent twice gets no second token")
def replay_same(world: World, notes: Notes) -> None:
    world.attested()
    granted = world.handshake()
    answer = world.attest(granted.opened, granted.message)
    if answer.status != 200:
        notes.refused(answer, "a replay")
        return
    if answer.json().get("token") != granted.token:
        raise Violation("another token was given")
    notes.say("the same token again")


@CASES.add("replay-new-key", Level.SHOULD, "Challenge", "a used nonce does not serve for another key")
def replay_new_key(world: World, notes: Notes) -> None:
    resource = world.readable()
    granted = world.handshake()
    answer = world.attest(granted.opened, world.message(granted.opened, make_key()))
    if answer.status != 200:
        notes.refused(answer, "a second attestation")
        return
    answer = world.get(resource.path, cookie=granted.session.cookie)
    if answer.status != 200:
        notes.refused(answer, "the resource")
        return
    try:
        unlock(answer.json(), granted.key)
    except Violation as error:
        raise Violation("the session released to the second key") from error
    notes.say("still the first key")
