"""Prove that a sealed image has the content of a source image: for a certifier, who built the source himself.

Two proofs. With a key that opens the layers (that of a recipient, or the owner's key for this image), every layer is
decrypted and its content compared, entry by entry where it differs. Without a key, the signed configuration is
compared: it names the SHA-256 of each layer's content (diff_ids), and an enclave refuses layers whose content has
another one (`layer-diff-id-mismatch`). So nothing else than the source can run under that digest, although the
ciphertext may be anything. In both cases the sealed configuration must be the source's, cut down as sealing does.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kokon.errors import KokonError, MalformedError, UntrustedError, UsageError
from kokon.image.fetch import hexdigest
from kokon.image.keyprovider import KEK_SIZE, parse_packet, unwrap
from kokon.image.layer import (
    AGENT_ANNOTATION,
    JWE_ANNOTATION,
    gunzip_chunks,
    layer_is_gzip,
    layer_options,
    parse_private_options,
    recipients,
)
from kokon.image.manifest import CONFIG_LIMIT, parse_config, parse_manifest
from kokon.image.ocicrypt.stream import decrypted
from kokon.image.open import check_statement, fetch_statement
from kokon.image.seal import minimal_config
from kokon.image.signature import fetch_signature
from kokon.image.source import plain_layer
from kokon.image.tarstream import read_entries
from kokon.jose.jwe import decrypt
from kokon.wire import check_size, parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from kokon.image.fetch import Fetcher
    from kokon.image.layer import PrivateOptions
    from kokon.image.manifest import Descriptor
    from kokon.image.registry import Registry
    from kokon.image.source import Source
    from kokon.image.tarstream import Entry
    from kokon.jose.jwe import PrivateKey

    Opener = Callable[[Descriptor], PrivateOptions]
    """Gives the private options of a layer. Raises `UntrustedError` (`layer-key-missing`) if its key is not the one."""

PROMISED, DECRYPTED = "by-digest", "decrypted"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared and how: `method` is `decrypted` or `by-digest`; `layers` counts those that are the same from
    the bottom up; `difference` is the first difference, "" if there is none."""

    digest: str
    method: str
    layers: int
    difference: str = field(default="")

    @property
    def same(self) -> bool:
        """Whether the sealed image has the source's content."""
        return not self.difference

    def as_dict(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return {
            "digest": self.digest,
            "same": self.same,
            "method": self.method,
            "layers": self.layers,
            "difference": self.difference or None,
        }


def compare(
    source: Source, registry: Registry, repository: str, digest: str, opener: Opener | None = None
) -> Comparison:
    """Compare `source` with the sealed image whose manifest has `digest`. The caller checks whose image that is.

    Raises `UntrustedError` (`image-missing`, `layer-not-encrypted`, `layer-key-missing`, `layer-hmac-mismatch`), what
    reading both images raises, and the codes of the parsers. A difference is no error.
    """
    found = registry.manifest(repository, digest)
    if found is None:
        raise UntrustedError("image-missing", "the registry does not have the sealed image", expected=digest)
    manifest = parse_manifest(found[0])
    sealed = registry.blob_bytes(repository, manifest.config, CONFIG_LIMIT)
    method = DECRYPTED if opener else PROMISED
    config = parse_config(sealed)
    if len(manifest.layers) != len(config.diff_ids):
        raise MalformedError("image-malformed", "manifest and configuration name different numbers of layers")
    if (count := len(source.layers)) != len(manifest.layers):
        return Comparison(digest, method, 0, f"the source has {count} layers, the image {len(manifest.layers)}")
    for number, layer in enumerate(manifest.layers):
        layer_options(layer)
        if opener:
            difference = _opened_difference(source, number, _Sealed(registry, repository, layer, opener(layer)))
            if difference:
                return Comparison(digest, method, number, f"layer {number}: {difference}")
        if config.diff_ids[number] != source.config.diff_ids[number]:
            return Comparison(digest, method, number, f"layer {number}: the configuration names other content")
    return Comparison(digest, method, len(manifest.layers), _config_difference(source.config_bytes, sealed))


def signed_digest(fetcher: Fetcher, pointer: str, author: str, now: datetime) -> str:
    """The digest of the sealed image behind a tag or digest, with the author's signature and statement verified.

    Raises what `fetch_signature`, `fetch_statement` and `check_statement` raise, and `UntrustedError`
    (`image-missing`).
    """
    found = fetcher.manifest(pointer) if pointer.startswith("sha256:") else fetcher.tagged(pointer)
    if found is None:
        raise UntrustedError("image-missing", "the registry does not have the sealed image", expected=pointer)
    digest = hexdigest(found[0])
    fetch_signature(fetcher, digest, author)
    statement, _ = fetch_statement(fetcher, digest, author, now)
    check_statement(statement, parse_manifest(found[0]))
    return digest


def read_kek(path: Path) -> bytes:
    """The 32 bytes of an image's key. Raises `UsageError` (`key-unreadable`), `MalformedError` (`size-mismatch`)."""
    try:
        with path.open("rb") as file:
            data = file.read(KEK_SIZE + 1)
    except OSError as error:
        raise UsageError("key-unreadable", f"cannot read {path}", found=error.strerror) from error
    check_size(data, KEK_SIZE, "key of the image")
    return data


def recipient_opener(key: PrivateKey) -> Opener:
    """Opens layers with the private key of one of their recipients (the JWE of ocicrypt)."""

    def opened(layer: Descriptor) -> PrivateOptions:
        for message in recipients(layer.annotations, JWE_ANNOTATION):
            try:
                return parse_private_options(decrypt(message, key))
            except UntrustedError:
                continue
        raise _no_key(layer)

    return opened


def kek_opener(kek: bytes) -> Opener:
    """Opens layers with the 32-byte key that the owner's server releases for the image."""

    def opened(layer: Descriptor) -> PrivateOptions:
        for packet in recipients(layer.annotations, AGENT_ANNOTATION):
            try:
                return parse_private_options(unwrap(parse_packet(packet), kek))
            except UntrustedError:
                continue
        raise _no_key(layer)

    return opened


def _no_key(layer: Descriptor) -> KokonError:
    return UntrustedError(
        "layer-key-missing",
        "the key does not open a layer of the sealed image",
        found=layer.digest,
        hint="have the author seal it for you too, or the owner give you the image's key; or compare by digest",
    )


@dataclass(frozen=True, slots=True)
class _Sealed:
    """A layer of the sealed image that can be read."""

    registry: Registry
    repository: str
    layer: Descriptor
    private: PrivateOptions

    def read(self) -> Iterator[bytes]:
        """Its archive. Raises as `decrypted`."""
        ciphertext = self.registry.blob(self.repository, self.layer.digest, self.layer.size)
        chunks = decrypted(ciphertext, layer_options(self.layer), self.private)
        return gunzip_chunks(chunks) if layer_is_gzip(self.layer.media_type) else chunks


def _opened_difference(source: Source, number: int, sealed: _Sealed) -> str:
    """The first difference of two layers' content; "" if they are the same bytes."""
    expected = source.config.diff_ids[number]
    for _ in plain_layer(source.layers[number], expected):
        pass  # the source's own content is what its configuration says, or this raises
    return "" if hmac.compare_digest(_digest(sealed.read()), expected) else _first(source, number, sealed.read)


def _digest(chunks: Iterator[bytes]) -> str:
    running = hashlib.sha256()
    for chunk in chunks:
        running.update(chunk)
    return "sha256:" + running.hexdigest()


def _first(source: Source, number: int, read: Callable[[], Iterator[bytes]]) -> str:
    """The first entry in which two archives differ."""
    ours = _entries(plain_layer(source.layers[number], source.config.diff_ids[number]))
    theirs = _entries(read())
    for one, other in itertools.zip_longest(ours, theirs):
        if one is None or other is None:
            extra, side = (other, "image") if one is None else (one, "source")
            return f"{_show(extra[0])} is only in the {side}"
        if one != other:
            return _entry_difference(one, other)
    return "the entries are the same, but the archives are packed differently"


def _entries(chunks: Iterator[bytes]) -> Iterator[tuple[Entry, bytes]]:
    for entry, content in read_entries(chunks):
        running = hashlib.sha256()
        for piece in content:
            running.update(piece)
        yield entry, running.digest()


def _entry_difference(one: tuple[Entry, bytes], other: tuple[Entry, bytes]) -> str:
    ours, theirs = one[0], other[0]
    if ours.name != theirs.name:
        return f"{_show(ours)} stands in the source where {_show(theirs)} stands in the image"
    for name in ("kind", "size", "mode", "uid", "gid", "mtime", "link", "xattrs"):
        if getattr(ours, name) != getattr(theirs, name):
            if name in ("link", "xattrs"):
                return f"{_show(ours)}: {name} differs"
            return f"{_show(ours)}: {name} is {getattr(ours, name)} in the source, {getattr(theirs, name)} in the image"
    return f"{_show(ours)}: content differs"


def _show(entry: Entry) -> str:
    return "/" + entry.name.decode("utf-8", "backslashreplace").removeprefix("./").strip("/")


def _config_difference(source: bytes, sealed: bytes) -> str:
    """The first member of the configuration that differs; of variables the names only."""
    ours, theirs = (_flat(minimal_config(data)) for data in (source, sealed))
    if sealed != minimal_config(sealed):
        return "configuration: the image's is not one that sealing writes"
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            return f"configuration: {name} differs"
    return ""


def _flat(data: bytes) -> Mapping[str, Any]:
    document: dict[str, Any] = parse_json(data, limit=CONFIG_LIMIT, what="image configuration")
    run = document.pop("config", {})
    variables = dict(str(text).partition("=")[::2] for text in run.get("Env", ()))
    return {
        **document,
        **{f"config.{name}": value for name, value in run.items()},
        **{f"config.Env.{name}": value for name, value in variables.items()},
    }
