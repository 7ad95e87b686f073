"""DSSE envelopes: a signature over a typed payload (github.com/secure-systems-lab/dsse, protocol.md and envelope.md).

Signatures are ECDSA over SHA-256 in DER form, with P-256 or P-384 keys; `keyid` is the hexadecimal SHA-256 of the
signer's DER SubjectPublicKeyInfo and only a hint: the key that counts is the caller's. An envelope may carry several
signatures: besides the author's, which every reader demands, those of certifiers, who countersign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kokon.errors import MalformedError, UntrustedError, UsageError
from kokon.image.ecdsa import key_id, load_public_key, signature_holds
from kokon.wire import Fields, b64, parse_json, unb64

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

IN_TOTO_TYPE = "application/vnd.in-toto+json"
ENVELOPE_TYPE = "application/vnd.dsse.envelope.v1+json"
ENVELOPE_LIMIT = 1 << 20
PAYLOAD_LIMIT = 512 << 10
SIGNATURES_LIMIT = 16
"""Signatures of one envelope: the author's and those of certifiers."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A parsed, unverified envelope; `signatures` are (keyid, raw signature) pairs."""

    payload_type: str
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]

    def as_dict(self) -> dict[str, Any]:
        """The envelope as JSON values."""
        return {
            "payload": b64(self.payload),
            "payloadType": self.payload_type,
            "signatures": [{"keyid": keyid, "sig": b64(signature)} for keyid, signature in self.signatures],
        }


def envelope_from(value: Any) -> Envelope:
    """An envelope from JSON values. Raises `MalformedError` (`dsse-unsigned`, the codes of `kokon.wire`)."""
    fields = Fields(value, "DSSE envelope")
    signatures = tuple(_signature(member) for member in fields.array("signatures", limit=SIGNATURES_LIMIT))
    payload = unb64(
        fields.text("payload", limit=PAYLOAD_LIMIT * 2), what="payload of the DSSE envelope", limit=PAYLOAD_LIMIT
    )
    payload_type = fields.text("payloadType", limit=255)
    fields.finish()
    if not signatures:
        raise MalformedError("dsse-unsigned", "the DSSE envelope has no signature")
    return Envelope(payload_type, payload, signatures)


def parse_envelope(data: bytes) -> Envelope:
    """An envelope from its JSON bytes, at most 1 MiB. Raises as `envelope_from` does."""
    return envelope_from(parse_json(data, limit=ENVELOPE_LIMIT, what="DSSE envelope"))


def verify_envelope(envelope: Envelope, author_pem: str | bytes, payload_type: str = IN_TOTO_TYPE) -> bytes:
    """The payload, once one of the signatures was made by the key of `author_pem` (PEM SubjectPublicKeyInfo).

    Raises `UntrustedError` (`statement-author-unknown`), `MalformedError` (`dsse-payload-type`, `key-malformed`).
    """
    if envelope.payload_type != payload_type:
        raise MalformedError(
            "dsse-payload-type",
            "the DSSE envelope holds something else",
            expected=payload_type,
            found=envelope.payload_type,
        )
    key = load_public_key(author_pem)
    message = pre_authentication(envelope.payload_type, envelope.payload)
    if not any(signature_holds(key, signature, message) for _, signature in envelope.signatures):
        raise UntrustedError(
            "statement-author-unknown",
            "the statement is not signed by the author's key",
            expected=f"key {key_id(key)[:16]}...",
            found=", ".join(keyid[:16] for keyid, _ in envelope.signatures),
            hint="check that the image comes from the author whose key you trust",
        )
    return envelope.payload


def sign_envelope(payload: bytes, key: EllipticCurvePrivateKey, payload_type: str = IN_TOTO_TYPE) -> Envelope:
    """An envelope around `payload`, signed once with `key`."""
    from kokon.image.ecdsa import sign

    signature = sign(key, pre_authentication(payload_type, payload))
    return Envelope(payload_type, payload, ((key_id(key.public_key()), signature),))


def certify_envelope(envelope: Envelope, key: EllipticCurvePrivateKey) -> Envelope:
    """The envelope with a signature by `key` over the same payload besides those that it has: a certifier countersigns.

    It is the envelope itself if `key` has signed it already. Raises `UsageError` (`dsse-full`).
    """
    from kokon.image.ecdsa import sign

    public, message = key.public_key(), pre_authentication(envelope.payload_type, envelope.payload)
    if any(signature_holds(public, signature, message) for _, signature in envelope.signatures):
        return envelope
    if len(envelope.signatures) >= SIGNATURES_LIMIT:
        raise UsageError(
            "dsse-full",
            "the envelope cannot take another signature",
            expected=f"<= {SIGNATURES_LIMIT}",
            hint="have the author sign a new statement",
        )
    signed = (*envelope.signatures, (key_id(public), sign(key, message)))
    return Envelope(envelope.payload_type, envelope.payload, signed)


def certified_by(envelope: Envelope, keys: tuple[str, ...]) -> tuple[str, ...]:
    """Which of `keys` (PEM) signed the envelope: their key ids in the order of `keys`, each once.

    Only signatures that hold count: what an envelope says of its signers is a hint that anybody can change. The payload
    type is part of what was signed. Raises `MalformedError` (`key-malformed`).
    """
    message = pre_authentication(envelope.payload_type, envelope.payload)
    loaded = {key_id(key): key for key in map(load_public_key, keys)}
    return tuple(
        name
        for name, key in loaded.items()
        if any(signature_holds(key, signature, message) for _, signature in envelope.signatures)
    )


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """What DSSE signs: PAE(type, body) of protocol.md, version 1."""
    name = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def _signature(value: Any) -> tuple[str, bytes]:
    fields = Fields(value, "DSSE signature")
    keyid = fields.text("keyid", default="", limit=256)
    signature = unb64(fields.text("sig", limit=1024), what="DSSE signature", limit=512)
    fields.finish()
    return keyid, signature
