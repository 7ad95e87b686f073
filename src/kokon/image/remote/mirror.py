"""Mirrors: other registries that are asked first for what is read.

Setting: `$KOKON_REGISTRY_MIRRORS`, as `HOST=MIRROR[/PREFIX][,HOST=MIRROR...]`; several for one host are tried in order.
A mirror on this machine is spoken to without TLS, as every registry here. A mirror that fails or lacks an image is
passed over. A digest is checked whoever serves it; what a tag means, the mirror decides: pin digests if that matters.
Logins are those of the mirror's own name.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kokon.errors import DeniedError, UnreachableError, UsageError
from kokon.image.manifest import MANIFEST_TYPE
from kokon.image.reference import parse_reference
from kokon.image.registry import Registry
from kokon.image.remote.settings import Patience
from kokon.image.remote.store import ImageStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Self

    from kokon.image.reference import Reference

SETTING = "KOKON_REGISTRY_MIRRORS"
MIRRORS_LIMIT = 8
PATIENCE = Patience(attempts=2, connect=3)
"""With a mirror: the registry itself is there still."""


def parse_mirrors(text: str) -> Mapping[str, tuple[str, ...]]:
    """Mirrors by host, each as `HOST[/PREFIX]`. Raises `UsageError` (`mirror-malformed`)."""
    found: dict[str, tuple[str, ...]] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        host, equals, mirror = part.partition("=")
        try:
            parse_reference(f"{host}/x")
            parse_reference(f"{mirror}/x")
        except UsageError as error:
            raise UsageError("mirror-malformed", f"${SETTING} is malformed", found=repr(part[:200])) from error
        found[host] = (*found.get(host, ()), mirror)
        if not equals or "/" in host or len(found[host]) > MIRRORS_LIMIT:
            raise UsageError("mirror-malformed", f"${SETTING} is malformed", found=repr(part[:200]))
    return found


def open_registry(
    reference: Reference, *, auth: tuple[str, str] | None = None, mirrors: Mapping[str, tuple[str, ...]] | None = None
) -> Registry | Mirrored:
    """The registry of `reference` for reading, behind its mirrors if it has any; close it. `auth` is for itself."""
    known = parse_mirrors(os.environ.get(SETTING, "")) if mirrors is None else mirrors
    origin = Registry(reference.registry, auth=auth)
    named = known.get(reference.host, ())
    if not named:
        return origin
    found = [parse_reference(f"{mirror}/x", plain_http=reference.plain_http) for mirror in named]
    return Mirrored(origin, [(Registry(one.registry, patience=PATIENCE), one.repository[:-1]) for one in found])


class Mirrored(ImageStore):
    """A registry behind mirrors, each with the prefix of its repositories. What is written goes to itself."""

    def __init__(self, origin: Registry, mirrors: list[tuple[Registry, str]]) -> None:
        self.url = origin.url
        self._all = [*mirrors, (origin, "")]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all connections."""
        for registry, _ in self._all:
            registry.close()

    def manifest(self, repository: str, pointer: str) -> tuple[bytes, str] | None:
        """As `ImageStore.manifest`, from the first that has it."""
        for registry, prefix in self._all[:-1]:
            try:
                if found := registry.manifest(prefix + repository, pointer):
                    return found
            except (UnreachableError, DeniedError):
                continue
        return self._all[-1][0].manifest(repository, pointer)

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether the registry itself has this blob."""
        return self._all[-1][0].has_blob(repository, digest)

    def blob(self, repository: str, digest: str, size: int) -> Iterator[bytes]:
        """As `ImageStore.blob`, from the first that gives a beginning of it."""
        for registry, prefix in self._all[:-1]:
            chunks = registry.blob(prefix + repository, digest, size)
            try:
                first = next(chunks, b"")
            except (UnreachableError, DeniedError):
                continue
            yield first
            yield from chunks
            return
        yield from self._all[-1][0].blob(repository, digest, size)

    def put_manifest(self, repository: str, pointer: str, data: bytes, media_type: str = MANIFEST_TYPE) -> str:
        """As `ImageStore.put_manifest`, to the registry itself."""
        return self._all[-1][0].put_manifest(repository, pointer, data, media_type)

    def upload(self, repository: str, chunks: Iterable[bytes]) -> tuple[str, int]:
        """As `ImageStore.upload`, to the registry itself."""
        return self._all[-1][0].upload(repository, chunks)
