"""Manifests, descriptors and indexes as they are written. Pure.

Formats: OCI image-spec 1.1; distribution-spec 1.1 for the fallback tag of referrers.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from kokon.image.manifest import INDEX_TYPE, MANIFEST_LIMIT, MANIFEST_TYPE, Descriptor, parse_index
from kokon.wire import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kokon.image.remote.platform import Platform

EMPTY = b"{}"


def descriptor_of(media_type: str, data: bytes, annotations: Mapping[str, str] | None = None) -> Descriptor:
    """The descriptor of `data`."""
    return Descriptor(media_type, hexdigest(data), len(data), annotations or {})


def hexdigest(data: bytes) -> str:
    """`sha256:<hex>` of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def manifest_bytes(
    config: Descriptor,
    layers: Iterable[Descriptor],
    *,
    artifact_type: str | None = None,
    subject: Descriptor | None = None,
    annotations: Mapping[str, str] | None = None,
) -> bytes:
    """An OCI image manifest as JSON bytes."""
    members: dict[str, object] = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE}
    if artifact_type:
        members["artifactType"] = artifact_type
    members["config"] = config.as_dict()
    members["layers"] = [layer.as_dict() for layer in layers]
    if subject:
        members["subject"] = subject.as_dict()
    if annotations:
        members["annotations"] = dict(annotations)
    return json.dumps(members, separators=(",", ":")).encode()


def index_bytes(members: Iterable[tuple[Descriptor, Platform]]) -> bytes:
    """An OCI image index of images for several platforms."""
    manifests = [{**descriptor.as_dict(), "platform": platform.as_dict()} for descriptor, platform in members]
    return json.dumps(
        {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}, separators=(",", ":")
    ).encode()


def extended_index(index: bytes | None, added: Descriptor) -> bytes | None:
    """An index of referrers with `added` in it, or None if it is there already. Other members stay untouched."""
    members: list[object] = []
    if index is not None:
        if added.digest in {entry.descriptor.digest for entry in parse_index(index)}:
            return None
        members = parse_json(index, limit=MANIFEST_LIMIT, what="index")["manifests"]
    document = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [*members, added.as_dict()]}
    return json.dumps(document, separators=(",", ":")).encode()


def fallback_tag(digest: str) -> str:
    """The tag under which old registries keep the referrers of a manifest."""
    return digest.replace(":", "-", 1)
