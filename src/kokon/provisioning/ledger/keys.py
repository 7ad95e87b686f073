"""Ed25519 keys of the log and its witnesses, and their texts (C2SP signed-note: "Signatures", "Verifier keys").

A key's text is `name+id+key`: id is 8 hex digits, key the base64 of one byte for what the key signs and 32 bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import IntEnum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from kokon.errors import MalformedError, UntrustedError, UsageError
from kokon.wire import b64, check_size, unb64

NAME_LIMIT = 255
"""Longest name in bytes of UTF-8; ours."""
KEY_SIZE = 32
SIGNATURE_SIZE = 64
ID_SIZE = 4


class Use(IntEnum):
    """What a key signs: the signature type identifiers of C2SP signed-note."""

    LOG = 0x01
    WITNESS = 0x04


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with the name of its owner. `str()` is the text of it.

    Raises `MalformedError` (`key-name-malformed`, `size-mismatch`).
    """

    name: str
    public: bytes
    use: Use = Use.LOG

    def __post_init__(self) -> None:
        check_name(self.name)
        check_size(self.public, KEY_SIZE, "Ed25519 public key")

    @property
    def id(self) -> bytes:
        """The four bytes that name the key beside its owner's name."""
        return hashlib.sha256(self.name.encode() + b"\n" + self._typed).digest()[:ID_SIZE]

    @property
    def _typed(self) -> bytes:
        return bytes([self.use]) + self.public

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{b64(self._typed)}"

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raises `UntrustedError` (`log-signature`) unless this key signed `message` (RFC 8032, pure Ed25519)."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise UntrustedError(
                "log-signature", f"not signed by {self.name}", hint="keep what you were given as evidence"
            ) from error


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key; `verifier` is its public half. Made by `signing_key`."""

    verifier: VerifierKey
    private: Ed25519PrivateKey = field(repr=False)

    def sign(self, message: bytes, use: Use) -> bytes:
        """The 64 bytes of the signature. Raises `UsageError` (`key-use`) if the key is for something else."""
        if self.verifier.use is not use:
            raise UsageError(
                "key-use", "the key is for something else", expected=use.name, found=self.verifier.use.name
            )
        return self.private.sign(message)


def signing_key(name: str, seed: bytes, use: Use = Use.LOG) -> SigningKey:
    """The key with this seed (32 secret bytes, RFC 8032 5.1.5).

    A witness needs a seed of its own: what it signs does not say its name. Raises as `VerifierKey`.
    """
    check_size(seed, KEY_SIZE, "seed of a signing key")
    private = Ed25519PrivateKey.from_private_bytes(seed)
    return SigningKey(VerifierKey(name, private.public_key().public_bytes_raw(), use), private)


def parse_verifier_key(text: str) -> VerifierKey:
    """A public key from its text.

    Raises `MalformedError` (`verifier-key-malformed`, `key-name-malformed`, `base64-malformed`).
    """
    parts = text.split("+", 2) if len(text) <= 2 * NAME_LIMIT else []
    if len(parts) != 3:
        raise _malformed("not of the form name+id+key")
    name, identifier, encoded = parts
    typed = unb64(encoded, what="verifier key", limit=1 + KEY_SIZE)
    if len(typed) != 1 + KEY_SIZE or typed[0] not in (Use.LOG, Use.WITNESS):
        raise _malformed("not an Ed25519 key for checkpoints or cosignatures")
    key = VerifierKey(name, typed[1:], Use(typed[0]))
    if identifier != key.id.hex():
        raise _malformed("its id does not belong to its name and key")
    return key


def check_name(name: str) -> None:
    """Refuse what cannot name a key or a log: empty, too long, with a space, a plus or what does not print.

    The specification allows some unprintable characters; we do not, lest a name look like another.
    Raises `MalformedError` (`key-name-malformed`).
    """
    fit = name.isprintable() and " " not in name and "+" not in name
    if not fit or not 1 <= len(name.encode()) <= NAME_LIMIT:
        raise MalformedError(
            "key-name-malformed",
            "this cannot name a key or a log",
            expected=f"1 to {NAME_LIMIT} printable bytes without spaces and plus signs, such as kbs.example.org/clinic",
            found=repr(name[:100]),
        )


def _malformed(why: str) -> MalformedError:
    return MalformedError("verifier-key-malformed", f"this is no verifier key: {why}")
