"""The master key: 32 random bytes that wrap the server's data keys and seal nothing else. Pure, given randomness."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from kokon.errors import MalformedError

KEY_SIZE: Final = 32
"""Bytes of a master key, and of every key that it wraps (AES-256)."""
NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16
"""Bytes of a nonce and of a tag of AES-256-GCM (NIST SP 800-38D)."""
IDENTITY_SIZE: Final = 16

Random = Callable[[int], bytes]
"""Gives that many random bytes, as `secrets.token_bytes`."""


def expand(secret: bytes, info: bytes, size: int = KEY_SIZE) -> bytes:
    """`size` bytes from a uniformly random secret: HKDF-Expand (RFC 5869) with SHA-256."""
    return HKDFExpand(SHA256(), size, info).derive(secret)


@dataclass(frozen=True, slots=True, eq=False)
class MasterKey:
    """One master key. `key` is the secret itself and in no repr; compare with `same_as`, never with `==`.

    Raises `MalformedError` (`master-key-size`) unless the key has 32 bytes.
    """

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) != KEY_SIZE:
            raise MalformedError("master-key-size", "a master key has 32 bytes", expected=KEY_SIZE, found=len(self.key))

    @property
    def identity(self) -> str:
        """A public name of this key, 32 hexadecimal digits: it tells masters apart and nothing about them."""
        return self.subkey("identity", IDENTITY_SIZE).hex()

    def subkey(self, label: str, size: int = KEY_SIZE) -> bytes:
        """`size` bytes for one use only; another label, other bytes."""
        return expand(self.key, b"kokon master key 1\0" + label.encode(), size)

    def same_as(self, other: MasterKey) -> bool:
        """True if both are one key; takes the same time wherever they differ."""
        return hmac.compare_digest(self.key, other.key)


def make_master(random: Random = secrets.token_bytes) -> MasterKey:
    """A new master key."""
    return MasterKey(random(KEY_SIZE))
