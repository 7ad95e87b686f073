"""AES-256-XTS over a stream of blocks, as dm-crypt's `aes-xts-plain64` with 4096-byte sectors does it.

IEEE Std 1619; IV of Linux's Documentation/admin-guide/device-mapper/dm-crypt.rst: `plain64` with `iv_large_sectors`,
the number of the 4096-byte block as 64 bits little-endian, filled up with zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from kokon.image.block.format import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def encrypt_blocks(pieces: Iterable[bytes], key: bytes) -> Iterator[bytes]:
    """The ciphertext of pieces of whole blocks, the first of which is block 0. `key` has 64 bytes."""
    return _run(pieces, key, encrypt=True)


def decrypt_blocks(pieces: Iterable[bytes], key: bytes) -> Iterator[bytes]:
    """The inverse of `encrypt_blocks`."""
    return _run(pieces, key, encrypt=False)


def _run(pieces: Iterable[bytes], key: bytes, *, encrypt: bool) -> Iterator[bytes]:
    algorithm = algorithms.AES(key)
    number = 0
    for piece in pieces:
        out = bytearray(len(piece) + 15)
        target = memoryview(out)
        source = memoryview(piece)
        for at in range(0, len(piece), BLOCK):
            cipher = Cipher(algorithm, modes.XTS(number.to_bytes(16, "little")))
            context = cipher.encryptor() if encrypt else cipher.decryptor()
            context.update_into(source[at : at + BLOCK], target[at : at + BLOCK + 15])
            number += 1
        yield bytes(target[: len(piece)])
