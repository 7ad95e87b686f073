"""The key broker protocol's messages: Request, Challenge, Attestation, in four versions. Pure.

Facts: Confidential Containers, kbs attestation protocol, and the clients of each version (guest-components). The server
speaks all four side by side; the session remembers which one a guest chose:

0.1.1, 0.2.0   `tee-pubkey` and `tee-evidence` side by side, no nonce; digest over key and nonce
0.3.0          `runtime-data` (key and nonce), `tee-evidence`, `init-data`; the same digest
0.4.0          as 0.3.0 with composite evidence, whose text for devices joins the digest

Every digest is SHA-384: the stock server verifies nothing else for the TEEs that we verify, whatever a client offers,
and a client takes it where a Challenge selects none. 0.1.0 hashed bare concatenated texts and is not spoken. The first
clients of 0.1.1 encrypt with RSA1_5, which invites padding oracles: their keys are refused (`jwe-algorithm`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from kokon.errors import MalformedError
from kokon.jose.jwe import ECDH, RSA_SHA256, from_jwk
from kokon.provisioning.kbs.strict import parse_strict
from kokon.wire import Fields, b64, canonical_json

if TYPE_CHECKING:
    from kokon.jose.jwe import PublicKey

VERSIONS: Final = ("0.1.1", "0.2.0", "0.3.0", "0.4.0")
FLAT: Final = frozenset({"0.1.1", "0.2.0"})
"""Versions whose Attestation is flat and does not repeat the nonce."""
COMPOSITE: Final = frozenset({"0.4.0"})
"""Versions with evidence of devices."""
HASH: Final = "sha384"
REQUEST_LIMIT: Final = 64 << 10
ATTEST_LIMIT: Final = 1 << 20
NONCE_SIZE: Final = 32
NONCE_LENGTH: Final = 44
"""Bytes of a nonce, and characters of its text (standard base64)."""

ALIASES: Final[Mapping[str, str]] = {"azsnpvtpm": "az-snp-vtpm", "aztdxvtpm": "az-tdx-vtpm"}
"""How clients before 0.4.0 spell TEE names (kbs-types up to 0.11: lower case without dashes)."""
_MEMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    "EC": ("kty", "crv", "alg", "x", "y"),
    "RSA": ("kty", "alg", "n", "e"),
}
_ALGORITHMS: Final = (ECDH, RSA_SHA256)


@dataclass(frozen=True, slots=True)
class Request:
    """How a guest opens a handshake: protocol version and TEE, by the name that `kokon.tee` has for it. `policy` is the
    `id` that newer clients may send to ask for a policy of that name, else None."""

    version: str
    tee: str
    policy: str | None = None


@dataclass(frozen=True, slots=True)
class Attestation:
    """A guest's evidence, and what it was made for.

    `nonce` is None where the message has none (0.1.1, 0.2.0). `jwk` holds the members that are hashed, verbatim, and
    `key` is the key itself. `evidence` is the TEE's JSON object, unread; `additional` the text with the evidence of
    devices, "" if there are none, None before 0.4.0; `init_data` the exact bytes, None if they were not sent.
    """

    version: str
    nonce: str | None
    jwk: Mapping[str, str]
    key: PublicKey
    evidence: Mapping[str, Any]
    additional: str | None = None
    init_data: bytes | None = None


def parse_request(data: bytes, allowed: Collection[str]) -> Request:
    """A Request of at most 64 KiB for one of the `allowed` TEEs.

    Raises `MalformedError` (`protocol-version`, `tee-unsupported`, `hash-unsupported`, and those of `kokon.wire`).
    """
    fields = Fields(parse_strict(data, limit=REQUEST_LIMIT, what="request"), "request")
    version, tee = fields.text("version", limit=32), fields.text("tee", limit=32)
    extra = fields.value("extra-params")
    fields.finish()
    if version not in VERSIONS:
        raise MalformedError(
            "protocol-version",
            "this protocol version is not spoken here",
            expected=" ".join(VERSIONS),
            found=repr(version),
            hint="use a key broker client of another release",
        )
    tee = ALIASES.get(tee, tee)
    if tee not in allowed:
        raise MalformedError(
            "tee-unsupported", "there is no verifier for this TEE", expected=" ".join(sorted(allowed)), found=repr(tee)
        )
    return Request(version, tee, _extra(extra))


def _extra(value: Any) -> str | None:
    """The policy asked for in `extra-params`: "" or null, or an object, of which clients may know more than we do."""
    if value is None or isinstance(value, str):
        return None
    fields = Fields(value, "extra-params")
    offered = fields.array("supported-hash-algorithms", default=[], limit=16)
    if offered and HASH not in (name.lower() for name in offered if isinstance(name, str)):
        raise MalformedError("hash-unsupported", "none of the offered hashes is used here", expected=HASH)
    return fields.text("id", default=None, limit=256)


def new_nonce(random: Callable[[int], bytes]) -> str:
    """A nonce as it travels; `random` gives that many unpredictable bytes."""
    return b64(random(NONCE_SIZE))


def challenge(nonce: str) -> dict[str, Any]:
    """The Challenge that carries `nonce`. Its `extra-params` select no hash, which stands for SHA-384 in every
    version; they are a text, as clients of 0.1.1 want."""
    return {"nonce": nonce, "extra-params": ""}


def parse_attestation(data: bytes, version: str) -> Attestation:
    """An Attestation of at most 1 MiB in the form of `version`, one of `VERSIONS`: that of its session.

    Raises `MalformedError` (`init-data-format`, those of `from_jwk` and of `kokon.wire`).
    """
    fields = Fields(parse_strict(data, limit=ATTEST_LIMIT, what="attestation"), "attestation")
    if version in FLAT:
        given, sent = fields.table("tee-pubkey"), fields.value("tee-evidence")
        fields.finish()
        jwk, key = _key(given)
        return Attestation(version, None, jwk, key, _evidence(sent))
    init_data = _init_data(fields.value("init-data", default=None))
    runtime = Fields(fields.table("runtime-data"), "runtime-data")
    sent = fields.value("tee-evidence")
    fields.finish()
    nonce, given = runtime.text("nonce", limit=NONCE_LENGTH), runtime.table("tee-pubkey")
    runtime.finish()
    additional = None
    if version in COMPOSITE:
        composite = Fields(sent, "tee-evidence")
        sent = composite.table("primary_evidence")
        additional = composite.text("additional_evidence", limit=ATTEST_LIMIT)
        composite.finish()
    jwk, key = _key(given)
    return Attestation(version, nonce, jwk, key, _evidence(sent), additional, init_data)


def _evidence(value: Any) -> Mapping[str, Any]:
    """The TEE's JSON object; the oldest clients send it as a text that holds JSON."""
    if isinstance(value, str):
        value = parse_strict(value.encode(), limit=ATTEST_LIMIT, what="tee-evidence")
    if not isinstance(value, dict):
        raise MalformedError("field-type", "tee-evidence must be an object", found=type(value).__name__)
    return value


def _key(given: dict[str, Any]) -> tuple[dict[str, str], PublicKey]:
    """The members that count, as they were sent, and the key. The stock server drops other members before it hashes."""
    kty = Fields(given, "tee-pubkey").text("kty", limit=8)
    jwk = {name: given[name] for name in _MEMBERS.get(kty, ("kty",)) if name in given}
    algorithm = Fields(jwk, "tee-pubkey").text("alg", limit=32) if kty in _MEMBERS else None
    if algorithm is not None and algorithm not in _ALGORITHMS:
        raise MalformedError(
            "jwe-algorithm",
            "this key encryption algorithm is not accepted",
            expected=" or ".join(_ALGORITHMS),
            found=repr(algorithm),
            hint="use a newer key broker client, or another of its key algorithms",
        )
    return jwk, from_jwk(jwk)


def _init_data(value: Any) -> bytes | None:
    if value is None:
        return None
    fields = Fields(value, "init-data")
    kind, body = fields.text("format", limit=16), fields.text("body", limit=ATTEST_LIMIT)
    fields.finish()
    if kind != "toml":
        raise MalformedError("init-data-format", "init-data must be TOML", expected="toml", found=repr(kind))
    return body.encode()


def runtime_data(attestation: Attestation, nonce: str) -> dict[str, Any]:
    """What the primary evidence was made for, `nonce` being that of the session: the members that are hashed, which a
    token repeats as `runtime_data_claims`."""
    members: dict[str, Any] = {"nonce": nonce, "tee-pubkey": dict(attestation.jwk)}
    if attestation.additional is not None:
        members["additional-evidence"] = attestation.additional
    return members


def primary_digest(attestation: Attestation, nonce: str) -> bytes:
    """SHA-384 (48 bytes) of the runtime data in canonical form (RFC 8785): what the primary evidence must carry."""
    return hashlib.sha384(canonical_json(runtime_data(attestation, nonce))).digest()


def device_digest(attestation: Attestation, nonce: str) -> bytes:
    """SHA-384 (48 bytes) of key and nonce alone: what the evidence of every device must carry. It was collected before
    the primary evidence, which covers it."""
    members = {"nonce": nonce, "tee-pubkey": dict(attestation.jwk)}
    return hashlib.sha384(canonical_json(members)).digest()
