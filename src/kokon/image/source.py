"""Images to be sealed, wherever they are: OCI layout directories and archives, Docker archives, registries.

`open_source("oci:DIR[:TAG]" | "oci-archive:FILE[:TAG]" | "docker-archive:FILE[:TAG]" | "docker://host/repository")`
gives the configuration and the layers as streams. Formats: OCI image-layout 1.1; `docker save` (manifest.json).
Layers may be plain or gzip. Of an index the linux/amd64 image is taken.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from kokon.errors import MalformedError, UntrustedError, UsageError
from kokon.image.layer import layer_is_gzip
from kokon.image.manifest import (
    CONFIG_LIMIT,
    ENCRYPTED_SUFFIX,
    LAYERS_LIMIT,
    MANIFEST_LIMIT,
    ImageConfig,
    is_index,
    parse_config,
    parse_index,
    parse_manifest,
)
from kokon.image.reference import parse_reference
from kokon.wire import Fields, parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from kokon.image.manifest import Descriptor, IndexEntry
    from kokon.image.registry import Registry

CHUNK = 1 << 20
_REF_NAME = "org.opencontainers.image.ref.name"
_WHICH = "name one of its images: oci:DIR:TAG, oci-archive:FILE:TAG or docker-archive:FILE:TAG"
_KINDS = "oci:DIR, oci-archive:FILE, docker-archive:FILE or docker://HOST/REPOSITORY"


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


@contextmanager
def open_source(text: str, *, plain_http: bool = False, auth: tuple[str, str] | None = None) -> Iterator[Source]:
    """Open an image for reading while the context lasts.

    Raises `UsageError` (`source-unknown`, `image-unreadable`, `source-not-found`), `MalformedError`
    (`image-malformed`, those of the parsers), `UntrustedError` (`blob-digest-mismatch`, `source-encrypted`), and what
    the registry client raises.
    """
    kind, separator, rest = text.partition(":")
    with ExitStack() as stack:
        if kind == "docker" and rest.startswith("//"):
            from kokon.image.registry import Registry

            reference = parse_reference(text, plain_http=plain_http)
            registry = stack.enter_context(Registry(reference.registry, auth=auth))
            yield _from_registry(registry, reference.repository, reference.pointer)
        elif separator and rest and kind in ("oci", "oci-archive", "docker-archive"):
            path, tag = _split_tag(rest)
            store = _Directory(path) if kind == "oci" else stack.enter_context(_archive(path))
            yield _from_docker(store, tag) if kind == "docker-archive" else _from_oci(store, tag)
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
            raise _unreadable(path, error) from error

    def size(self, name: str) -> int:
        try:
            return (self._root / name).stat().st_size
        except OSError as error:
            raise _unreadable(self._root / name, error) from error


class _Archive:
    def __init__(self, archive: tarfile.TarFile, path: Path) -> None:
        self._path = path
        self._archive = archive
        self._members = {str(PurePosixPath(member.name)): member for member in archive.getmembers()}

    def _target(self, name: str) -> tarfile.TarInfo:
        """The member, through the links that older `docker save` uses for repeated layers."""
        member = self._members.get(name)
        for _ in range(8):
            if member is None or not (member.issym() or member.islnk()):
                break
            link = member.linkname if member.islnk() else f"{PurePosixPath(member.name).parent}/{member.linkname}"
            member = self._members.get(_normal(link))
        if member is None or not member.isfile():
            raise UsageError("image-unreadable", f"{self._path} lacks {name}", hint="save the image again")
        return member

    def open(self, name: str) -> BinaryIO:
        file = self._archive.extractfile(self._target(name))
        if file is None:
            raise UsageError("image-unreadable", f"{self._path} lacks {name}", hint="save the image again")
        return file  # type: ignore[return-value]  # typeshed: IO[bytes]

    def size(self, name: str) -> int:
        return self._target(name).size


@contextmanager
def _archive(path: Path) -> Iterator[_Archive]:
    try:
        archive = tarfile.open(path, "r:*")  # noqa: SIM115 -- closed below
    except (OSError, tarfile.TarError, EOFError) as error:
        raise _unreadable(path, error) from error
    with archive:
        try:
            yield _Archive(archive, path)
        except (tarfile.TarError, EOFError) as error:
            raise _unreadable(path, error) from error


def _normal(name: str) -> str:
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _from_oci(store: _Store, tag: str | None) -> Source:
    entry = _choose(parse_index(_small(store, "index.json", MANIFEST_LIMIT)), tag)
    for _ in range(3):
        data = _blob(store, entry, MANIFEST_LIMIT)
        if not is_index(data, entry.media_type):
            manifest = parse_manifest(data)
            config = _blob(store, manifest.config, CONFIG_LIMIT)
            return _source(config, manifest.layers, lambda layer: _checked(store, layer))
        entry = _choose(parse_index(data), None)
    raise MalformedError("image-malformed", "indexes are nested too deep")


def _from_registry(registry: Registry, repository: str, pointer: str) -> Source:
    for _ in range(3):
        found = registry.manifest(repository, pointer)
        if found is None:
            raise UsageError(
                "source-not-found",
                f"the registry {registry.url} does not have {repository}",
                expected=pointer,
                hint="check the source's name and tag",
            )
        if not is_index(*found):
            manifest = parse_manifest(found[0])
            config = registry.blob_bytes(repository, manifest.config, CONFIG_LIMIT)
            return _source(config, manifest.layers, lambda layer: registry.blob(repository, layer.digest, layer.size))
        pointer = _choose(parse_index(found[0]), None).digest
    raise MalformedError("image-malformed", "indexes are nested too deep")


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


def _choose(entries: tuple[IndexEntry, ...], tag: str | None) -> Descriptor:
    """The entry named `tag`, else the only one, else the one for linux/amd64."""
    if tag is not None:
        entries = tuple(entry for entry in entries if entry.descriptor.annotations.get(_REF_NAME) == tag)
    if len(entries) > 1:
        entries = tuple(e for e in entries if (e.operating_system, e.architecture) == ("linux", "amd64"))
    if len(entries) != 1:
        raise UsageError(
            "source-not-found",
            "the source does not name one image",
            expected=tag or "one image, or one for linux/amd64",
            found=f"{len(entries)} images",
            hint=_WHICH,
        )
    return entries[0].descriptor


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


def _split_tag(text: str) -> tuple[Path, str | None]:
    """Path and tag: a colon starts a tag unless the whole is a path that exists."""
    if Path(text).exists() or ":" not in text:
        return Path(text), None
    path, _, tag = text.partition(":")
    return Path(path), tag or None


def _unreadable(path: Path, error: Exception) -> UsageError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UsageError(
        "image-unreadable", f"cannot read {path}", found=reason, hint="check the path and the kind of source"
    )
