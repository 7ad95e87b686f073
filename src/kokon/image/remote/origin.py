"""Where copies come from: any kind of source as a store of images. What has no digests of its own gets them here."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kokon.errors import UsageError
from kokon.image.manifest import CONFIG_TYPE, LAYER_GZIP_TYPE, LAYER_TYPE, Descriptor
from kokon.image.reference import parse_reference
from kokon.image.remote.copy import Place
from kokon.image.remote.destination import split_tag
from kokon.image.remote.documents import descriptor_of, manifest_bytes
from kokon.image.remote.layout import Layout
from kokon.image.remote.mirror import open_registry
from kokon.image.remote.storage import PODMAN, save
from kokon.image.remote.tarred import ArchivedLayout, open_archive
from kokon.image.source import open_source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kokon.image.source import Source

_IMPORTED = "imported"


@contextmanager
def open_origin(
    text: str, *, plain_http: bool = False, auth: tuple[str, str] | None = None
) -> Iterator[tuple[Place, str]]:
    """A store and what to ask it for (tag or digest), of any source that `open_source` knows. Raises as it does."""
    kind, _, rest = text.partition(":")
    with ExitStack() as stack:
        if kind == "docker":
            reference = parse_reference(text, plain_http=plain_http)
            registry = stack.enter_context(open_registry(reference, auth=auth))
            yield Place(registry, reference.repository), reference.pointer
        elif kind == "oci" and rest:
            path, tag = split_tag(rest)
            yield _place(Layout(path), tag)
        elif kind == "oci-archive" and rest:
            path, tag = split_tag(rest)
            yield _place(ArchivedLayout(stack.enter_context(open_archive(path)), path), tag)
        elif kind == PODMAN:
            file = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kokon-"))) / "image.tar"
            save(kind, rest, file)
            yield _place(ArchivedLayout(stack.enter_context(open_archive(file)), file), None)
        else:
            source = stack.enter_context(open_source(text))
            layout = Layout(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kokon-"))), create=True)
            import_source(source, layout, _IMPORTED)
            yield Place(layout, ""), _IMPORTED


def import_source(source: Source, layout: Layout, tag: str) -> str:
    """Put an image that has no manifest (a Docker archive's) into `layout`; answers the manifest's digest.

    Raises `UntrustedError` (`blob-digest-mismatch`), and what the layout raises.
    """
    layers = []
    for layer in source.layers:
        digest, size = layout.upload("", layer.read())
        layers.append(Descriptor(LAYER_GZIP_TYPE if layer.gzip else LAYER_TYPE, digest, size))
    layout.upload_bytes("", source.config_bytes)
    return layout.put_manifest("", tag, manifest_bytes(descriptor_of(CONFIG_TYPE, source.config_bytes), layers))


def _place(layout: Layout, tag: str | None) -> tuple[Place, str]:
    pointer = tag or layout.only()
    if pointer is None:
        raise UsageError(
            "source-not-found",
            f"{layout.url} holds several images, or none",
            hint="name one of its tags, as in oci:DIR:TAG",
        )
    return Place(layout, ""), pointer
