"""Images to be sealed, wherever they are: layouts, archives, registries, the storage of Podman and Docker.

`open_source("oci:DIR[:TAG]" | "oci-archive:FILE[:TAG]" | "docker-archive:FILE[:TAG]" | "docker://host/repository" |
"containers-storage:NAME" | "docker-daemon:NAME")` gives the configuration and the layers as streams. Formats: OCI
image-layout 1.1; `docker save` (manifest.json). Layers may be plain or gzip. Of an index one platform's image is taken,
linux/amd64 if nothing else is said; `open_platforms` gives all of them.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kokon.errors import MalformedError, UntrustedError, UsageError
from kokon.image.layer import checked_chunks, gunzip_chunks, layer_is_gzip
from kokon.image.manifest import (
    CONFIG_LIMIT,
    ENCRYPTED_SUFFIX,
    LAYERS_LIMIT,
    MANIFEST_LIMIT,
    ImageConfig,
    is_index,
    parse_config,
    parse_manifest,
)
from kokon.image.reference import parse_reference
from kokon.image.remote.destination import split_tag
from kokon.image.remote.documents import descriptor_of
from kokon.image.remote.platform import Choice, Platform, choices, select
from kokon.image.remote.storage import DOCKER, PODMAN, save
from kokon.image.remote.tarred import open_archive, unreadable
from kokon.wire import Fields, parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from kokon.image.manifest import Descriptor
    from kokon.image.remote.store import ImageStore

CHUNK = 1 << 20
_REF_NAME = "org.opencontainers.image.ref.name"
_WHICH = "name one of its images: oci:DIR:TAG, oci-archive:FILE:TAG or docker-archive:FILE:TAG"
_KINDS = (
    "oci:DIR, oci-archive:FILE, docker-archive:FILE, docker://HOST/REPOSITORY, containers-storage:NAME or "
    "docker-daemon:NAME"
)
DEPTH_LIMIT = 3
PLATFORMS_LIMIT = 64


@dataclass(frozen=True, slots=True)
class SourceLayer:
    """A layer to be read: whether it is gzip, its size in bytes as stored, and a function that streams it.

    Where the source names a digest, the stream ends with `UntrustedError` (`blob-digest-mismatch`) if it is wrong.
    """

    gzip: bool
    size: int
    read: Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Source:
    """An image: its configuration as bytes and parsed, and as many layers as the configuration has diff_ids."""

    config_bytes: bytes
    config: ImageConfig
    layers: tuple[SourceLayer, ...]


class _Store(Protocol):
    """A tree of files: a directory or a tar archive."""

    def open(self, name: str) -> BinaryIO: ...

    def size(self, name: str) -> int: ...


@dataclass(frozen=True, slots=True)
class _Images:
    """Documents of an OCI source by descriptor: a manifest or index with its media type, a small blob, a layer."""

    manifest: Callable[[Descriptor], tuple[bytes, str]]
    small: Callable[[Descriptor], bytes]
    read: Callable[[Descriptor], Iterator[bytes]]


def plain_layer(layer: SourceLayer, diff_id: str) -> Iterator[bytes]:
    """The layer's archive, uncompressed, checked against `diff_id` at its end."""
    chunks = layer.read()
    return checked_chunks(gunzip_chunks(chunks) if layer.gzip else chunks, diff_id)


@contextmanager
def open_source(
    text: str, *, plain_http: bool = False, auth: tuple[str, str] | None = None, platform: Platform | None = None
) -> Iterator[Source]:
    """Open an image for reading while the context lasts. `platform` chooses from an index.

    Raises `UsageError` (`source-unknown`, `image-unreadable`, `source-not-found`, `reference-malformed`),
    `MalformedError` (`image-malformed`, those of the parsers), `UntrustedError` (`blob-digest-mismatch`,
    `image-digest-mismatch`, `source-encrypted`), `HostError` (`storage-tool-missing`, `storage-tool-failed`), and what
    the registry client raises.
    """
    with _opened(text, plain_http, auth) as opened:
        if isinstance(opened, Source):
            yield opened
        else:
            images, top, tag = opened
            yield _image(images, _one(images, top, tag, platform))


@contextmanager
def open_platforms(
    text: str, *, plain_http: bool = False, auth: tuple[str, str] | None = None
) -> Iterator[tuple[tuple[Platform, Source], ...]]:
    """As `open_source`, with the images of all platforms that the source has; one image is a choice of one.

    The platform is what the image's own configuration says, with the index's variant.
    """
    with _opened(text, plain_http, auth) as opened:
        if isinstance(opened, Source):
            yield ((_platform_of(opened, ""), opened),)
        else:
            images, top, tag = opened
            found = tuple(_all(images, _named(top, tag), tag, 0))
            sources = [(choice.platform.variant, _image(images, data)) for choice, data in found]
            yield tuple((_platform_of(source, variant), source) for variant, source in sources)


def _platform_of(source: Source, variant: str) -> Platform:
    return Platform(source.config.operating_system, source.config.architecture, variant)


@contextmanager
def _opened(
    text: str, plain_http: bool, auth: tuple[str, str] | None
) -> Iterator[Source | tuple[_Images, tuple[Choice, ...], str | None]]:
    """A Docker archive's one image, or an OCI source with its outermost choices and the tag among them."""
    kind, separator, rest = text.partition(":")
    with ExitStack() as stack:
        if kind == "docker" and rest.startswith("//"):
            from kokon.image.remote.mirror import open_registry

            reference = parse_reference(text, plain_http=plain_http)
            registry = stack.enter_context(open_registry(reference, auth=auth))
            yield _from_registry(registry, reference.repository, reference.pointer)
        elif separator and rest and kind in ("oci", "oci-archive", "docker-archive"):
            path, tag = split_tag(rest)
            store = _Directory(path) if kind == "oci" else stack.enter_context(open_archive(path))
            yield _from_docker(store, tag) if kind == "docker-archive" else _from_oci(store, tag)
        elif separator and kind in (PODMAN, DOCKER):
            file = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kokon-"))) / "image.tar"
            save(kind, rest, file)
            store = stack.enter_context(open_archive(file))
            yield _from_oci(store, None) if kind == PODMAN else _from_docker(store, rest)
        else:
            raise UsageError("source-unknown", "not a kind of image source", expected=_KINDS, found=repr(text[:200]))


class _Directory:
    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self, name: str) -> BinaryIO:
        path = self._root / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would be waited for
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise UsageError("image-unreadable", f"cannot read {path}", expected="a file", hint="save it again")
            return open(descriptor, "rb")  # noqa: PTH123 -- the caller closes it
        except OSError as error:
            raise unreadable(path, error) from error

    def size(self, name: str) -> int:
        try:
            return (self._root / name).stat().st_size
        except OSError as error:
            raise unreadable(self._root / name, error) from error


def _from_oci(store: _Store, tag: str | None) -> tuple[_Images, tuple[Choice, ...], str | None]:
    images = _Images(
        manifest=lambda descriptor: (_blob(store, descriptor, MANIFEST_LIMIT), descriptor.media_type),
        small=lambda descriptor: _blob(store, descriptor, CONFIG_LIMIT),
        read=lambda descriptor: _checked(store, descriptor),
    )
    return images, choices(_small(store, "index.json", MANIFEST_LIMIT)), tag


def _from_registry(
    registry: ImageStore, repository: str, pointer: str
) -> tuple[_Images, tuple[Choice, ...], str | None]:
    def manifest(pointer: str) -> tuple[bytes, str]:
        found = registry.manifest(repository, pointer)
        if found is None:
            raise UsageError(
                "source-not-found",
                f"the registry {registry.url} does not have {repository}",
                expected=pointer,
                hint="check the source's name and tag",
            )
        return found

    images = _Images(
        manifest=lambda descriptor: manifest(descriptor.digest),
        small=lambda descriptor: registry.blob_bytes(repository, descriptor, CONFIG_LIMIT),
        read=lambda descriptor: registry.blob(repository, descriptor.digest, descriptor.size),
    )
    data, media_type = manifest(pointer)
    top = descriptor_of(media_type, data)
    return images, (Choice(top, Platform("", "", "")),), None


def _one(images: _Images, offered: tuple[Choice, ...], tag: str | None, platform: Platform | None) -> bytes:
    """The manifest of the one image that is asked for."""
    offered = _named(offered, tag)
    for _ in range(DEPTH_LIMIT):
        found = select(offered, platform)
        if len(found) != 1:
            raise UsageError(
                "source-not-found",
                "the source does not name one image",
                expected=tag or platform or "one image, or one for linux/amd64",
                found=f"{len(found)} images",
                hint=_WHICH,
            )
        data, media_type = images.manifest(found[0].descriptor)
        if not is_index(data, media_type):
            return data
        offered, tag = choices(data), None
    raise MalformedError("image-malformed", "indexes are nested too deep")


def _named(offered: tuple[Choice, ...], tag: str | None) -> tuple[Choice, ...]:
    return tuple(c for c in offered if tag is None or c.descriptor.annotations.get(_REF_NAME) == tag)


def _all(images: _Images, offered: tuple[Choice, ...], tag: str | None, depth: int) -> Iterator[tuple[Choice, bytes]]:
    """The manifests of all images. They count together: at most `PLATFORMS_LIMIT`."""
    if depth >= DEPTH_LIMIT:
        raise MalformedError("image-malformed", "indexes are nested too deep")
    wanted = [choice for choice in offered if choice.is_image]
    if not wanted or len(wanted) > PLATFORMS_LIMIT:
        raise UsageError(
            "source-not-found",
            "the source holds no images, or too many",
            expected=tag or f"1..{PLATFORMS_LIMIT} images",
            found=f"{len(wanted)} images",
            hint=_WHICH,
        )
    count = 0
    for choice in wanted:
        data, media_type = images.manifest(choice.descriptor)
        below = _all(images, choices(data), None, depth + 1) if is_index(data, media_type) else [(choice, data)]
        for found in below:
            count += 1
            if count > PLATFORMS_LIMIT:
                raise MalformedError("image-malformed", "an index holds too many images", expected=PLATFORMS_LIMIT)
            yield found


def _image(images: _Images, data: bytes) -> Source:
    manifest = parse_manifest(data)
    return _source(images.small(manifest.config), manifest.layers, images.read)


def _from_docker(store: _Store, tag: str | None) -> Source:
    images = parse_json(_small(store, "manifest.json", MANIFEST_LIMIT), limit=MANIFEST_LIMIT, what="manifest.json")
    if not isinstance(images, list) or not images or len(images) > 256:
        raise MalformedError("image-malformed", "manifest.json must list images")
    for image in images:
        fields = Fields(image, "image of manifest.json")
        if (tag is None and len(images) == 1) or _is_named(fields.value("RepoTags", default=None), tag):
            break
    else:
        raise UsageError(
            "source-not-found", "the archive holds no such image", expected=tag or "a single image", hint=_WHICH
        )
    config_bytes = _small(store, fields.text("Config"), CONFIG_LIMIT)
    names = [str(name) for name in fields.array("Layers", limit=LAYERS_LIMIT)]
    layers = tuple(
        SourceLayer(_sniff_gzip(store, name), store.size(name), lambda name=name: _file_chunks(store, name))  # type: ignore[misc]
        for name in names
    )
    return _checked_source(config_bytes, layers)


def _is_named(tags: object, tag: str | None) -> bool:
    """Whether `tag` is among RepoTags, which may put a registry's name in front of it."""
    named = tags if isinstance(tags, list) else []
    return tag is not None and any(f"/{name}".endswith(f"/{tag}") for name in named)


def _source(
    config_bytes: bytes, descriptors: tuple[Descriptor, ...], read: Callable[[Descriptor], Iterator[bytes]]
) -> Source:
    for descriptor in descriptors:
        if descriptor.media_type.endswith(ENCRYPTED_SUFFIX):
            raise UntrustedError("source-encrypted", "the image is encrypted already", found=descriptor.media_type)
    return _checked_source(
        config_bytes,
        tuple(
            SourceLayer(layer_is_gzip(layer.media_type), layer.size, lambda layer=layer: read(layer))  # type: ignore[misc]
            for layer in descriptors
        ),
    )


def _checked_source(config_bytes: bytes, layers: tuple[SourceLayer, ...]) -> Source:
    config = parse_config(config_bytes)
    if len(config.diff_ids) != len(layers):
        raise MalformedError(
            "image-malformed",
            "manifest and configuration name different numbers of layers",
            expected=len(layers),
            found=len(config.diff_ids),
        )
    return Source(config_bytes, config, layers)


def _blob(store: _Store, descriptor: Descriptor, limit: int) -> bytes:
    if descriptor.size > limit:
        raise MalformedError("image-malformed", "a document of the image is too large", found=descriptor.size)
    return b"".join(_checked(store, descriptor))


def _checked(store: _Store, descriptor: Descriptor) -> Iterator[bytes]:
    running, total = hashlib.sha256(), 0
    for chunk in _file_chunks(store, f"blobs/sha256/{descriptor.digest.removeprefix('sha256:')}"):
        running.update(chunk)
        total += len(chunk)
        if total > descriptor.size:
            break
        yield chunk
    found = "sha256:" + running.hexdigest()
    if (found, total) != (descriptor.digest, descriptor.size):
        raise UntrustedError(
            "blob-digest-mismatch", "a blob of the image is damaged", expected=descriptor.digest, found=found
        )


def _file_chunks(store: _Store, name: str) -> Iterator[bytes]:
    with store.open(name) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _small(store: _Store, name: str, limit: int) -> bytes:
    with store.open(name) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise MalformedError("image-malformed", f"{name} is too large", expected=f"<= {limit} bytes")
    return data


def _sniff_gzip(store: _Store, name: str) -> bool:
    with store.open(name) as file:
        return file.read(2) == b"\x1f\x8b"
