"""Made-up authors, images and guests for the provisioning tests; everything signed is really signed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from kokon.image.dsse import sign_envelope
from kokon.image.ecdsa import public_pem, sign
from kokon.image.kek import seal_kek
from kokon.image.manifest import CONFIG_TYPE, MANIFEST_TYPE
from kokon.image.signing.forms import simple_payload
from kokon.image.statement import Kek, ReferenceEntry, Statement, encode_statement
from kokon.jose.jwe import public_jwk
from kokon.launch.document import (
    ImageRef,
    LaunchDocument,
    Provisioning,
    SecretUse,
    VolumeUse,
    build_document,
    document_digest,
)
from kokon.tee.simulated.processor import GuestContext, Processor
from kokon.tee.snp.envelope import to_envelope
from kokon.wire import b64, canonical_json

MEASUREMENT = bytes(range(48))
KEK = bytes(range(100, 132))
KID = "kbs:///default/kek/0123456789abcdef"
POLICY = 0x30000
DEBUG = 1 << 19


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def make_manifest(layer: bytes = b"layer") -> bytes:
    descriptor = {"mediaType": CONFIG_TYPE, "digest": digest_of(b"config"), "size": 6}
    media_type = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"
    layers = [{"mediaType": media_type, "digest": digest_of(layer), "size": len(layer)}]
    members = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": descriptor, "layers": layers}
    return json.dumps(members).encode()


@dataclass
class Author:
    """Seals one image for one owner, and makes the owner's admission request for it."""

    owner: dict[str, Any]
    certificate: str
    url: str = "https://127.0.0.1:8443"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    measurement: bytes = MEASUREMENT
    kek: bytes = KEK

    def statement(self, manifest: bytes, **changes: Any) -> Statement:
        now = datetime.now(UTC).replace(microsecond=0)
        statement = Statement(
            subject=digest_of(manifest),
            name="127.0.0.1:5000/clinic",
            author="Example Author",
            created=now,
            not_after=now + timedelta(days=30),
            layers=(digest_of(b"layer"),),
            config=digest_of(b"config"),
            kek=Kek(KID, seal_kek(self.kek, self.key.public_key(), self.owner)),
            secrets=("db-password",),
            reference=(ReferenceEntry("simulated", 1, "max,-cx16", self.measurement),),
        )
        return replace(statement, **changes)

    def document(self, manifest: bytes, **changes: Any) -> bytes:
        document = LaunchDocument(
            workload="clinic",
            image=ImageRef("http://127.0.0.1:5000", "clinic", digest_of(manifest), public_pem(self.key.public_key())),
            provisioning=Provisioning(self.url, self.certificate),
            port=8080,
            log_key="kbs:///clinic/log/token",
            secrets=(SecretUse("db-password", "kbs:///clinic/secret/db-password", file="/run/secrets/db-password"),),
            volumes=(VolumeUse("data", "/data", "kbs:///clinic/volume/data"),),
        )
        return build_document(replace(document, **changes))

    def request(
        self,
        *,
        statement: dict[str, Any] | None = None,
        document: dict[str, Any] | None = None,
        signer: ec.EllipticCurvePrivateKey | None = None,
        **changes: Any,
    ) -> dict[str, Any]:
        """An admission request; `statement` and `document` are changes to those, the rest to the request itself."""
        manifest = make_manifest()
        payload = simple_payload("127.0.0.1:5000/clinic", digest_of(manifest))
        said = self.statement(manifest, **(statement or {}))
        request = {
            "name": "clinic",
            "launch_document": self.document(manifest, **(document or {})).decode(),
            "manifest": b64(manifest),
            "signature": {"payload": b64(payload), "signature": b64(sign(signer or self.key, payload))},
            "statement": sign_envelope(encode_statement(said), signer or self.key).as_dict(),
            "policy": {"allow_debug": False, "minimum_tcb": {}},
            "resources": [],
        }
        return {**request, **changes}


def runtime_digest(jwk: dict[str, str], nonce: str, additional: str | None) -> bytes:
    """What the evidence covers: key, nonce, and since 0.4.0 the text with the evidence of devices."""
    data: dict[str, Any] = {"tee-pubkey": jwk, "nonce": nonce}
    if additional is not None:
        data["additional-evidence"] = additional
    return hashlib.sha384(canonical_json(data)).digest()


def launch(
    processor: Processor, document: bytes, measurement: bytes = MEASUREMENT, policy: int = POLICY
) -> GuestContext:
    return processor.launch(measurement, document_digest(document), policy, bytes(32))


def attestation(
    guest: GuestContext, nonce: str, key: ec.EllipticCurvePrivateKey, document: bytes | None = None, **changes: Any
) -> dict[str, Any]:
    """What a guest sends to /attest; `changes` to the top-level members."""
    jwk = public_jwk(key)
    evidence = guest.evidence(runtime_digest(jwk, nonce, "") + bytes(16))
    message = {
        "init-data": None if document is None else {"format": "toml", "body": document.decode()},
        "runtime-data": {"nonce": nonce, "tee-pubkey": jwk},
        "tee-evidence": {"primary_evidence": to_envelope(evidence), "additional_evidence": ""},
    }
    return {**message, **changes}
