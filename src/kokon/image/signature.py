"""Image signatures as cosign keeps them in a registry, reading side. Guest code.

Format: cosign SIGNATURE_SPEC.md (facts oci.md 2.1): tag `sha256-<hex>.sig`, one layer per signature, the payload is a
"simple signing" document, the signature stands in an annotation. `optional` and the docker reference in the payload are
not judged: the launch document pins the digest, whatever the registry is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kokon.errors import MalformedError, UntrustedError
from kokon.image.ecdsa import key_id, load_public_key, signature_holds
from kokon.image.manifest import check_digest, parse_manifest
from kokon.wire import Fields, parse_json, unb64

if TYPE_CHECKING:
    from kokon.image.fetch import Fetcher
    from kokon.image.manifest import Descriptor

PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE_ANNOTATION = "dev.cosignproject.cosign/signature"
PAYLOAD_LIMIT = 64 << 10
SIGNATURES_LIMIT = 16
_KIND = "cosign container image signature"


def signature_tag(digest: str) -> str:
    """The tag under which the signatures of the manifest `digest` are kept."""
    return check_digest(digest, what="image digest").replace(":", "-", 1) + ".sig"


def parse_payload(payload: bytes) -> str:
    """The manifest digest that a simple signing payload is about.

    Raises `MalformedError` (`signature-payload`, the codes of `kokon.wire`).
    """
    fields = Fields(parse_json(payload, limit=PAYLOAD_LIMIT, what="signature payload"), "signature payload")
    critical = Fields(fields.table("critical"), "critical")
    fields.value("optional", default=None)
    fields.finish()
    kind = critical.text("type")
    if kind != _KIND:
        raise MalformedError("signature-payload", "the payload is no image signature", expected=_KIND, found=kind[:99])
    image = Fields(critical.table("image"), "image")
    critical.value("identity", default=None)
    critical.finish()
    digest = image.text("docker-manifest-digest")
    image.finish()
    return check_digest(digest, what="digest in the signature payload")


def verify_signature(digest: str, payload: bytes, signature: bytes, author_pem: str | bytes) -> None:
    """Raise unless `signature` (DER) over `payload` is the author's and the payload is about the manifest `digest`.

    Raises `UntrustedError` (`image-author-unknown`, `signature-image-mismatch`), `MalformedError` as parsing does.
    """
    key = load_public_key(author_pem)
    if not signature_holds(key, signature, payload):
        raise UntrustedError(
            "image-author-unknown",
            "the image is signed by somebody else",
            expected=f"key {key_id(key)[:16]}...",
            found="a signature of another key",
            hint="use the public key of the image's author, or an image of the author whom you trust",
        )
    about = parse_payload(payload)
    if about != digest:
        raise UntrustedError(
            "signature-image-mismatch", "the signature is about another image", expected=digest, found=about
        )


def fetch_signature(fetcher: Fetcher, digest: str, author_pem: str | bytes) -> bytes:
    """The payload of a signature by the author over the manifest `digest`, found in the registry.

    Raises `UntrustedError` (`image-unsigned`, the codes of `verify_signature`), and what the fetcher raises.
    """
    found = fetcher.tagged(signature_tag(digest))
    layers = () if found is None else parse_manifest(found[0]).layers
    candidates = [layer for layer in layers if layer.media_type == PAYLOAD_TYPE][:SIGNATURES_LIMIT]
    if not candidates:
        raise UntrustedError(
            "image-unsigned",
            "the image has no signature",
            expected=f"a signature under the tag {signature_tag(digest)}",
            hint="seal the image with `kokon seal`, and copy the signature tag along with the image",
        )
    refusals: list[UntrustedError | MalformedError] = []
    for layer in candidates:
        try:
            return _candidate(fetcher, digest, layer, author_pem)
        except (UntrustedError, MalformedError) as error:
            refusals.append(error)
    raise refusals[0]


def _candidate(fetcher: Fetcher, digest: str, layer: Descriptor, author_pem: str | bytes) -> bytes:
    signature = unb64(layer.annotations.get(SIGNATURE_ANNOTATION, ""), what="signature", limit=1024)
    payload = fetcher.blob(layer.digest, layer.size, PAYLOAD_LIMIT)
    verify_signature(digest, payload, signature, author_pem)
    return payload
