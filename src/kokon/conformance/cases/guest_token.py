"""Cases of the attestation token: its form, what it says, and that forged ones open nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from kokon.conformance import tokens
from kokon.conformance.case import Cases, Level, Notes, Skip, Violation
from kokon.conformance.connection import Broken
from kokon.conformance.world import World

CASES: Final = Cases()
STATUSES: Final = ("none", "affirming", "warning", "contraindicated")
CLAIMS: Final = frozenset({
    "instance-identity", "configuration", "executables", "file-system", "hardware", "runtime-opaque",
    "storage-opaque", "sourced-data",
})  # fmt: skip
"""The names of AR4SI's trustworthiness claims."""
SKEW: Final = 300
DAY: Final = 86_400
JWKS: Final = "/.well-known/jwks.json"
EVIDENCE: Final = "ear.veraison.annotated-evidence"


@CASES.add("token-form", Level.MUST, "RFC 7515 7.1", "the token is a compact JWS with alg ES256")
def form(world: World, notes: Notes) -> None:
    token = tokens.read(world.attested().token)
    if token.header.get("alg") != "ES256":
        raise Violation(f"alg {str(token.header.get('alg'))[:20]!r}")
    if len(token.signature) != 64:
        raise Violation(f"a signature of {len(token.signature)} bytes")
    if "crit" in token.header:
        raise Violation("a critical header that clients do not know")
    if token.header.get("typ") != "JWT":
        notes.tolerate("typ is not JWT")
    jwk = token.header.get("jwk")
    if isinstance(jwk, dict) and "d" in jwk:
        raise Violation("the header's jwk holds a private key")
    notes.say(f"ES256, {len(token.text)} characters")


@CASES.add("token-times", Level.MUST, "Attestation Results Token", "iat is not in the future, exp is, by at most a day")
def times(world: World, notes: Notes) -> None:
    claims = world.token().claims
    issued, expires = (_time(claims, name) for name in ("iat", "exp"))
    now = world.now().timestamp()
    if not now - DAY < issued <= now + SKEW:
        raise Violation(f"iat is {issued - now:+.0f} s from now")
    if expires <= max(issued, now):
        raise Violation(f"exp is {expires - now:+.0f} s from now")
    if expires - issued > DAY:
        notes.tolerate(f"good for {expires - issued:.0f} s")
    notes.say(f"good for {expires - issued:.0f} s")


def _time(claims: dict[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Violation(f"{name} is missing or no number")
    return float(value)


def _appraisal(world: World) -> dict[str, Any]:
    """The appraisal of the first device."""
    submods = world.token().claims.get("submods")
    appraisal = submods.get("cpu0") if isinstance(submods, dict) else None
    if not isinstance(appraisal, dict):
        raise Violation("no submods.cpu0")
    return appraisal


def _vector(appraisal: dict[str, Any]) -> dict[str, int]:
    vector = appraisal.get("ear.trustworthiness-vector")
    if not isinstance(vector, dict) or not all(type(value) is int for value in vector.values()):
        raise Violation("ear.trustworthiness-vector is missing, or not made of integers")
    return vector


@CASES.add("token-ear", Level.MUST, "Attestation Results Token", "the token is an EAR: profile, verifier, submods.cpu0")
def ear(world: World, notes: Notes) -> None:
    claims = world.token().claims
    if not isinstance(claims.get("eat_profile"), str):
        raise Violation("no eat_profile")
    verifier = claims.get("ear.verifier-id")
    if not isinstance(verifier, dict) or not all(
        isinstance(verifier.get(name), str) for name in ("developer", "build")
    ):
        raise Violation("ear.verifier-id has no developer and build")
    appraisal = _appraisal(world)
    if appraisal.get("ear.status") not in STATUSES:
        raise Violation(f"ear.status {str(appraisal.get('ear.status'))[:30]!r}")
    strange = sorted(set(_vector(appraisal)) - CLAIMS)
    if strange:
        raise Violation(f"no claims of AR4SI: {', '.join(map(str, strange))[:80]}")
    notes.say(f"status {appraisal['ear.status']}")


@CASES.add("token-status", Level.SHOULD, "EAR 3", "ear.status is the worst tier of the trustworthiness vector")
def status(world: World, notes: Notes) -> None:
    appraisal = _appraisal(world)
    tier = tokens.tier(_vector(appraisal))
    if appraisal.get("ear.status") != tier:
        raise Violation(f"{str(appraisal.get('ear.status'))[:30]}, while the vector says {tier}")
    notes.say(tier)


@CASES.add(
    "token-sample",
    Level.SHOULD,
    "Attestation Results Token",
    "sample evidence, which anyone can make, is never affirming",
)
def sample(world: World, notes: Notes) -> None:
    if world.attester.tee != "sample":
        raise Skip("only with --tee sample")
    found = _appraisal(world).get("ear.status")
    if found == "affirming":
        raise Violation("affirming")
    notes.say(str(found)[:30])


def _runtime(world: World) -> dict[str, Any]:
    evidence = _appraisal(world).get(EVIDENCE)
    runtime = evidence.get("runtime_data_claims") if isinstance(evidence, dict) else None
    if not isinstance(runtime, dict):
        raise Violation(f"no runtime_data_claims in {EVIDENCE}")
    return runtime


@CASES.add(
    "token-tee-key",
    Level.MUST,
    "Attestation Results Token",
    "the token names the attested key where relying parties look",
)
def tee_key(world: World, notes: Notes) -> None:
    found = _runtime(world).get("tee-pubkey")
    expected = world.attested().key.jwk
    if not isinstance(found, dict) or any(found.get(name) != value for name, value in expected.items()):
        raise Violation("tee-pubkey is missing or another one")
    notes.say("the key that was sent")


@CASES.add("token-nonce", Level.SHOULD, "Attestation Results Token", "the token names the nonce that it answers")
def token_nonce(world: World, notes: Notes) -> None:
    nonce = world.attested().session.nonce
    if nonce not in (world.token().claims.get("eat_nonce"), _runtime(world).get("nonce")):
        raise Violation("neither eat_nonce nor runtime_data_claims.nonce")
    notes.say("the handshake's")


@CASES.add("token-id", Level.SHOULD, "RFC 7519 4.1", "the token says who issued it, and has a jti of its own")
def token_id(world: World, notes: Notes) -> None:
    claims = world.token().claims
    missing = [name for name in ("iss", "jti") if not isinstance(claims.get(name), str)]
    if missing:
        raise Violation(f"no {' and no '.join(missing)}")
    if tokens.read(world.handshake().token).claims.get("jti") == claims["jti"]:
        raise Violation("two tokens with the same jti")
    notes.say("iss, jti")


@CASES.add("token-size", Level.SHOULD, "RFC 9110 15.5", "the token fits into a header of 8 KiB")
def size(world: World, notes: Notes) -> None:
    length = len(world.attested().token)
    if length > 8192 - len("Authorization: Bearer "):
        raise Violation(f"{length} characters")
    notes.say(f"{length} characters")


def published(world: World) -> Iterator[Any]:
    """The keys that the server publishes, below its prefix and at its root."""
    for prefix in dict.fromkeys((world.client.target.prefix, "")):
        answer = world.client.send("GET", prefix + JWKS)
        if answer.status == 200:
            value = answer.json()
            keys = value.get("keys") if isinstance(value, dict) else None
            yield from keys if isinstance(keys, list) else []


@CASES.add(
    "token-signature", Level.MUST, "RFC 7515 5.2", "the signature holds under the header's key or a published one"
)
def signature(world: World, notes: Notes) -> None:
    token = world.token()
    jwk = token.header.get("jwk")
    if jwk is not None:
        if not token.verifies(jwk):
            raise Violation("not under the header's jwk")
        notes.say("under the header's jwk")
    elif any(token.verifies(key) for key in published(world)):
        notes.say("under a published key")
    else:
        raise Violation("no jwk in the header, and under none of the published keys")


@CASES.add("token-jwks", Level.SHOULD, "RFC 7517 5", f"the key is published at {JWKS}, found by kid")
def jwks(world: World, notes: Notes) -> None:
    token = world.token()
    keys = list(published(world))
    if not keys:
        raise Violation("no keys")
    if any(isinstance(key, dict) and "d" in key for key in keys):
        raise Violation("a private key is published")
    kid = token.header.get("kid")
    named = [key for key in keys if isinstance(key, dict) and kid is not None and key.get("kid") == kid]
    if not any(token.verifies(key) for key in named or keys):
        raise Violation("none of them verifies the token")
    if not named:
        notes.tolerate("found by trial, not by kid")
    notes.say(f"{len(keys)} published")


# -- forged --------------------------------------------------------------------------------------------------------


def _not_accepted(world: World, notes: Notes, forged: list[tuple[str, str]]) -> None:
    """No forged token opens the resource, as Bearer without a session."""
    path = world.readable().path
    for what, text in forged:
        try:
            notes.refused(world.get(path, bearer=text), what, 401)
        except Broken:
            if len(text) < 8192:
                raise
            notes.tolerate(f"{what}: the connection was cut without an answer")


@CASES.add("bearer-altered", Level.MUST, "RFC 7515 5.2", "a token with altered claims is refused")
def bearer_altered(world: World, notes: Notes) -> None:
    token = world.token()
    other = world.key("P-521").jwk
    submods = token.claims.get("submods") or {}
    later = {**token.claims, "exp": token.claims.get("exp", 0) + 1}
    swapped = {**token.claims, "tee-pubkey": other, "submods": {**submods, "cpu1": {"ear.status": "affirming"}}}
    forged = [("a later exp", tokens.with_claims(token, later)), ("another key", tokens.with_claims(token, swapped))]
    _not_accepted(world, notes, forged)


@CASES.add("bearer-alg-none", Level.MUST, "RFC 8725 2.1", "a token with alg none is refused, however it is spelled")
def bearer_none(world: World, notes: Notes) -> None:
    token = world.token()
    names = ("none", "None", "NONE", "")
    _not_accepted(world, notes, [(f"alg {name!r}", tokens.unsigned(token, name)) for name in names])


@CASES.add(
    "bearer-unsigned", Level.MUST, "RFC 7515 5.2", "a token without a signature, or with zeros for one, is refused"
)
def bearer_unsigned(world: World, notes: Notes) -> None:
    token = world.token()
    _not_accepted(world, notes, [("no signature", tokens.stripped(token)), ("zeros", tokens.zero_signature(token))])


@CASES.add(
    "bearer-stranger",
    Level.MUST,
    "RFC 8725 3.8",
    "a token that a stranger signed, whose key is in the header, is refused",
)
def bearer_stranger(world: World, notes: Notes) -> None:
    token = world.token()
    forged = [("a stranger's token", tokens.by_stranger(token, keep_kid=False))]
    if "kid" in token.header:
        forged.append(("a stranger's token with our kid", tokens.by_stranger(token, keep_kid=True)))
    _not_accepted(world, notes, forged)


@CASES.add("bearer-hmac", Level.MUST, "RFC 8725 2.1", "a token with alg HS256 and the public key as secret is refused")
def bearer_hmac(world: World, notes: Notes) -> None:
    token = world.token()
    keys = [token.header["jwk"]] if "jwk" in token.header else list(published(world))
    secrets = [pem for key in keys[:4] if (pem := tokens.public_pem(key))]
    if not secrets:
        raise Skip("the public key is not known")
    forged = [("alg HS256", tokens.by_public_key(token, one)) for pem in secrets for one in (pem, pem.strip())]
    _not_accepted(world, notes, forged)


@CASES.add("bearer-garbage", Level.MUST, "Authentication", "what is no token is refused: short, long, in pieces")
def bearer_garbage(world: World, notes: Notes) -> None:
    text = world.token().text
    forged = [("a word", "token"), ("dots", ".."), ("half a token", text[: len(text) // 2]),
              ("five parts", "a.b.c.d.e"), ("60 kB", "A" * 60_000), ("a tail", text + ".x")]  # fmt: skip
    _not_accepted(world, notes, forged)
