"""What a dishonest cloud does beyond launching: signs with a key of its own, and sends old evidence again."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import httpx2
from cryptography.hazmat.primitives.asymmetric import ec

from kokon.channel.client import capture_answer
from kokon.errors import DeniedError, KokonError
from kokon.image.ecdsa import sign
from kokon.image.signature import signature_tag
from kokon.jose.jwe import public_jwk
from kokon.tee.snp.envelope import to_envelope
from kokon.wire import b64

if TYPE_CHECKING:
    from kokon.demo.owner import Owner

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@contextlib.contextmanager
def forged_signature(registry: str, repository: str, digest: str) -> Iterator[None]:
    """While the context lasts, the image's signature in the registry is one by an unknown key."""
    base = f"http://{registry}/v2/{repository}"
    tag = signature_tag(digest)
    with httpx2.Client(timeout=10) as client:
        honest = client.get(f"{base}/manifests/{tag}", headers={"Accept": MANIFEST}).raise_for_status().content
        manifest: dict[str, Any] = json.loads(honest)
        layer = manifest["layers"][0]
        payload = client.get(f"{base}/blobs/{layer['digest']}").raise_for_status().content
        signature = sign(ec.generate_private_key(ec.SECP256R1()), payload)
        layer["annotations"]["dev.cosignproject.cosign/signature"] = b64(signature)
        _put(client, base, tag, json.dumps(manifest).encode())
        try:
            yield
        finally:
            _put(client, base, tag, honest)


def _put(client: httpx2.Client, base: str, tag: str, manifest: bytes) -> None:
    client.put(f"{base}/manifests/{tag}", content=manifest, headers={"Content-Type": MANIFEST}).raise_for_status()


def replay(owner: Owner, url: str) -> KokonError | None:
    """Take the running guest's evidence, which it shows to anybody, and ask for its secrets with a key of our own."""
    evidence = capture_answer(url, hashlib.sha256(b"curious").digest()).evidence
    with httpx2.Client(base_url=owner.url, verify=owner.tls(), timeout=30) as client:
        request = {"version": "0.4.0", "tee": "snp", "extra-params": {}}
        challenge = client.post("/kbs/v0/auth", json=request).raise_for_status().json()
        key = ec.generate_private_key(ec.SECP256R1())
        attestation = {
            "init-data": None,
            "runtime-data": {"nonce": challenge["nonce"], "tee-pubkey": public_jwk(key.public_key())},
            "tee-evidence": {"primary_evidence": to_envelope(evidence), "additional_evidence": ""},
        }
        answer = client.post("/kbs/v0/attest", json=attestation)
    if answer.is_success:
        return None
    code, _, rest = str(answer.json().get("detail", "")).partition(":")
    return DeniedError(
        code.strip() or "no-code", f"the server refused ({answer.status_code}){': ' if rest else ''}{rest}"
    )
