"""The block format as values: what the layer's descriptor says, the keys that are derived, the kernel's tables.

Specification: docs/BLOCK_FORMAT.md. Guest code.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kokon.errors import MalformedError
from kokon.wire import check_size

if TYPE_CHECKING:
    from kokon.image.manifest import Descriptor, Manifest

ARTIFACT_TYPE = "application/vnd.kokon.image.block.v1"
LAYER_TYPE = "application/vnd.kokon.image.block.v1.erofs+verity+encrypted"
ROOT_ANNOTATION = "dev.kokon.block.root"
BLOCKS_ANNOTATION = "dev.kokon.block.data-blocks"

BLOCK = 4096
"""Bytes of a file system block, a dm-verity block and a dm-crypt sector: all are the same."""
DIGEST_SIZE = 32
KEY_SIZE = 32
XTS_KEY_SIZE = 64
BLOCKS_LIMIT = 1 << 28
"""Data blocks of one image: 1 TiB."""
_DIGESTS_PER_BLOCK = BLOCK // DIGEST_SIZE
_SECTORS_PER_BLOCK = BLOCK // 512
_ROOT = re.compile(r"[0-9a-f]{64}")
_BLOCKS = re.compile(r"[1-9][0-9]{0,9}")
_SALT_LABEL = b"kokon block 1 verity salt"
_CIPHER_LABEL = b"kokon block 1 aes-xts-plain64"


@dataclass(frozen=True, slots=True)
class BlockInfo:
    """What is signed about a block image: dm-verity's root digest (32 bytes), and the data blocks below its tree."""

    root: bytes
    blocks: int

    @property
    def total_blocks(self) -> int:
        """Data and hash tree together, which is the whole blob, in blocks."""
        return self.blocks + sum(tree_levels(self.blocks))

    @property
    def size(self) -> int:
        """Bytes of the whole blob."""
        return self.total_blocks * BLOCK

    def annotations(self) -> dict[str, str]:
        """The annotations that carry this in the layer's descriptor."""
        return {ROOT_ANNOTATION: self.root.hex(), BLOCKS_ANNOTATION: str(self.blocks)}


def is_block_image(manifest: Manifest) -> bool:
    """Whether a manifest says that it is a block image. Whether it is a right one says `parse_block`."""
    return manifest.artifact_type == ARTIFACT_TYPE or any(layer.media_type == LAYER_TYPE for layer in manifest.layers)


def parse_block(manifest: Manifest) -> tuple[Descriptor, BlockInfo]:
    """The one layer of a block image and what it says. Raises `MalformedError` (`block-malformed`)."""
    if manifest.artifact_type != ARTIFACT_TYPE or [layer.media_type for layer in manifest.layers] != [LAYER_TYPE]:
        raise _malformed(
            "a block image has another artifact type or other layers",
            f"{ARTIFACT_TYPE} with one {LAYER_TYPE}",
            f"{manifest.artifact_type} with {len(manifest.layers)} layers",
        )
    layer = manifest.layers[0]
    root = layer.annotations.get(ROOT_ANNOTATION, "")
    blocks = layer.annotations.get(BLOCKS_ANNOTATION, "")
    if not _ROOT.fullmatch(root):
        raise _malformed("a block image lacks its root digest", f"{ROOT_ANNOTATION}: 64 hex digits", repr(root[:80]))
    if not _BLOCKS.fullmatch(blocks) or int(blocks) > BLOCKS_LIMIT:
        raise _malformed("a block image lacks its size", f"{BLOCKS_ANNOTATION}: 1..{BLOCKS_LIMIT}", repr(blocks[:80]))
    info = BlockInfo(bytes.fromhex(root), int(blocks))
    if layer.size != info.size:
        raise _malformed("a block image has another size than its tree needs", f"{info.size} bytes", str(layer.size))
    return layer, info


def tree_levels(blocks: int) -> list[int]:
    """Blocks of each level of the hash tree over `blocks` data blocks, the level over the data first."""
    levels = [-(-blocks // _DIGESTS_PER_BLOCK)]
    while levels[-1] > 1:
        levels.append(-(-levels[-1] // _DIGESTS_PER_BLOCK))
    return levels


def verity_salt(key: bytes) -> bytes:
    """dm-verity's salt, 32 bytes. It is as secret as `key`, so that the public root digest confirms no guess.

    Raises `MalformedError` (`size-mismatch`).
    """
    return _hkdf(key, b"", _SALT_LABEL, DIGEST_SIZE)


def xts_key(key: bytes, root: bytes) -> bytes:
    """The two AES-256 keys of XTS, 64 bytes, for the image with this root digest: no two images share them.

    Raises `MalformedError` (`size-mismatch`).
    """
    return _hkdf(key, root, _CIPHER_LABEL, XTS_KEY_SIZE)


def crypt_table(key: bytes, info: BlockInfo, device: str) -> str:
    """Parameters of the dm-crypt target over `device` (Documentation/admin-guide/device-mapper/dm-crypt.rst)."""
    options = f"2 sector_size:{BLOCK} iv_large_sectors"
    return f"aes-xts-plain64 {xts_key(key, info.root).hex()} 0 {device} 0 {options}"


def verity_table(key: bytes, info: BlockInfo, device: str) -> str:
    """Parameters of the dm-verity target over the decrypted `device` (device-mapper/verity.rst): hash type 1."""
    places = f"{device} {device} {BLOCK} {BLOCK} {info.blocks} {info.blocks}"
    return f"1 {places} sha256 {info.root.hex()} {verity_salt(key).hex()}"


def crypt_sectors(info: BlockInfo) -> int:
    """The length of the dm-crypt target in sectors of 512 bytes."""
    return info.total_blocks * _SECTORS_PER_BLOCK


def verity_sectors(info: BlockInfo) -> int:
    """The length of the dm-verity target in sectors of 512 bytes."""
    return info.blocks * _SECTORS_PER_BLOCK


def _hkdf(key: bytes, salt: bytes, label: bytes, size: int) -> bytes:
    """HKDF-SHA-256 (RFC 5869), here because the guest's `cryptography` carries no more than the agent imports."""
    check_size(key, KEY_SIZE, "key of a block image")
    secret = hmac.digest(salt or bytes(DIGEST_SIZE), key, hashlib.sha256)
    out = block = b""
    number = 1
    while len(out) < size:
        block = hmac.digest(secret, block + label + bytes([number]), hashlib.sha256)
        out += block
        number += 1
    return out[:size]


def _malformed(message: str, expected: str, found: str) -> MalformedError:
    return MalformedError("block-malformed", message, expected=expected, found=found)
