"""Seal an image as a block image: make it, push it, sign it, state what it is. The author's one operation.

Like `kokon.image.seal`, with one layer that is a whole file system. What is signed covers the root digest: signature
and statement name the manifest, whose one layer carries it.
"""

from __future__ import annotations

import json
import os
import tempfile
from typing import TYPE_CHECKING, Any

from kokon.errors import UsageError
from kokon.image.block.format import ARTIFACT_TYPE, KEY_SIZE, LAYER_TYPE
from kokon.image.block.make import ciphertext, make_plain
from kokon.image.encrypt import wrapped_for
from kokon.image.manifest import Descriptor
from kokon.image.seal import Sealed, new_kek, publish
from kokon.wire import b64

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    from kokon.image.block.format import BlockInfo
    from kokon.image.reference import Reference
    from kokon.image.registry import Registry
    from kokon.image.seal import Claims
    from kokon.image.source import Source


def seal_block(
    source: Source,
    registry: Registry,
    destination: Reference,
    author_key: EllipticCurvePrivateKey,
    owner: Mapping[str, Any],
    claims: Claims,
    key: bytes | None = None,
) -> Sealed:
    """Seal `source` for the owner with the public JWK `owner` as a block image at `destination`.

    `key` (32 bytes) makes the image's bytes reproducible; None takes a fresh one. Raises `UsageError`
    (`destination-digest`), what `kokon.image.block.make` raises, and what the registry client raises.
    """
    if destination.digest:
        raise UsageError("destination-digest", "an image is pushed to a name and tag, not to a digest")
    key = os.urandom(KEY_SIZE) if key is None else key
    kek, sealed_kek = new_kek(author_key, owner)
    layer = push_block(source, registry, destination.repository, key, wrapped_key(key, kek, sealed_kek.kid, owner))
    return publish(source, registry, destination, author_key, (layer,), sealed_kek, claims, ARTIFACT_TYPE)


def push_block(
    source: Source, registry: Registry, repository: str, key: bytes, annotations: Mapping[str, str]
) -> Descriptor:
    """Make the block image of `source` under `key` and push it; its descriptor, with `annotations` beside its own."""
    with tempfile.TemporaryFile() as file:
        plain = make_plain(source, key, file)
        digest, size = registry.upload(repository, ciphertext(plain, key))
    return block_descriptor(digest, size, plain.info, annotations)


def block_descriptor(digest: str, size: int, info: BlockInfo, annotations: Mapping[str, str]) -> Descriptor:
    """The layer's descriptor."""
    return Descriptor(LAYER_TYPE, digest, size, {**info.annotations(), **annotations})


def wrapped_key(key: bytes, kek: bytes, kid: str, owner: Mapping[str, Any]) -> dict[str, str]:
    """The annotations that carry the image's key: for the owner (JWE), and under the key `kek` at `kid`.

    The content is ocicrypt's private options, so that its tools add and remove recipients.
    """
    options = json.dumps({"symkey": b64(key), "digest": "", "cipheroptions": {}}, separators=(",", ":")).encode()
    return wrapped_for(options, owner, kek, kid)
