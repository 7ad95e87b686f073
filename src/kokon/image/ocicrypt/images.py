"""Whole images: encrypt, decrypt, encrypt anew, change recipients. From one place to another, or within one.

Nothing of an image becomes visible before all of it is there: blobs first, manifests then, the tag last. All images of
an index are treated. What referred to the old image (signatures) is not carried over: its digest is another one.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kokon.errors import MalformedError, UntrustedError, UsageError
from kokon.image.layer import PUBLIC_ANNOTATION, layer_options
from kokon.image.manifest import (
    CONFIG_LIMIT,
    CONFIG_TYPE,
    DOCKER_CONFIG_TYPE,
    INDEX_TYPE,
    MANIFEST_LIMIT,
    MANIFEST_TYPE,
    Descriptor,
    is_index,
    parse_config,
    parse_manifest,
)
from kokon.image.ocicrypt.recipients import added, opened, removed, without_encryption, wrapped
from kokon.image.ocicrypt.stream import LayerCipher, ahead, decrypted, recompressed
from kokon.image.ocicrypt.types import layer_type
from kokon.image.remote.documents import hexdigest
from kokon.image.remote.platform import choices
from kokon.wire import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kokon.image.ocicrypt.recipients import Opener, Recipient
    from kokon.image.remote.copy import Place

    Progress = Callable[[int, int | None], None]

JOBS = 2
"""Layers at a time: the cipher is bound by the processor."""
_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done with each layer.

    `to`: encrypt for these. `opener`: open what is encrypted. `layers`: numbers of the layers to encrypt, from 0 at the
    bottom, negative from the top; empty: all. `compression`: "", gzip or zstd instead of what the layer has.
    `more`, `without`, `without_keys`: recipients to add, and to remove by number or key name; the ciphertext stays.
    """

    to: tuple[Recipient, ...] = ()
    opener: Opener | None = None
    layers: tuple[int, ...] = ()
    compression: str | None = None
    more: tuple[Recipient, ...] = ()
    without: tuple[int, ...] = ()
    without_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Changed:
    """The new image: digest of its manifest or index, and how many layers were changed and kept."""

    digest: str
    changed: int
    kept: int


@dataclass(slots=True)
class _Work:
    source: Place
    target: Place
    change: Change
    progress: Progress | None = None
    changed: int = 0
    kept: int = 0
    done: int = field(default=0)


def change_image(
    source: Place, pointer: str, target: Place, tag: str, change: Change, progress: Progress | None = None
) -> Changed:
    """The image behind `pointer` of `source`, changed, as `tag` of `target`. `progress(done, None)` counts bytes.

    Raises `UsageError` (`source-not-found`, `layer-number`, `layer-encrypted-already`, `layer-key-needed`, those of
    `removed`), `UntrustedError` (`layer-hmac-mismatch`, `layer-diff-id-mismatch`, `layer-key-missing`), and what the
    stores and parsers raise.
    """
    work = _Work(source, target, change, progress)
    data, media_type = _documents(work, pointer, _DEPTH)
    target.store.put_manifest(target.repository, tag, data, media_type)
    return Changed(hexdigest(data), work.changed, work.kept)


def load(place: Place, pointer: str) -> tuple[bytes, str]:
    """The document behind `pointer`. Raises `UsageError` (`source-not-found`)."""
    found = place.store.manifest(place.repository, pointer)
    if found is None:
        raise UsageError("source-not-found", f"{place.store.url} has no such image", expected=pointer)
    return found


def _documents(work: _Work, pointer: str, depth: int) -> tuple[bytes, str]:
    data, media_type = load(work.source, pointer)
    if not is_index(data, media_type):
        return _image(work, data), MANIFEST_TYPE
    if depth == 0:
        raise MalformedError("image-malformed", "indexes are nested too deep")
    members = parse_json(data, limit=MANIFEST_LIMIT, what="index")["manifests"]
    made = []
    for choice, member in zip(choices(data), members, strict=True):
        if choice.is_image:
            inner, kind = _documents(work, choice.descriptor.digest, depth - 1)
            work.target.store.put_manifest(work.target.repository, hexdigest(inner), inner, kind)
            made.append({**member, "mediaType": kind, "digest": hexdigest(inner), "size": len(inner)})
    return _dump({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": made}), INDEX_TYPE


def _image(work: _Work, data: bytes) -> bytes:
    manifest = parse_manifest(data)
    document: dict[str, Any] = parse_json(data, limit=MANIFEST_LIMIT, what="manifest")
    config = work.source.store.blob_bytes(work.source.repository, manifest.config, CONFIG_LIMIT)
    diff_ids: tuple[str | None, ...] = (None,) * len(manifest.layers)
    if manifest.config.media_type in (CONFIG_TYPE, DOCKER_CONFIG_TYPE):
        diff_ids = parse_config(config).diff_ids
        document["config"] = {**document["config"], "mediaType": CONFIG_TYPE}
    if len(diff_ids) != len(manifest.layers):
        raise MalformedError("image-malformed", "manifest and configuration name different numbers of layers")
    work.target.store.upload_bytes(work.target.repository, config)
    chosen = _chosen(work.change.layers, len(manifest.layers))
    jobs = [(layer, diff_ids[n], n in chosen) for n, layer in enumerate(manifest.layers)]
    with ThreadPoolExecutor(JOBS) as pool:
        single = len(jobs) == 1
        made = list(pool.map(lambda job: _layer(work, *job, single=single), jobs))
    differ = [
        (old.digest, old.annotations) != (new.digest, new.annotations)
        for old, new in zip(manifest.layers, made, strict=True)
    ]
    work.changed += sum(differ)
    work.kept += len(differ) - sum(differ)
    document["layers"] = [
        {**old, "annotations": None, **new.as_dict()} for old, new in zip(document["layers"], made, strict=True)
    ]
    for layer in document["layers"]:
        if layer["annotations"] is None:
            del layer["annotations"]
    return _dump({**document, "mediaType": MANIFEST_TYPE})


def _chosen(numbers: Sequence[int], count: int) -> set[int]:
    if any(not -count <= number < count for number in numbers):
        raise UsageError("layer-number", "the image has no such layer", expected=f"{-count}..{count - 1}")
    return {number % count for number in numbers} if numbers else set(range(count))


def _layer(work: _Work, layer: Descriptor, diff_id: str | None, chosen: bool, *, single: bool) -> Descriptor:
    """What becomes of one layer."""
    change, kind = work.change, layer_type(layer.media_type)
    if change.more or change.without or change.without_keys:
        made = _recipients(change, layer) if kind.encrypted and chosen else layer
    elif chosen and (change.to or kind.encrypted):
        _possible(change, layer, encrypted=kind.encrypted)
        return _stored(work, layer, diff_id, single=single)
    else:
        made = layer
    _kept(work, layer)
    return replace(made, media_type=str(kind))


def _possible(change: Change, layer: Descriptor, *, encrypted: bool) -> None:
    if encrypted and change.opener is None:
        raise UsageError(
            "layer-encrypted-already",
            "a layer is encrypted already",
            found=layer.digest,
            hint="give a key that opens it, and it is encrypted anew; or choose other layers",
        )


def _recipients(change: Change, layer: Descriptor) -> Descriptor:
    annotations = dict(layer.annotations)
    if change.without or change.without_keys:
        annotations = removed(annotations, change.without, change.without_keys)
    if change.more:
        if change.opener is None:
            raise UsageError("layer-key-needed", "to add a recipient takes a key that opens the layer")
        annotations = added(annotations, opened(layer.annotations, change.opener)[1], change.more)
    return replace(layer, annotations=annotations)


def _kept(work: _Work, layer: Descriptor) -> None:
    """The blob as it is, sent only if it is not there."""
    source, target = work.source, work.target
    if target.store.has_blob(target.repository, layer.digest):
        return
    if source.store.url == target.store.url and target.store.mount(target.repository, layer.digest, source.repository):
        return
    target.store.upload(target.repository, _counted(work, _read(work, layer)))


def _stored(work: _Work, layer: Descriptor, diff_id: str | None, *, single: bool) -> Descriptor:
    """The layer decrypted, recompressed and encrypted as it is asked for, in one pass."""
    change, kind = work.change, layer_type(layer.media_type)
    chunks = _counted(work, _read(work, layer))
    if kind.encrypted and change.opener is not None:
        private, _ = opened(layer.annotations, change.opener)
        chunks = decrypted(chunks, layer_options(layer_oci(layer)), private)
    same = not kind.encrypted and change.compression in (None, kind.compression)
    if same and diff_id == layer.digest:
        diff_id = None  # the store checks that digest already
    bare = not change.to and "" == kind.compression == (change.compression or "")  # then storing it computes diff_id
    chunks = recompressed(chunks, kind.compression, change.compression, None if bare else diff_id)
    cipher = LayerCipher(layer.digest if same else None) if change.to else None
    if single:
        chunks = ahead(chunks)
    if cipher is not None:
        chunks = cipher.chunks(chunks)
    digest, size = work.target.store.upload(work.target.repository, chunks)
    if bare and diff_id not in (None, digest):
        raise UntrustedError(
            "layer-diff-id-mismatch",
            "a layer's content is not what the image configuration says",
            expected=diff_id,
            found=digest,
        )
    compression = kind.compression if change.compression is None else change.compression
    annotations = without_encryption(layer.annotations)
    if cipher is not None:
        annotations |= {PUBLIC_ANNOTATION: cipher.public(), **wrapped(cipher.private(), change.to)}
    made = replace(kind, compression=compression, encrypted=cipher is not None)
    return Descriptor(str(made), digest, size, annotations, layer.artifact_type)


def layer_oci(layer: Descriptor) -> Descriptor:
    """The layer with the plain OCI type that `layer_options` knows: compression does not matter to the cipher."""
    return replace(layer, media_type="application/vnd.oci.image.layer.v1.tar+encrypted")


def _read(work: _Work, layer: Descriptor) -> Iterator[bytes]:
    return work.source.store.blob(work.source.repository, layer.digest, layer.size)


def _counted(work: _Work, chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        work.done += len(chunk)
        if work.progress is not None:
            work.progress(work.done, None)


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def layers_of(place: Place, pointer: str) -> tuple[Descriptor, ...]:
    """The layers of an image, of an index those of all its images. Raises as `change_image`."""
    data, media_type = load(place, pointer)
    if not is_index(data, media_type):
        return parse_manifest(data).layers
    found: list[Descriptor] = []
    for choice in choices(data):
        if choice.is_image:
            found += parse_manifest(load(place, choice.descriptor.digest)[0]).layers
    return tuple(found)
