"""Cases of the binding: evidence speaks for one nonce, one key and what came with it, and for nothing else."""

from __future__ import annotations

import os
from typing import Any, Final

from kokon.conformance.case import Cases, Level, Notes, Skip
from kokon.conformance.keys import make_key
from kokon.conformance.messages import b64, jcs, runtime_digest
from kokon.conformance.world import World

CASES: Final = Cases()


def _refused(world: World, notes: Notes, what: str, **changes: Any) -> None:
    """One Attestation that differs from a good one in `changes`."""
    session = world.auth()
    notes.refused(world.attest(session, world.message(session, world.key("P-256"), **changes)), what)


@CASES.add("binding-nonce", Level.MUST, "Attestation", "evidence for another nonce than the handshake's is refused")
def nonce(world: World, notes: Notes) -> None:
    world.attested()
    _refused(world, notes, "another nonce", nonce=b64(os.urandom(32)))
    _refused(world, notes, "no nonce", nonce="")


@CASES.add("binding-report-data", Level.MUST, "Attestation", "evidence over other data is refused")
def report_data(world: World, notes: Notes) -> None:
    world.attested()
    for what, digest in (("zeros", bytes(48)), ("random data", os.urandom(48)), ("nothing", b"")):
        _refused(world, notes, f"evidence over {what}", evidence=world.attester.evidence(digest))


@CASES.add("binding-prefix", Level.MUST, "Attestation", "evidence over the first bytes of the digest alone is refused")
def prefix(world: World, notes: Notes) -> None:
    world.attested()
    session, key = world.auth(), world.key("P-256")
    evidence = world.attester.evidence(world.digest(session, key)[:32])
    notes.refused(world.attest(session, world.message(session, key, evidence=evidence)), "32 bytes of the digest")


@CASES.add("binding-key", Level.MUST, "Attestation", "a key put in after the evidence was made is refused")
def key_swapped(world: World, notes: Notes) -> None:
    world.attested()
    session = world.auth()
    message = world.message(session, world.key("P-256"), jwk=make_key().jwk)
    notes.refused(world.attest(session, message), "another key")


@CASES.add("binding-algorithm", Level.MUST, "Attestation", "the key's alg is under the hash too")
def algorithm(world: World, notes: Notes) -> None:
    world.attested()
    session, key = world.auth(), world.key("RSA")
    message = world.message(session, key, jwk={**key.jwk, "alg": "RSA-OAEP"})
    notes.refused(world.attest(session, message), "another alg")


@CASES.add(
    "binding-additional", Level.MUST, "Attestation", "additional evidence that the first does not cover is refused"
)
def additional(world: World, notes: Notes) -> None:
    world.attested()
    session, key = world.auth(), world.key("P-256")
    evidence = world.attester.evidence(world.digest(session, key, ""))
    for text in ("{}", '{"sampledevice":{}}'):
        message = world.message(session, key, evidence=evidence, additional=text)
        notes.refused(world.attest(session, message), f"additional evidence {text}")
        session = world.auth()
        evidence = world.attester.evidence(world.digest(session, key, ""))


@CASES.add("binding-old-hash", Level.MUST, "Attestation", "0.4.0 does not take the bindings of earlier versions")
def old_hash(world: World, notes: Notes) -> None:
    world.attested()
    for version in ("0.3.0", "0.1.0"):
        session, key = world.auth(), world.key("P-256")
        if version == "0.1.0":
            digest = _concatenated(session.nonce, key.jwk)
        else:
            digest = runtime_digest(version, key.jwk, session.nonce, "", session.algorithm)
        message = world.message(session, key, evidence=world.attester.evidence(digest))
        notes.refused(world.attest(session, message), f"the binding of {version}")


def _concatenated(said: str, jwk: dict[str, str]) -> bytes:
    import hashlib

    return hashlib.sha384(said.encode() + jcs(jwk)).digest()


@CASES.add("binding-hash-downgrade", Level.MUST, "Attestation", "a hash that the server did not choose is refused")
def downgrade(world: World, notes: Notes) -> None:
    world.attested()
    session, key = world.auth(), world.key("P-256")
    if session.algorithm == "sha256":
        raise Skip("the server chose SHA-256")
    digest = runtime_digest(session.version, key.jwk, session.nonce, "", "sha256")
    message = world.message(session, key, evidence=world.attester.evidence(digest))
    notes.refused(world.attest(session, message), "SHA-256")
