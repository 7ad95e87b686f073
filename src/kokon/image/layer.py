"""Encrypted layers: ocicrypt's options and its cipher AES_256_CTR_HMAC_SHA256, reading side. Guest code.

Format: ocicrypt spec (facts oci.md 1.1 to 1.5). The 16-byte nonce is the whole initial counter block; the MAC is over
the ciphertext with the same key. ocicrypt hands out plaintext before the MAC was seen; here `check_layer` goes over the
whole file first, so that no byte of plaintext is looked at unless the MAC holds.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from kokon.errors import MalformedError, UntrustedError
from kokon.image.manifest import ANNOTATION_LIMIT, ENCRYPTED_SUFFIX, LAYER_GZIP_TYPE, LAYER_TYPE
from kokon.wire import Fields, parse_json, unb64

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from kokon.image.fetch import Progress
    from kokon.image.manifest import Descriptor

CIPHER = "AES_256_CTR_HMAC_SHA256"
ANNOTATION_PREFIX = "org.opencontainers.image.enc."
PUBLIC_ANNOTATION = ANNOTATION_PREFIX + "pubopts"
JWE_ANNOTATION = ANNOTATION_PREFIX + "keys.jwe"
AGENT_ANNOTATION = ANNOTATION_PREFIX + "keys.provider.attestation-agent"
CHUNK = 1 << 20
KEY_SIZE = 32
NONCE_SIZE = 16
HMAC_SIZE = 32
RECIPIENTS_LIMIT = 32
_OPTIONS_LIMIT = 8192
MEMBERS_LIMIT = 1 << 20
"""Members of one gzip stream: estargz makes one for each file."""
_WINDOW = 1 << 14
"""Input at a time once there are several members: at the end of each, zlib's object copies what is left of it."""


@dataclass(frozen=True, slots=True)
class PublicOptions:
    """What stands beside the ciphertext: its MAC, and rarely the nonce."""

    hmac: bytes
    nonce: bytes | None = None


@dataclass(frozen=True, slots=True)
class PrivateOptions:
    """What the recipients' annotations wrap. `digest` is advisory only: skopeo writes wrong ones (oci.md 1.7)."""

    symkey: bytes = field(repr=False)
    nonce: bytes | None = field(repr=False)
    digest: str = ""


def parse_public_options(annotation: str) -> PublicOptions:
    """The options of the `pubopts` annotation (base64 of JSON).

    Raises `MalformedError` (`layer-cipher-unsupported`, the codes of `kokon.wire`).
    """
    data = unb64(annotation, what="public layer options", limit=_OPTIONS_LIMIT)
    fields = Fields(parse_json(data, limit=_OPTIONS_LIMIT, what="public layer options"), "public layer options")
    cipher = fields.text("cipher", limit=64)
    if cipher != CIPHER:
        raise MalformedError(
            "layer-cipher-unsupported", "a layer uses an unknown cipher", expected=CIPHER, found=repr(cipher)
        )
    code = unb64(fields.text("hmac", limit=64), what="hmac of the layer", size=HMAC_SIZE)
    nonce = _nonce(fields.value("cipheroptions", default=None))
    fields.finish()
    return PublicOptions(code, nonce)


def parse_private_options(data: bytes) -> PrivateOptions:
    """The options that a recipient unwrapped. Raises `MalformedError` (the codes of `kokon.wire`)."""
    fields = Fields(parse_json(data, limit=_OPTIONS_LIMIT, what="private layer options"), "private layer options")
    symkey = unb64(fields.text("symkey", limit=64), what="layer key", size=KEY_SIZE)
    digest = fields.text("digest", default="", limit=128)
    nonce = _nonce(fields.value("cipheroptions", default=None))
    fields.finish()
    return PrivateOptions(symkey, nonce, digest)


def layer_options(descriptor: Descriptor) -> PublicOptions:
    """The public options of an encrypted layer.

    Raises `UntrustedError` (`layer-not-encrypted`), `MalformedError` (as `parse_public_options`).
    """
    annotation = descriptor.annotations.get(PUBLIC_ANNOTATION)
    if not descriptor.media_type.endswith(ENCRYPTED_SUFFIX) or annotation is None:
        raise UntrustedError(
            "layer-not-encrypted",
            "a layer is not encrypted: this is not a sealed image",
            expected=f"...{ENCRYPTED_SUFFIX}",
            found=descriptor.media_type,
            hint="seal it first: kokon seal --help",
        )
    layer_is_gzip(descriptor.media_type)
    return parse_public_options(annotation)


def layer_is_gzip(media_type: str) -> bool:
    """Whether the plaintext of a layer type is gzip (else plain tar).

    Raises `MalformedError` (`layer-type-unsupported`): zstd and the like are not read.
    """
    plain = media_type.removesuffix(ENCRYPTED_SUFFIX)
    if plain in (LAYER_GZIP_TYPE, "application/vnd.docker.image.rootfs.diff.tar.gzip"):
        return True
    if plain in (LAYER_TYPE, "application/vnd.docker.image.rootfs.diff.tar"):
        return False
    raise MalformedError(
        "layer-type-unsupported",
        "a layer has a media type that Kokon does not read",
        expected=f"{LAYER_TYPE} or {LAYER_GZIP_TYPE}",
        found=media_type,
        hint="rebuild the image with gzip layers",
    )


def recipients(annotations: Mapping[str, str], name: str) -> tuple[bytes, ...]:
    """The wrapped keys of one scheme's annotation: comma-separated base64; none if the annotation is absent.

    Raises `MalformedError` (`layer-recipients`, `base64-malformed`).
    """
    text = annotations.get(name, "")
    parts = text.split(",") if text else []
    if len(parts) > RECIPIENTS_LIMIT or not all(parts):
        raise MalformedError("layer-recipients", "a layer has too many or empty recipients", found=len(parts))
    return tuple(unb64(part, what="wrapped layer key", limit=ANNOTATION_LIMIT) for part in parts)


def check_layer(path: Path, public: PublicOptions, private: PrivateOptions, progress: Progress | None = None) -> None:
    """Go over the ciphertext once and raise `UntrustedError` (`layer-hmac-mismatch`) unless its MAC holds."""
    code = hmac.new(private.symkey, digestmod="sha256")
    total, done = path.stat().st_size, 0
    for chunk in read_chunks(path):
        code.update(chunk)
        done += len(chunk)
        if progress is not None:
            progress(done, total)
    if not hmac.compare_digest(code.digest(), public.hmac):
        raise UntrustedError("layer-hmac-mismatch", "a layer does not match its authentication code")


def decrypt_chunks(
    chunks: Iterable[bytes | memoryview], public: PublicOptions, private: PrivateOptions
) -> Iterator[bytes]:
    """The plaintext of a stream of ciphertext, chunk by chunk.

    The nonce of the public options goes first, as in ocicrypt. Raises `MalformedError` (`layer-nonce-missing`).
    """
    nonce = public.nonce or private.nonce
    if nonce is None:
        raise MalformedError("layer-nonce-missing", "the layer options hold no nonce")
    decryptor = Cipher(algorithms.AES256(private.symkey), modes.CTR(nonce)).decryptor()
    for chunk in chunks:
        yield decryptor.update(chunk)


def gunzip_chunks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The content of a gzip stream (RFC 1952) of one or more members, in pieces of at most 1 MiB.

    Raises `MalformedError` (`layer-gzip-malformed`) on damage, truncation or trailing bytes.
    """
    inflate = zlib.decompressobj(wbits=31)
    members, window = 1, CHUNK
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            if inflate.eof:
                inflate, members, window = zlib.decompressobj(wbits=31), members + 1, _WINDOW
            if members > MEMBERS_LIMIT:
                raise MalformedError("layer-gzip-malformed", "a layer's gzip stream has too many members")
            data = rest[:window]
            piece = _inflate(inflate, data)
            left = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            rest = rest[len(data) - len(left) :]
            if piece:
                yield piece
    while piece := _inflate(inflate, b""):
        yield piece
    if not inflate.eof:
        raise MalformedError("layer-gzip-malformed", "a layer's gzip stream is cut short")


def _inflate(inflate: zlib._Decompress, data: bytes | memoryview) -> bytes:
    try:
        return inflate.decompress(data, CHUNK)
    except zlib.error as error:
        raise MalformedError("layer-gzip-malformed", "a layer is damaged gzip", found=error) from error


def checked_chunks(chunks: Iterable[bytes], diff_id: str) -> Iterator[bytes]:
    """Pass `chunks` through; after the last one raise `UntrustedError` (`layer-diff-id-mismatch`) unless their
    SHA-256 is `diff_id`."""
    running = hashlib.sha256()
    for chunk in chunks:
        running.update(chunk)
        yield chunk
    found = "sha256:" + running.hexdigest()
    if not hmac.compare_digest(found, diff_id):
        raise UntrustedError(
            "layer-diff-id-mismatch",
            "a layer's content is not what the image configuration says",
            expected=diff_id,
            found=found,
        )


def read_chunks(path: Path) -> Iterator[memoryview]:
    """The file in views of at most 1 MiB, each valid until the next is asked for."""
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            yield view[:count]


def _nonce(value: object) -> bytes | None:
    if value is None:
        return None
    fields = Fields(value, "cipheroptions")
    text = fields.optional_text("nonce", limit=64)
    fields.finish()
    return None if text is None else unb64(text, what="nonce of the layer", size=NONCE_SIZE)
