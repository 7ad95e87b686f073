"""The two forms of an image signature as bytes: cosign's simple signing document, and the sigstore bundle v0.3.

Classic (cosign SIGNATURE_SPEC.md, facts oci.md 2.1): the signature is over the payload's bytes; signature and time
stamp stand in annotations. Bundle (sigstore protobuf-specs, sigstore_bundle.proto, in JSON; facts oci.md 2.3): a DSSE
envelope around an in-toto statement of type `https://sigstore.dev/cosign/sign/v1`.

Nothing that these parsers give is believed before `Claim.signature` was verified over `Claim.message`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from kokon.errors import MalformedError
from kokon.image.dsse import ENVELOPE_LIMIT, IN_TOTO_TYPE, PAYLOAD_LIMIT, Envelope, envelope_from, pre_authentication
from kokon.image.manifest import check_digest
from kokon.image.signature import PAYLOAD_LIMIT as SIMPLE_LIMIT
from kokon.image.signature import SIGNATURE_ANNOTATION, parse_payload
from kokon.image.signing.keys import SIGNATURE_LIMIT, spki
from kokon.image.statement import STATEMENT_TYPE
from kokon.wire import Fields, b64, parse_json, unb64

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kokon.image.signing.keys import PublicKey

Form = Literal["classic", "bundle"]

BUNDLE_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
BUNDLE_LIMIT: Final = 2 * ENVELOPE_LIMIT
SIGN_PREDICATE: Final = "https://sigstore.dev/cosign/sign/v1"
TIMESTAMP_ANNOTATION: Final = "dev.sigstore.cosign/rfc3161timestamp"
TIMESTAMP_LIMIT: Final = 64 << 10
TIMESTAMPS_LIMIT: Final = 8
_STATEMENT_TYPES: Final = (STATEMENT_TYPE, "https://in-toto.io/Statement/v0.1")


@dataclass(frozen=True, slots=True)
class Claim:
    """Somebody's signature on an image, parsed and not verified.

    `message` is what `signature` is over; `digest` the manifest that it is about; `identity` the name that the signer
    gave the image, None if none; `timestamps` are RFC 3161 responses (DER) about `signature`.
    """

    form: Form
    message: bytes
    signature: bytes
    digest: str
    identity: str | None
    timestamps: tuple[bytes, ...] = ()


def simple_payload(identity: str, digest: str) -> bytes:
    """The simple signing document about the manifest `digest`, as cosign writes it."""
    critical = {
        "identity": {"docker-reference": identity},
        "image": {"docker-manifest-digest": check_digest(digest, what="image digest")},
        "type": "cosign container image signature",
    }
    return json.dumps({"critical": critical, "optional": None}, separators=(",", ":")).encode()


def sign_statement(identity: str, digest: str) -> bytes:
    """The in-toto statement that cosign 3 signs; the name of its subject is the image's."""
    digits = check_digest(digest, what="image digest").removeprefix("sha256:")
    subject: dict[str, Any] = {"digest": {"sha256": digits}}
    if identity:
        subject["name"] = identity
    statement = {"_type": STATEMENT_TYPE, "subject": [subject], "predicateType": SIGN_PREDICATE, "predicate": {}}
    return json.dumps(statement, separators=(",", ":")).encode()


def classic_annotations(signature: bytes, timestamp: bytes | None) -> dict[str, str]:
    """The annotations of a classic signature's layer."""
    annotations = {SIGNATURE_ANNOTATION: b64(signature)}
    if timestamp is not None:
        text = json.dumps({"SignedRFC3161Timestamp": b64(timestamp)}, separators=(",", ":"))
        annotations[TIMESTAMP_ANNOTATION] = text
    return annotations


def parse_classic(payload: bytes, annotations: Mapping[str, str]) -> Claim:
    """A classic signature: its payload and its layer's annotations.

    Raises `MalformedError` (`signature-payload`, `digest-malformed`, the codes of `kokon.wire`).
    """
    signature = unb64(annotations.get(SIGNATURE_ANNOTATION, ""), what="signature", limit=SIGNATURE_LIMIT)
    digest = parse_payload(payload)
    critical = Fields(parse_json(payload, limit=SIMPLE_LIMIT, what="signature payload"), "payload").table("critical")
    named = Fields(Fields(critical, "critical").table("identity", default={}), "identity")
    identity = named.text("docker-reference", default="", limit=1024) or None
    named.finish()
    text = annotations.get(TIMESTAMP_ANNOTATION)
    return Claim("classic", payload, signature, digest, identity, () if text is None else (_classic_stamp(text),))


def encode_bundle(statement: bytes, signature: bytes, key: PublicKey, timestamp: bytes | None) -> bytes:
    """A bundle around a signed statement. `signature` is over its DSSE pre-authentication encoding."""
    material: dict[str, Any] = {"publicKey": {"hint": b64(hashlib.sha256(spki(key)).digest())}}
    if timestamp is not None:
        material["timestampVerificationData"] = {"rfc3161Timestamps": [{"signedTimestamp": b64(timestamp)}]}
    envelope = {"payload": b64(statement), "payloadType": IN_TOTO_TYPE, "signatures": [{"sig": b64(signature)}]}
    bundle = {"mediaType": BUNDLE_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope}
    return json.dumps(bundle, separators=(",", ":")).encode()


def parse_bundle(data: bytes) -> Claim:
    """A bundle that is an image signature.

    Entries of transparency logs and certificates are read over: the key that counts is the caller's. Raises
    `MalformedError` (`bundle-unsupported`, `bundle-statement`, the codes of `kokon.image.dsse` and `kokon.wire`).
    """
    envelope, timestamps = parse_bundle_envelope(data)
    digest, identity = _signed_image(envelope.payload)
    message = pre_authentication(envelope.payload_type, envelope.payload)
    return Claim("bundle", message, envelope.signatures[0][1], digest, identity, timestamps)


def parse_bundle_envelope(data: bytes) -> tuple[Envelope, tuple[bytes, ...]]:
    """The envelope of a bundle and its RFC 3161 time stamps. Raises as `parse_bundle`."""
    fields = Fields(parse_json(data, limit=BUNDLE_LIMIT, what="sigstore bundle"), "sigstore bundle")
    media_type = fields.text("mediaType", limit=255)
    material = Fields(fields.table("verificationMaterial"), "verification material")
    value = fields.value("dsseEnvelope", default=None)
    fields.value("messageSignature", default=None)
    fields.finish()
    if media_type != BUNDLE_TYPE or value is None:
        raise MalformedError(
            "bundle-unsupported",
            "the sigstore bundle is not of the kind that images are signed with",
            expected=f"{BUNDLE_TYPE} with a DSSE envelope",
            found=media_type if media_type != BUNDLE_TYPE else "a signature over the bytes themselves",
        )
    timestamps = _timestamps(material.table("timestampVerificationData", default={}))
    for name in ("publicKey", "certificate", "x509CertificateChain", "tlogEntries"):
        material.value(name, default=None)
    material.finish()
    envelope = envelope_from(value)
    if envelope.payload_type != IN_TOTO_TYPE or len(envelope.signatures) != 1:
        raise MalformedError(
            "bundle-unsupported",
            "the bundle's envelope is no statement with one signature",
            expected=f"{IN_TOTO_TYPE}, 1 signature",
            found=f"{envelope.payload_type}, {len(envelope.signatures)}",
        )
    return envelope, timestamps


def _signed_image(payload: bytes) -> tuple[str, str | None]:
    fields = Fields(parse_json(payload, limit=PAYLOAD_LIMIT, what="statement"), "statement")
    kinds = fields.text("_type"), fields.text("predicateType")
    subjects = fields.array("subject", limit=16)
    fields.value("predicate", default=None)
    fields.finish()
    if kinds[0] not in _STATEMENT_TYPES or kinds[1] != SIGN_PREDICATE or len(subjects) != 1:
        raise MalformedError(
            "bundle-statement",
            "the bundle's statement is no image signature",
            expected=f"{SIGN_PREDICATE} about one subject",
            found=f"{kinds[1]} about {len(subjects)}",
        )
    subject = Fields(subjects[0], "subject")
    digest = Fields(subject.table("digest"), "subject digest")
    found = check_digest("sha256:" + digest.text("sha256", limit=64), what="subject digest")
    name = subject.text("name", default="", limit=1024) or None
    subject.value("annotations", default=None)
    subject.finish()
    digest.finish()
    return found, name


def _timestamps(value: dict[str, Any]) -> tuple[bytes, ...]:
    fields = Fields(value, "time stamps")
    stamps = fields.array("rfc3161Timestamps", default=[], limit=TIMESTAMPS_LIMIT)
    fields.finish()
    return tuple(_stamp(member, "signedTimestamp") for member in stamps)


def _classic_stamp(text: str) -> bytes:
    return _stamp(parse_json(text.encode(), limit=TIMESTAMP_LIMIT * 2, what="time stamp"), "SignedRFC3161Timestamp")


def _stamp(value: Any, name: str) -> bytes:
    fields = Fields(value, "time stamp")
    data = unb64(fields.text(name, limit=TIMESTAMP_LIMIT * 2), what="time stamp", limit=TIMESTAMP_LIMIT)
    fields.finish()
    return data
