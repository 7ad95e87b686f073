"""OCI manifests, indexes and image configurations: bytes to values, bounded. No cryptography, no I/O.

Formats: OCI image-spec 1.1, manifest.md, image-index.md, config.md, descriptor.md. That specification obliges readers
to ignore members that they do not know, so unlike Kokon's own formats unknown members pass here; they are covered by
the digest that the launch document pins. Docker's schema 2 types are read as what they are equal to.

What other readers might understand differently is refused: a document that could be manifest and index, and names that
differ from one that is known by upper and lower case only, which Go's encoding/json does not tell apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kokon.errors import MalformedError
from kokon.wire import Fields, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX_TYPE = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
ACCEPTED = (MANIFEST_TYPE, INDEX_TYPE, DOCKER_MANIFEST_TYPE, DOCKER_INDEX_TYPE)

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
ENCRYPTED_SUFFIX = "+encrypted"

MANIFEST_LIMIT = 4 << 20
CONFIG_LIMIT = 4 << 20
LAYERS_LIMIT = 256
BLOB_LIMIT = 1 << 40
ANNOTATION_LIMIT = 1 << 16
_DIGEST_HEX = frozenset("0123456789abcdef")


def _names(text: str) -> dict[str, str]:
    return {name.casefold(): name for name in text.split()}


_DESCRIPTOR = _names("mediaType digest size annotations artifactType platform urls data")
_DOCUMENT = _names("schemaVersion mediaType config layers manifests artifactType subject annotations")
_PLATFORM = _names("architecture os")
_CONFIG = _names("architecture os rootfs config")
_ROOTFS = _names("type diff_ids")
_RUN = _names("Entrypoint Cmd Env WorkingDir User ExposedPorts Volumes StopSignal")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What points to a blob: media type, digest (`sha256:<64 hex>`), size in bytes, annotations (descriptor.md)."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The descriptor as JSON values, empty members left out."""
        members: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.artifact_type:
            members["artifactType"] = self.artifact_type
        if self.annotations:
            members["annotations"] = dict(self.annotations)
        return members


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image manifest (manifest.md); `subject` is the digest of the manifest that it refers to, if any."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    artifact_type: str | None = None
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One member of an image index: the descriptor, and its platform (both empty: not said)."""

    descriptor: Descriptor
    architecture: str = ""
    operating_system: str = ""


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says about how to run it (config.md), and the digests of its uncompressed layers."""

    architecture: str
    operating_system: str
    diff_ids: tuple[str, ...]
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    working_directory: str = "/"
    user: str = ""
    ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""


def check_digest(text: str, *, what: str) -> str:
    """`text` itself if it is `sha256:` and 64 lower-case hex digits, else `MalformedError` (`digest-malformed`)."""
    algorithm, _, digits = text.partition(":")
    if algorithm != "sha256" or len(digits) != 64 or not _DIGEST_HEX.issuperset(digits):
        raise MalformedError(
            "digest-malformed", f"{what} is not a SHA-256 digest", expected="sha256:<64 hex>", found=repr(text[:90])
        )
    return text


def parse_manifest(data: bytes) -> Manifest:
    """An OCI or Docker schema 2 image manifest.

    Raises `MalformedError` (`manifest-malformed` for a wrong kind of document, the codes of `kokon.wire` for the rest).
    """
    fields = Fields(_known(parse_json(data, limit=MANIFEST_LIMIT, what="manifest"), _DOCUMENT), "manifest")
    _check_kind(fields, (MANIFEST_TYPE, DOCKER_MANIFEST_TYPE), ("manifests",))
    subject = fields.value("subject", default=None)
    return Manifest(
        config=_descriptor(fields.value("config"), "config descriptor"),
        layers=tuple(_descriptor(member, "layer descriptor") for member in fields.array("layers", limit=LAYERS_LIMIT)),
        artifact_type=fields.optional_text("artifactType", limit=255),
        subject=None if subject is None else _descriptor(subject, "subject").digest,
    )


def parse_index(data: bytes) -> tuple[IndexEntry, ...]:
    """The members of an OCI image index or Docker manifest list. Raises as `parse_manifest` does."""
    fields = Fields(_known(parse_json(data, limit=MANIFEST_LIMIT, what="index"), _DOCUMENT), "index")
    _check_kind(fields, (INDEX_TYPE, DOCKER_INDEX_TYPE), ("config", "layers"))
    return tuple(_index_entry(member) for member in fields.array("manifests", limit=1024))


def is_index(data: bytes, media_type: str) -> bool:
    """Whether `data`, served as `media_type`, is an index rather than a manifest."""
    if media_type in (INDEX_TYPE, DOCKER_INDEX_TYPE):
        return True
    document = parse_json(data, limit=MANIFEST_LIMIT, what="manifest")
    return isinstance(document, dict) and "manifests" in document


def parse_config(data: bytes) -> ImageConfig:
    """An image configuration. Raises `MalformedError` (`config-malformed`, the codes of `kokon.wire`)."""
    code = "config-malformed"
    document = _known(parse_json(data, limit=CONFIG_LIMIT, what="image configuration"), _CONFIG, code)
    fields = Fields(document, "image configuration")
    rootfs = Fields(_known(fields.table("rootfs"), _ROOTFS, code), "rootfs")
    run = Fields(_known(fields.table("config", default={}), _RUN, code), "config")
    return ImageConfig(
        architecture=fields.text("architecture", limit=64),
        operating_system=fields.text("os", limit=64),
        diff_ids=tuple(check_digest(text, what="diff_id") for text in _texts(rootfs, "diff_ids", limit=LAYERS_LIMIT)),
        entrypoint=_texts(run, "Entrypoint"),
        command=_texts(run, "Cmd"),
        environment=tuple(_variable(text) for text in _texts(run, "Env", limit=4096)),
        working_directory=run.text("WorkingDir", default="") or "/",
        user=run.text("User", default="", limit=256),
        ports=tuple(sorted(run.table("ExposedPorts", default={}))),
        volumes=tuple(sorted(run.table("Volumes", default={}))),
        stop_signal=run.text("StopSignal", default="", limit=32),
    )


def _known(value: Any, names: Mapping[str, str], code: str = "manifest-malformed") -> Any:
    """`value` without its null members: Docker writes null where OCI leaves a member out. `names` are those that are
    read here, by their case-folded forms."""
    if not isinstance(value, dict):
        return value
    for name in value:
        known = names.get(name.casefold(), name)
        if known != name:
            raise MalformedError(code, "a member's name differs by case only", expected=known, found=ascii(name)[:99])
    return {name: member for name, member in value.items() if member is not None}


def _check_kind(fields: Fields, types: tuple[str, ...], foreign: tuple[str, ...]) -> None:
    """The document is of one of `types`, and has none of the `foreign` members of other kinds."""
    for name in foreign:
        if fields.value(name, default=None) is not None:
            raise MalformedError(
                "manifest-malformed", "the document could be a manifest and an index", expected=f"no {name!r}"
            )
    version = fields.integer("schemaVersion", high=10)
    media_type = fields.text("mediaType", default=types[0], limit=255)
    if version != 2 or media_type not in types:
        raise MalformedError(
            "manifest-malformed",
            "the document is not of the kind that is needed here",
            expected=f"schemaVersion 2, {types[0]}",
            found=f"schemaVersion {version}, {media_type}",
        )


def _descriptor(value: Any, what: str) -> Descriptor:
    fields = Fields(_known(value, _DESCRIPTOR), what)
    annotations = fields.table("annotations", default={})
    for name, text in annotations.items():
        if not isinstance(text, str) or len(text) > ANNOTATION_LIMIT or len(annotations) > 64 or len(name) > 255:
            raise MalformedError("manifest-malformed", f"{what} has an annotation that is no text or too large")
    return Descriptor(
        media_type=fields.text("mediaType", limit=255),
        digest=check_digest(fields.text("digest", limit=255), what=f"digest of the {what}"),
        size=fields.integer("size", high=BLOB_LIMIT),
        annotations=annotations,
        artifact_type=fields.optional_text("artifactType", limit=255),
    )


def _index_entry(value: Any) -> IndexEntry:
    descriptor = _descriptor(value, "index entry")
    platform = Fields(_known(value.get("platform") or {}, _PLATFORM), "platform")
    return IndexEntry(
        descriptor, platform.text("architecture", default="", limit=64), platform.text("os", default="", limit=64)
    )


def _texts(fields: Fields, name: str, limit: int = 1024) -> tuple[str, ...]:
    members = fields.array(name, default=[], limit=limit)
    for member in members:
        if not isinstance(member, str) or "\0" in member or len(member) > 1 << 17:
            raise MalformedError("config-malformed", f"{name!r} of the image configuration must hold texts")
    return tuple(members)


def _variable(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise MalformedError("config-malformed", "an environment variable of the image lacks its name or '='")
    return name, value
