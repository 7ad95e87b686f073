"""The two option objects of an encrypted layer, written. They are read by `kokon.image.layer`. Pure.

Format: ocicrypt spec (facts oci.md 1.3): JSON, byte values in standard base64; the nonce goes into the private options.
"""

from __future__ import annotations

import json
from typing import Any

from kokon.image.layer import CIPHER, HMAC_SIZE, KEY_SIZE, NONCE_SIZE
from kokon.wire import b64, check_size


def encode_private(symkey: bytes, nonce: bytes, digest: str) -> bytes:
    """The private options: key (32 bytes), nonce (16 bytes), digest of the plaintext. Raises `MalformedError`
    (`size-mismatch`)."""
    check_size(symkey, KEY_SIZE, "layer key")
    check_size(nonce, NONCE_SIZE, "nonce of the layer")
    return _json({"symkey": b64(symkey), "digest": digest, "cipheroptions": {"nonce": b64(nonce)}})


def encode_public(code: bytes) -> str:
    """The annotation `pubopts` for the MAC `code` (32 bytes). Raises `MalformedError` (`size-mismatch`)."""
    check_size(code, HMAC_SIZE, "hmac of the layer")
    return b64(_json({"cipher": CIPHER, "hmac": b64(code), "cipheroptions": {}}))


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
