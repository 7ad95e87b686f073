"""Where image signatures lie in a registry: written and found, in both forms. [edge: the registry]

Classic: one layer for each signature, under the tag `sha256-<hex>.sig`. Bundle: an artifact that refers to the image
(distribution-spec 1.1), with the fallback tag where the registry keeps no referrers. Adding to a tag is reading and
writing: two writers at the same moment may lose one signature, so it is with everybody's tools.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kokon.errors import MalformedError, UntrustedError, UsageError
from kokon.image.manifest import (
    CONFIG_TYPE,
    EMPTY_TYPE,
    INDEX_TYPE,
    MANIFEST_TYPE,
    Descriptor,
    parse_index,
    parse_manifest,
)
from kokon.image.registry import EMPTY, descriptor_of, fallback_tag, hexdigest, manifest_bytes
from kokon.image.signature import PAYLOAD_LIMIT, PAYLOAD_TYPE, SIGNATURES_LIMIT, signature_tag
from kokon.image.signing.forms import (
    BUNDLE_LIMIT,
    BUNDLE_TYPE,
    SIGN_PREDICATE,
    Claim,
    Form,
    classic_annotations,
    parse_bundle,
    parse_classic,
)
from kokon.image.statement import format_time

if TYPE_CHECKING:
    from datetime import datetime

    from kokon.image.fetch import Fetcher
    from kokon.image.registry import Registry

PREDICATE_ANNOTATION: Final = "dev.sigstore.bundle.predicateType"
BUNDLES_LIMIT: Final = 64
"""Artifacts looked at for one image: whoever writes to the registry decides how many there are."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A signature that could not even be read, and why: its place (a digest), the stable code, the words."""

    form: Form
    place: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a registry has about one image: claims, none of them verified, and what is unreadable."""

    claims: tuple[Claim, ...]
    unread: tuple[Unread, ...] = ()


def push_classic(
    registry: Registry, repository: str, digest: str, payload: bytes, signature: bytes, timestamp: bytes | None = None
) -> str:
    """Add a signature under the image's tag; answers the digest of the signatures' manifest.

    Raises `UsageError` (`signatures-full`), and what the registry raises.
    """
    registry.upload_bytes(repository, payload)
    found = registry.manifest(repository, signature_tag(digest))
    layers = [] if found is None else list(parse_manifest(found[0]).layers)
    if len(layers) >= SIGNATURES_LIMIT:
        raise UsageError(
            "signatures-full",
            "the image has as many signatures as readers look at",
            expected=f"fewer than {SIGNATURES_LIMIT}",
            found=len(layers),
            hint=f"delete the tag {signature_tag(digest)}, or write the bundle form only",
        )
    layers.append(descriptor_of(PAYLOAD_TYPE, payload, classic_annotations(signature, timestamp)))
    rootfs = {"type": "layers", "diff_ids": [layer.digest for layer in layers]}
    config = json.dumps({"architecture": "", "os": "", "config": {}, "rootfs": rootfs}, separators=(",", ":")).encode()
    registry.upload_bytes(repository, config)
    manifest = manifest_bytes(descriptor_of(CONFIG_TYPE, config), layers)
    return registry.put_manifest(repository, signature_tag(digest), manifest)


def push_bundle(
    registry: Registry,
    repository: str,
    subject: Descriptor,
    bundle: bytes,
    now: datetime,
    predicate: str = SIGN_PREDICATE,
) -> str:
    """Attach a bundle to the image that `subject` points to; answers the digest of the bundle's manifest."""
    registry.upload_bytes(repository, EMPTY)
    registry.upload_bytes(repository, bundle)
    annotations = {
        "dev.sigstore.bundle.content": "dsse-envelope",
        PREDICATE_ANNOTATION: predicate,
        "org.opencontainers.image.created": format_time(now),
    }
    data = manifest_bytes(
        descriptor_of(EMPTY_TYPE, EMPTY),
        [descriptor_of(BUNDLE_TYPE, bundle)],
        artifact_type=BUNDLE_TYPE,
        subject=Descriptor(subject.media_type, subject.digest, subject.size),
        annotations=annotations,
    )
    name = registry.put_manifest(repository, hexdigest(data), data)
    if all(entry.descriptor.digest != name for entry in registry.referrers(repository, subject.digest)):
        entry = Descriptor(MANIFEST_TYPE, name, len(data), annotations, BUNDLE_TYPE)
        _extend_index(registry, repository, subject.digest, entry)
    return name


def find_claims(fetcher: Fetcher, digest: str) -> Found:
    """All signatures that the registry has about the manifest `digest`, of both forms. Raises what fetching raises."""
    read = [*_classic(fetcher, digest), *_bundles(fetcher, digest)]
    return Found(
        tuple(one for one in read if isinstance(one, Claim)), tuple(one for one in read if isinstance(one, Unread))
    )


def bundle_descriptors(fetcher: Fetcher, digest: str) -> tuple[Descriptor, ...]:
    """Where the registry says that bundles about the manifest `digest` are: of at most `BUNDLES_LIMIT`."""
    index = fetcher.referrers(digest)
    entries = () if index is None else parse_index(index)
    wanted = [entry.descriptor for entry in entries if entry.descriptor.artifact_type == BUNDLE_TYPE]
    return tuple(wanted[:BUNDLES_LIMIT])


def fetch_bundle(fetcher: Fetcher, descriptor: Descriptor) -> bytes:
    """The bundle that one of `bundle_descriptors` leads to. Raises `MalformedError` (`bundle-unsupported`), and what
    fetching raises."""
    layers = parse_manifest(fetcher.manifest(descriptor.digest)[0]).layers
    if len(layers) != 1 or layers[0].media_type != BUNDLE_TYPE:
        raise MalformedError("bundle-unsupported", "the artifact does not hold one bundle", expected=BUNDLE_TYPE)
    return fetcher.blob(layers[0].digest, layers[0].size, BUNDLE_LIMIT)


def _classic(fetcher: Fetcher, digest: str) -> Iterator[Claim | Unread]:
    found = fetcher.tagged(signature_tag(digest))
    if found is None:
        return
    try:
        layers = parse_manifest(found[0]).layers
    except MalformedError as error:
        yield Unread("classic", signature_tag(digest), error.code, error.message)
        return
    for layer in [layer for layer in layers if layer.media_type == PAYLOAD_TYPE][:SIGNATURES_LIMIT]:
        try:
            yield parse_classic(fetcher.blob(layer.digest, layer.size, PAYLOAD_LIMIT), layer.annotations)
        except (MalformedError, UntrustedError) as error:
            yield Unread("classic", layer.digest, error.code, error.message)


def _bundles(fetcher: Fetcher, digest: str) -> Iterator[Claim | Unread]:
    for descriptor in bundle_descriptors(fetcher, digest):
        if descriptor.annotations.get(PREDICATE_ANNOTATION, SIGN_PREDICATE) != SIGN_PREDICATE:
            continue
        try:
            yield parse_bundle(fetch_bundle(fetcher, descriptor))
        except (MalformedError, UntrustedError) as error:
            yield Unread("bundle", descriptor.digest, error.code, error.message)


def _extend_index(registry: Registry, repository: str, subject: str, added: Descriptor) -> None:
    found = registry.manifest(repository, fallback_tag(subject))
    entries = () if found is None else parse_index(found[0])
    members = [entry.descriptor.as_dict() for entry in entries if entry.descriptor.digest != added.digest]
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [*members, added.as_dict()]}
    text = json.dumps(index, separators=(",", ":")).encode()
    registry.put_manifest(repository, fallback_tag(subject), text, INDEX_TYPE)
