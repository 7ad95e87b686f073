"""The `attestation-agent` annotation packet: a layer's private options wrapped by a key from the owner's server.

Format: guest-components, attestation-agent packet v1 and v2 (facts kbs.md g.1). A256GCM: 96-bit IV, ciphertext followed
by the 16-byte tag, no associated data, the raw 32-byte resource as key.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kokon.errors import MalformedError, UntrustedError
from kokon.image.statement import check_kid
from kokon.wire import Fields, b64, check_size, parse_json, unb64

if TYPE_CHECKING:
    from collections.abc import Callable

PACKET_LIMIT = 16 << 10
KEK_SIZE = 32
IV_SIZE = 12


@dataclass(frozen=True, slots=True)
class Packet:
    """A wrapped key: `kid` is the KBS address of the key that opens it."""

    kid: str
    wrapped: bytes
    iv: bytes


def parse_packet(data: bytes) -> Packet:
    """A packet v1 or v2 of provider `kbs` with A256GCM.

    Raises `MalformedError` (`packet-unsupported`, `kid-malformed`, the codes of `kokon.wire`).
    """
    fields = Fields(parse_json(data, limit=PACKET_LIMIT, what="key packet"), "key packet")
    version = fields.text("version", default="0.1.0", limit=16)
    provider = fields.text("provider", default="kbs", limit=64)
    fields.table("provider_settings", default={})
    fields.table("annotations", default={})
    wrap_type = fields.text("wrap_type", limit=32)
    packet = Packet(
        kid=check_kid(fields.text("kid", limit=512)),
        wrapped=unb64(fields.text("wrapped_data", limit=8192), what="wrapped_data of the key packet", limit=4096),
        iv=unb64(fields.text("iv", limit=64), what="iv of the key packet", limit=32),
    )
    fields.finish()
    if (version, provider, wrap_type, len(packet.iv)) != ("0.1.0", "kbs", "A256GCM", IV_SIZE):
        raise MalformedError(
            "packet-unsupported",
            "the key packet is of a kind that Kokon does not open",
            expected="version 0.1.0, provider kbs, A256GCM, 12-byte iv",
            found=f"version {version}, provider {provider}, {wrap_type}, {len(packet.iv)}-byte iv",
        )
    return packet


def wrap(kek: bytes, kid: str, options: bytes, entropy: Callable[[int], bytes], *, version: int = 2) -> bytes:
    """A packet v1 or v2 around the private options; `entropy(n)` gives n random bytes (os.urandom).

    Raises `MalformedError` (`size-mismatch`, `kid-malformed`, `packet-unsupported`).
    """
    if version not in (1, 2):
        raise MalformedError("packet-unsupported", "no such version of key packets", expected="1 or 2", found=version)
    check_size(kek, KEK_SIZE, "key encryption key")
    iv = entropy(IV_SIZE)
    newer = {"version": "0.1.0", "provider": "kbs", "provider_settings": {}, "annotations": {}}
    packet = {
        **(newer if version == 2 else {}),
        "kid": check_kid(kid),
        "wrapped_data": b64(AESGCM(kek).encrypt(iv, options, None)),
        "iv": b64(iv),
        "wrap_type": "A256GCM",
    }
    return json.dumps(packet, separators=(",", ":")).encode()


def unwrap(packet: Packet, kek: bytes) -> bytes:
    """The private options inside. Raises `UntrustedError` (`kek-wrong`), `MalformedError` (`size-mismatch`)."""
    check_size(kek, KEK_SIZE, "key encryption key")
    try:
        return AESGCM(kek).decrypt(packet.iv, packet.wrapped, None)
    except InvalidTag as error:
        raise UntrustedError(
            "kek-wrong",
            "the released key does not open the layer keys",
            expected=packet.kid,
            hint="the owner's server holds another key under this name: admit the image again",
        ) from error
