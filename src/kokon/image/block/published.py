"""Check a block image that is at a registry, with its key."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from kokon.errors import UsageError
from kokon.image.block.format import parse_block
from kokon.image.block.make import verify_block
from kokon.image.fetch import disk_error, hexdigest
from kokon.image.manifest import parse_manifest

if TYPE_CHECKING:
    from kokon.image.block.format import BlockInfo
    from kokon.image.reference import Reference
    from kokon.image.registry import Registry


def verify_published(registry: Registry, reference: Reference, key: bytes) -> tuple[str, BlockInfo]:
    """The digest of the manifest at `reference` and what it says, if the whole image is that under `key`.

    Raises `UsageError` (`source-not-found`), `MalformedError` (`block-malformed`), `UntrustedError` (`block-mismatch`,
    `blob-digest-mismatch`), and what the registry client raises.
    """
    found = registry.manifest(reference.repository, reference.pointer)
    if found is None:
        raise UsageError("source-not-found", f"the registry does not have {reference}", hint="check name and tag")
    layer, info = parse_block(parse_manifest(found[0]))
    try:
        with tempfile.TemporaryFile() as file:
            for piece in registry.blob(reference.repository, layer.digest, layer.size):
                file.write(piece)
            file.seek(0)
            verify_block(file, info, key)
    except OSError as error:
        raise disk_error(error, "checking a block image") from error
    return hexdigest(found[0]), info
