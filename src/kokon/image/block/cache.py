"""The host's half of a block image: its ciphertext in a cache, fetched once for any number of containers.

The host trusts nothing here and need not be trusted: the guest's kernel checks every block that it reads. The digest is
checked so that a bad transfer is noticed where it can be repeated.
"""

from __future__ import annotations

import fcntl
from typing import TYPE_CHECKING

from kokon.errors import KokonError
from kokon.image.block.format import is_block_image, parse_block
from kokon.image.fetch import Fetcher, disk_error
from kokon.image.manifest import parse_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from kokon.image.fetch import Progress
    from kokon.image.manifest import Descriptor, Manifest
    from kokon.launch.document import ImageRef

LOOK_TIMEOUT = 10.0
"""Seconds for the look at the manifest: a registry that is slower keeps nobody from launching."""


def cached_block(image: ImageRef, cache: Path, progress: Progress | None = None) -> Path | None:
    """The file with the ciphertext of a block image in the directory `cache`; None if it is another kind of image, or
    if the registry does not say: the guest then says what is wrong.

    Raises `UntrustedError` (`layer-digest-mismatch`), `MalformedError` (`block-malformed`), `HostError` (`disk-full`,
    `disk-failed`) and what `kokon.image.fetch` raises while the image itself is fetched.
    """
    manifest = _look(image)
    if manifest is None or not is_block_image(manifest):
        return None
    layer, _ = parse_block(manifest)
    target = cache / layer.digest.removeprefix("sha256:")
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (cache / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_there(target, layer.size):
                _fetch(image, layer, target, progress)
    except OSError as error:
        raise disk_error(error, "caching a block image") from error
    return target


def _look(image: ImageRef) -> Manifest | None:
    try:
        with Fetcher(image.registry, image.repository, timeout=LOOK_TIMEOUT) as fetcher:
            return parse_manifest(fetcher.manifest(image.digest)[0])
    except KokonError:
        return None


def _is_there(target: Path, size: int) -> bool:
    return target.is_file() and target.stat().st_size == size


def _fetch(image: ImageRef, layer: Descriptor, target: Path, progress: Progress | None) -> None:
    partial = target.with_suffix(".partial")
    with Fetcher(image.registry, image.repository) as fetcher:
        fetcher.blob_to_file(layer.digest, layer.size, partial, progress)
    partial.chmod(0o400)
    partial.replace(target)
