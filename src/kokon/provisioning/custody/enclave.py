"""A holder by enclave: the master key opens only inside the enclave that the server itself runs in.

The security processor derives a key from its own secret and from what it measured of the guest; HKDF makes the
wrapping key of it. Another processor, or another measurement, gets another key. What is not in the measurement does not
count unless it is mixed in: SEV-SNP's MSG_KEY_REQ leaves HOST_DATA out, which names the launch document. So
`processor_key` mixes it in, and that helps only where the workload cannot reach the processor itself: the measured
agent must answer for it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from kokon.errors import MalformedError, UntrustedError
from kokon.provisioning.custody.master import KEY_SIZE, MasterKey, Random
from kokon.provisioning.custody.wrapped import decode_wrapped, encode_wrapped, parameters_of, seal, unseal
from kokon.wire import b64, unb64

if TYPE_CHECKING:
    from kokon.provisioning.custody.wrapped import HolderName

CONTEXT_SIZE: Final = 32
DERIVED_HIGH: Final = 64
HOST_DATA_SIZE: Final = 32
FIELDS: Final = 1 << 0 | 1 << 3
"""Guest field select of MSG_KEY_REQ (SEV-SNP ABI, document 56860): guest policy and measurement."""

Derive = Callable[[bytes], bytes]
"""A secret of 32 to 64 bytes that this enclave alone gets, for 32 bytes of context: another context, another secret."""


class KeyProcessor(Protocol):
    """The part of a security processor's device that gives derived keys, as `kokon.tee.simulated.device` has it."""

    def derived_key(self, *, fields: int) -> bytes:
        """The 32-byte key for the guest fields selected (SNP MSG_KEY_REQ)."""
        ...


def processor_key(processor: KeyProcessor, host_data: bytes, *, fields: int = FIELDS) -> Derive:
    """Derives from the processor's key, the launch document's digest (HOST_DATA, 32 bytes) and the context.

    The function returned raises as the device does, and `MalformedError` (`enclave-key-size`).
    """
    if len(host_data) != HOST_DATA_SIZE:
        raise MalformedError("enclave-key-size", "HOST_DATA has 32 bytes", expected=32, found=len(host_data))

    def derive(context: bytes) -> bytes:
        info = b"kokon enclave key 1\0" + host_data
        return HKDF(SHA256(), KEY_SIZE, context, info).derive(_checked(processor.derived_key(fields=fields)))

    return derive


@dataclass(frozen=True, slots=True)
class EnclaveHolder:
    """Keeps a master key for the enclave that `derive` asks."""

    derive: Derive = field(repr=False)
    random: Random = field(default=secrets.token_bytes, repr=False)

    @property
    def name(self) -> HolderName:
        """`enclave`."""
        return "enclave"

    def wrap(self, master: MasterKey) -> bytes:
        """The content of `master.json`. Raises `MalformedError` (`enclave-key-size`), and as `derive` does."""
        context = self.random(CONTEXT_SIZE)
        key = self._key(context)
        return encode_wrapped(seal(key, self.name, {"context": b64(context)}, master, self.random))

    def open(self, data: bytes) -> MasterKey:
        """The master key.

        Raises `UntrustedError` (`enclave-mismatch`), `MalformedError` (`master-format`, `enclave-key-size`, and those
        of `kokon.wire`), and as `derive` does.
        """
        wrapped = decode_wrapped(data)
        fields = parameters_of(wrapped)
        context = unb64(fields.text("context", limit=64), what="context", size=CONTEXT_SIZE)
        fields.finish()
        key = self._key(context)
        try:
            return unseal(key, wrapped)
        except InvalidTag as error:
            raise UntrustedError(
                "enclave-mismatch",
                "the master key is sealed to another enclave, or master.json was changed",
                hint="start the very image that sealed it on the same machine, or restore from a backup with its key",
            ) from error

    def _key(self, context: bytes) -> bytes:
        return HKDF(SHA256(), KEY_SIZE, context, b"kokon enclave seal 1").derive(_checked(self.derive(context)))


def _checked(secret: bytes) -> bytes:
    """A device that does not answer well must not become a key that everyone knows."""
    if not KEY_SIZE <= len(secret) <= DERIVED_HIGH or not any(secret):
        raise MalformedError(
            "enclave-key-size",
            "the security processor gave no usable key",
            expected=f"{KEY_SIZE}..{DERIVED_HIGH} bytes, not all zero",
            found=len(secret),
        )
    return secret
