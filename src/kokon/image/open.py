"""The guest's half of a sealed image: pull and check everything first, unseal only then. Guest code.

Invariants, in this order (docs/PROTOCOL.md):

1. `pull_image` asks for no secret. It gets the manifest whose digest the launch document pins, a signature and an
   identity statement by the author whom the launch document names, the configuration, and all ciphertext; sizes and
   digests of everything are checked. What is small is checked before what is large is asked for.
2. Only a `PulledImage` knows which key is needed (`kek_ids`).
3. `unseal_layers` looks at no byte of plaintext before the layer's MAC holds, and leaves no directory behind unless
   every layer has the diff_id of the signed configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kokon.errors import KokonError, MalformedError, StaleError, UntrustedError
from kokon.image.block.format import is_block_image, parse_block
from kokon.image.dsse import ENVELOPE_LIMIT, ENVELOPE_TYPE, IN_TOTO_TYPE, parse_envelope
from kokon.image.fetch import disk_error
from kokon.image.keyprovider import parse_packet, unwrap
from kokon.image.layer import (
    AGENT_ANNOTATION,
    check_layer,
    checked_chunks,
    decrypt_chunks,
    gunzip_chunks,
    layer_is_gzip,
    layer_options,
    parse_private_options,
    read_chunks,
    recipients,
)
from kokon.image.manifest import CONFIG_LIMIT, parse_config, parse_index, parse_manifest
from kokon.image.signature import fetch_signature
from kokon.image.statement import read_statement
from kokon.image.unpack import Limits, Unpacker

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from kokon.image.block.format import BlockInfo
    from kokon.image.fetch import Fetcher, Progress
    from kokon.image.keyprovider import Packet
    from kokon.image.layer import PrivateOptions, PublicOptions
    from kokon.image.manifest import Descriptor, ImageConfig, Manifest
    from kokon.image.statement import Statement
    from kokon.launch.document import ImageRef

STATEMENTS_LIMIT = 16


@dataclass(frozen=True, slots=True)
class PulledLayer:
    """One layer's ciphertext on disk, of the right size and digest."""

    path: Path
    descriptor: Descriptor
    options: PublicOptions
    packet: Packet
    diff_id: str


@dataclass(frozen=True, slots=True)
class PulledBlock:
    """What is signed about a block image (docs/BLOCK_FORMAT.md), whose ciphertext the host has on a disk."""

    info: BlockInfo
    packet: Packet


@dataclass(frozen=True, slots=True)
class PulledImage:
    """An image of which everything was checked that can be checked without a key.

    `envelope` is the DSSE envelope of the statement as JSON bytes, for those who ask the guest for it. A block image
    has `block` and no `layers`.
    """

    digest: str
    config: ImageConfig
    statement: Statement
    envelope: bytes
    layers: tuple[PulledLayer, ...]
    block: PulledBlock | None = None

    def kek_ids(self) -> tuple[str, ...]:
        """The KBS addresses of the keys that `unseal_layers` or `block_key` needs."""
        if self.block is not None:
            return (self.block.packet.kid,)
        return tuple(dict.fromkeys(layer.packet.kid for layer in self.layers))


def pull_image(
    image: ImageRef, fetcher: Fetcher, directory: Path, progress: Progress | None = None, *, now: datetime
) -> PulledImage:
    """Pull and check a sealed image; its ciphertext goes to files in the existing `directory`.

    `progress(done, total)` counts bytes of ciphertext; `now` judges the statement's end. On failure no ciphertext is
    left. Raises `UntrustedError`
    (`image-digest-mismatch`, `image-unsigned`, `image-author-unknown`, `signature-image-mismatch`, `statement-missing`,
    `statement-author-unknown`, `statement-subject-mismatch`, `statement-image-mismatch`, `layer-not-encrypted`,
    `layer-key-missing`, `layer-digest-mismatch`, `blob-digest-mismatch`), `StaleError` (`statement-expired`),
    `MalformedError` (`image-malformed`, `block-malformed`, those of the parsers), and what `kokon.image.fetch` raises.
    """
    data, _ = fetcher.manifest(image.digest)
    manifest = parse_manifest(data)
    fetch_signature(fetcher, image.digest, image.author)
    statement, envelope = fetch_statement(fetcher, image.digest, image.author, now)
    check_statement(statement, manifest)
    config = parse_config(fetcher.blob(manifest.config.digest, manifest.config.size, CONFIG_LIMIT))
    if is_block_image(manifest):
        descriptor, info = parse_block(manifest)
        block = PulledBlock(info, _packet(descriptor, statement.kek.kid))
        return PulledImage(image.digest, config, statement, envelope, (), block)
    layers = _plan(manifest, config, statement, directory)
    total = sum(layer.descriptor.size for layer in layers)
    done = 0
    try:
        for layer in layers:
            size = layer.descriptor.size
            fetcher.blob_to_file(layer.descriptor.digest, size, layer.path, _shifted(progress, done, total))
            done += size
    except BaseException:
        for layer in layers:
            layer.path.unlink(missing_ok=True)
        raise
    return PulledImage(image.digest, config, statement, envelope, layers)


def unseal_layers(
    pulled: PulledImage,
    keks: Mapping[str, bytes],
    target: Path,
    progress: Progress | None = None,
    *,
    limits: Limits | None = None,
) -> None:
    """Decrypt and unpack all layers into the new directory `target`; each ciphertext file is removed once used.

    `keks` maps the addresses of `kek_ids` to 32-byte keys. On failure nothing is left at `target`. `progress` counts
    bytes of ciphertext, twice (check, then decrypt). Raises `UntrustedError` (`kek-missing`, `kek-wrong`,
    `layer-hmac-mismatch`, `layer-diff-id-mismatch`), `MalformedError` (`layer-gzip-malformed`, those of the options and
    of `kokon.image.unpack`), `HostError` (`disk-full`, `disk-failed`).
    """
    secrets = [_opened(layer.packet, keks) for layer in pulled.layers]
    partial = target.with_name(target.name + ".partial")
    try:
        partial.mkdir(mode=0o755)
        partial.chmod(0o755)
        with Unpacker(partial, limits) as unpacker:
            _unseal_all(pulled, secrets, unpacker, progress)
        partial.rename(target)
    except OSError as error:
        _discard(partial)
        raise disk_error(error, "unpacking the image") from error
    except BaseException:
        _discard(partial)
        raise


def block_key(pulled: PulledImage, keks: Mapping[str, bytes]) -> bytes:
    """The 32-byte key of a block image, out of `keks` as `unseal_layers` takes them.

    Raises `UntrustedError` (`kek-missing`, `kek-wrong`), `MalformedError` (`block-malformed`, those of the options).
    """
    if pulled.block is None:
        raise MalformedError("block-malformed", "this is no block image")
    return _opened(pulled.block.packet, keks).symkey


def fetch_statement(fetcher: Fetcher, digest: str, author: str, now: datetime) -> tuple[Statement, bytes]:
    """The newest statement about the manifest `digest` by the author that is in date, and its envelope's bytes.

    Of several envelopes of the same age it is that with the most signatures: certifiers countersign a copy. Raises
    `UntrustedError` (`statement-missing`, `statement-author-unknown`, `statement-subject-mismatch`), `StaleError`
    (`statement-expired`), and what parsing and fetching raise: the first reason, if none will do.
    """
    good: list[tuple[Statement, bytes, int]] = []
    refusals: list[KokonError] = []
    for descriptor in statement_descriptors(fetcher, digest):
        try:
            data = fetch_envelope(fetcher, descriptor)
            envelope = parse_envelope(data)
            statement = read_statement(envelope, author, subject=digest, now=now)
            good.append((statement, data, len(envelope.signatures)))
        except (UntrustedError, StaleError, MalformedError) as error:
            refusals.append(error)
    if good:
        return max(good, key=lambda one: (one[0].created, one[2]))[:2]
    if refusals:
        raise min(refusals, key=lambda error: not isinstance(error, StaleError))
    raise UntrustedError(
        "statement-missing",
        "the image has no identity statement",
        expected=f"a referrer of {digest} with artifact type {IN_TOTO_TYPE}",
        hint="seal the image with `kokon seal`, and copy its referrers along with it",
    )


def check_statement(statement: Statement, manifest: Manifest) -> None:
    """Raise `UntrustedError` (`statement-image-mismatch`) unless the statement names this manifest's blobs."""
    found = (manifest.config.digest, *(layer.digest for layer in manifest.layers))
    if found != (statement.config, *statement.layers):
        raise UntrustedError(
            "statement-image-mismatch", "the statement names other layers or another configuration than the manifest"
        )


def statement_descriptors(fetcher: Fetcher, digest: str) -> tuple[Descriptor, ...]:
    """What the registry says are statements about the manifest `digest`; 16 of them at most. Nothing is checked."""
    index = fetcher.referrers(digest)
    entries = () if index is None else parse_index(index)
    wanted = [entry.descriptor for entry in entries if entry.descriptor.artifact_type == IN_TOTO_TYPE]
    return tuple(wanted[:STATEMENTS_LIMIT])


def fetch_envelope(fetcher: Fetcher, descriptor: Descriptor) -> bytes:
    """The bytes of the envelope that one of `statement_descriptors` leads to. Raises `MalformedError`
    (`statement-malformed`), and what fetching raises."""
    data, _ = fetcher.manifest(descriptor.digest)
    layers = parse_manifest(data).layers
    if len(layers) != 1 or layers[0].media_type != ENVELOPE_TYPE:
        raise MalformedError(
            "statement-malformed", "the statement's manifest holds no envelope", expected=ENVELOPE_TYPE
        )
    return fetcher.blob(layers[0].digest, layers[0].size, ENVELOPE_LIMIT)


def _discard(directory: Path) -> None:
    import shutil  # costs the guest a start-up delay that only a failure is worth

    shutil.rmtree(directory, ignore_errors=True)


def _plan(manifest: Manifest, config: ImageConfig, statement: Statement, directory: Path) -> tuple[PulledLayer, ...]:
    if len(config.diff_ids) != len(manifest.layers):
        raise MalformedError(
            "image-malformed",
            "manifest and configuration name different numbers of layers",
            expected=len(manifest.layers),
            found=len(config.diff_ids),
        )
    return tuple(
        PulledLayer(
            path=directory / f"layer-{number:03}",
            descriptor=descriptor,
            options=layer_options(descriptor),
            packet=_packet(descriptor, statement.kek.kid),
            diff_id=diff_id,
        )
        for number, (descriptor, diff_id) in enumerate(zip(manifest.layers, config.diff_ids, strict=True))
    )


def _packet(descriptor: Descriptor, kid: str) -> Packet:
    packets = [parse_packet(data) for data in recipients(descriptor.annotations, AGENT_ANNOTATION)]
    for packet in packets:
        if packet.kid == kid:
            return packet
    raise UntrustedError(
        "layer-key-missing",
        "a layer is not encrypted to the key that the statement names",
        expected=kid,
        found=", ".join(packet.kid for packet in packets) or "no key of the owner's server",
        hint="seal the image again for this owner",
    )


def _opened(packet: Packet, keks: Mapping[str, bytes]) -> PrivateOptions:
    kek = keks.get(packet.kid)
    if kek is None:
        raise UntrustedError("kek-missing", "a layer's key was not released", expected=packet.kid)
    return parse_private_options(unwrap(packet, kek))


def _unseal_all(
    pulled: PulledImage, secrets: list[PrivateOptions], unpacker: Unpacker, progress: Progress | None
) -> None:
    total = 2 * sum(layer.descriptor.size for layer in pulled.layers)
    done = 0
    for layer, private in zip(pulled.layers, secrets, strict=True):
        size = layer.descriptor.size
        check_layer(layer.path, layer.options, private, _shifted(progress, done, total))
        unpacker.layer(_plain_chunks(layer, private, _shifted(progress, done + size, total)), size)
        done += 2 * size
        layer.path.unlink()


def _plain_chunks(layer: PulledLayer, private: PrivateOptions, progress: Progress | None) -> Iterator[bytes]:
    chunks = decrypt_chunks(_counted(layer.path, layer.descriptor.size, progress), layer.options, private)
    if layer_is_gzip(layer.descriptor.media_type):
        chunks = gunzip_chunks(chunks)
    return checked_chunks(chunks, layer.diff_id)


def _counted(path: Path, size: int, progress: Progress | None) -> Iterator[memoryview]:
    done = 0
    for chunk in read_chunks(path):
        yield chunk
        done += len(chunk)
        if progress is not None:
            progress(done, size)


def _shifted(progress: Progress | None, offset: int, total: int) -> Progress | None:
    if progress is None:
        return None
    report = progress
    return lambda done, _: report(offset + done, total)
