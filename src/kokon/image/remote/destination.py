"""Where images go: registries, layouts, archives, and the storage of Podman and Docker.

`open_destination("docker://HOST/REPOSITORY[:TAG]" | "oci:DIR[:TAG]" | "oci-archive:FILE[:TAG]" |
"docker-archive:FILE[:NAME]" | "containers-storage:NAME" | "docker-daemon:NAME")` gives a store to write into. What is
no registry and no layout is made when all is there, so a failure leaves nothing.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kokon.errors import UsageError
from kokon.image.reference import parse_reference
from kokon.image.registry import Registry
from kokon.image.remote.archive import write_docker_archive, write_oci_archive
from kokon.image.remote.copy import Place
from kokon.image.remote.layout import Layout
from kokon.image.remote.storage import DOCKER, PODMAN, check_name, load

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = ("docker", "oci", "oci-archive", "docker-archive", PODMAN, DOCKER)


@dataclass(frozen=True, slots=True)
class Destination:
    """A place to write into and the tag to set last. `holds_attachments`: whether signatures can be kept there."""

    place: Place
    tag: str
    holds_attachments: bool = True


@contextmanager
def open_destination(
    text: str, *, plain_http: bool = False, auth: tuple[str, str] | None = None
) -> Iterator[Destination]:
    """Open a destination; it is complete when the context ends without an exception.

    Raises `UsageError` (`destination-unknown`, `destination-unfit`, `reference-malformed`), `HostError`
    (`image-not-written`, `storage-tool-missing`, `storage-tool-failed`), and what `Registry` and `Layout` raise.
    """
    kind, colon, rest = text.partition(":")
    if kind == "docker" and rest.startswith("//"):
        reference = parse_reference(text, plain_http=plain_http)
        with Registry(reference.registry, auth=auth) as registry:
            yield Destination(Place(registry, reference.repository), reference.tag or "latest")
    elif not colon or not rest or kind not in KINDS or kind == "docker":
        expected = ", ".join(f"{name}:..." for name in KINDS)
        raise UsageError("destination-unknown", "not a kind of destination", expected=expected, found=repr(text[:200]))
    elif kind == "oci":
        path, tag = split_tag(rest)
        yield Destination(Place(Layout(path, create=True), ""), tag or "latest")
    else:
        with _prepared(kind, rest) as prepared:
            yield prepared


@contextmanager
def _prepared(kind: str, rest: str) -> Iterator[Destination]:
    """A layout of its own that is turned into something else at the end."""
    archive = kind in ("oci-archive", "docker-archive")
    path, tag = split_tag(rest) if archive else (Path(), check_name(rest))
    if archive and not path.parent.is_dir():
        raise UsageError("destination-unfit", f"{path.parent} is no directory", hint="make it first")
    with tempfile.TemporaryDirectory(prefix=".kokon-", dir=path.parent if archive else None) as work:
        layout = Layout(Path(work) / "layout", create=True)
        name = tag or "latest"
        yield Destination(Place(layout, ""), name, holds_attachments=kind == "oci-archive")
        if kind == "docker-archive":
            write_docker_archive(layout, name, tag or "", path)
        elif kind == "oci-archive":
            write_oci_archive(Path(work) / "layout", path)
        else:
            file = Path(work) / "image.tar"
            # Both read a Docker archive; Podman would keep an OCI archive under its name too, Docker may not know it.
            write_docker_archive(layout, name, tag or "", file)
            load(kind, file)


def split_tag(text: str) -> tuple[Path, str | None]:
    """Path and tag: a colon starts a tag unless the whole is a path that exists."""
    if Path(text).exists() or ":" not in text:
        return Path(text), None
    path, _, tag = text.partition(":")
    return Path(path), tag or None
