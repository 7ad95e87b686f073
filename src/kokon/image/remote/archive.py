"""Archives written: an OCI layout in a tar, and what `docker load` reads. Reproducible: same image, same bytes.

Formats: OCI image-layout 1.1; `docker save` v1.2 (moby, image/spec/v1.2.md): manifest.json, a configuration, layers
as plain tars. Files appear whole: written beside their place and renamed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kokon.errors import HostError, MalformedError, UsageError
from kokon.image.layer import checked_chunks, gunzip_chunks, layer_is_gzip
from kokon.image.manifest import CONFIG_LIMIT, ENCRYPTED_SUFFIX, is_index, parse_config, parse_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from kokon.image.manifest import Descriptor
    from kokon.image.remote.layout import Layout


def write_oci_archive(root: Path, file: Path) -> None:
    """Put the layout at `root` into the tar `file`. Raises `HostError` (`image-not-written`)."""
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    with _written(file) as archive:
        for name in names:
            with (root / name).open("rb") as data:
                _add(archive, name, (root / name).stat().st_size, data)


def write_docker_archive(layout: Layout, tag: str, name: str, file: Path) -> None:
    """Write the image `tag` of `layout` for `docker load`, which will call it `name` (empty: nothing).

    Raises `UsageError` (`destination-unfit`) for what such an archive cannot hold, `UntrustedError`
    (`layer-diff-id-mismatch`), `MalformedError` (`image-malformed`), `HostError` (`image-not-written`).
    """
    found = layout.manifest("", tag)
    if found is None or is_index(*found):
        raise _unfit("an index of several platforms" if found else "no image", "choose one: --platform")
    manifest = parse_manifest(found[0])
    config = layout.blob_bytes("", manifest.config, CONFIG_LIMIT)
    names: list[str] = []
    diff_ids = parse_config(config).diff_ids
    if len(diff_ids) != len(manifest.layers):
        raise MalformedError("image-malformed", "manifest and configuration name different numbers of layers")
    with _written(file) as archive:
        for layer, diff_id in zip(manifest.layers, diff_ids, strict=True):
            layer_name = diff_id.removeprefix("sha256:") + ".tar"
            if layer_name not in names:
                with _plain(layout, layer, diff_id) as (size, data):
                    _add(archive, layer_name, size, data)
            names.append(layer_name)
        config_name = hashlib.sha256(config).hexdigest() + ".json"
        _add(archive, config_name, len(config), io.BytesIO(config))
        image = {"Config": config_name, "RepoTags": [name] if name else None, "Layers": names}
        listing = json.dumps([image], separators=(",", ":")).encode()
        _add(archive, "manifest.json", len(listing), io.BytesIO(listing))


@contextmanager
def _plain(layout: Layout, layer: Descriptor, diff_id: str) -> Iterator[tuple[int, BinaryIO]]:
    """The layer without compression and its size: a tar wants to know that first."""
    if layer.media_type.endswith(ENCRYPTED_SUFFIX):
        raise _unfit("an encrypted layer", "keep sealed images in registries, layouts and OCI archives")
    chunks = layout.blob("", layer.digest, layer.size)
    with tempfile.TemporaryFile() as file:
        for chunk in checked_chunks(gunzip_chunks(chunks) if layer_is_gzip(layer.media_type) else chunks, diff_id):
            file.write(chunk)
        size = file.tell()
        file.seek(0)
        yield size, file


@contextmanager
def _written(file: Path) -> Iterator[tarfile.TarFile]:
    """A tar that becomes `file` if all goes well, and is gone otherwise."""
    partial: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=".partial-")
        partial = Path(name)
        with (
            os.fdopen(descriptor, "wb") as raw,
            tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            yield archive
        partial.chmod(0o644)
        partial.replace(file)
    except OSError as error:
        raise HostError("image-not-written", f"cannot write {file}", found=error.strerror) from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def _add(archive: tarfile.TarFile, name: str, size: int, data: BinaryIO) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    archive.addfile(info, data)


def _unfit(found: str, hint: str) -> UsageError:
    return UsageError("destination-unfit", "the destination cannot hold this", found=found, hint=hint)
