"""Encrypt layers as ocicrypt does, streaming: the writing side of `kokon.image.layer`."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from kokon.image.keyprovider import wrap
from kokon.image.layer import (
    AGENT_ANNOTATION,
    CHUNK,
    CIPHER,
    JWE_ANNOTATION,
    KEY_SIZE,
    NONCE_SIZE,
    PUBLIC_ANNOTATION,
    checked_chunks,
    gunzip_chunks,
)
from kokon.image.ocicrypt.compress import compressed
from kokon.jose.jwe import encrypt_to
from kokon.wire import b64

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


class LayerEncryptor:
    """Encrypts one layer under a fresh key: iterate `chunks`, then ask for `annotations`."""

    def __init__(self) -> None:
        self._symkey = os.urandom(KEY_SIZE)
        self._nonce = os.urandom(NONCE_SIZE)
        self._code = hmac.new(self._symkey, digestmod="sha256")
        self._plain = hashlib.sha256()

    def chunks(self, plaintext: Iterable[bytes]) -> Iterator[bytes]:
        """The ciphertext of `plaintext`, chunk by chunk."""
        encryptor = Cipher(algorithms.AES256(self._symkey), modes.CTR(self._nonce)).encryptor()
        for chunk in plaintext:
            self._plain.update(chunk)
            sealed = encryptor.update(chunk)
            self._code.update(sealed)
            yield sealed

    def annotations(self, owner: Mapping[str, Any], kek: bytes, kid: str) -> dict[str, str]:
        """The layer's annotations for two recipients: the owner's key (JWE) and the key `kek` at `kid`."""
        private = json.dumps(
            {
                "symkey": b64(self._symkey),
                "digest": "sha256:" + self._plain.hexdigest(),
                "cipheroptions": {"nonce": b64(self._nonce)},
            },
            separators=(",", ":"),
        ).encode()
        public = {"cipher": CIPHER, "hmac": b64(self._code.digest()), "cipheroptions": {}}
        message = json.dumps(encrypt_to(owner, private), separators=(",", ":")).encode()
        return {
            PUBLIC_ANNOTATION: b64(json.dumps(public, separators=(",", ":")).encode()),
            JWE_ANNOTATION: b64(message),
            AGENT_ANNOTATION: b64(wrap(kek, kid, private, os.urandom)),
        }


def gzip_layer(chunks: Iterable[bytes], diff_id: str, *, is_gzip: bool) -> Iterator[bytes]:
    """A layer as gzip: compressed if it is plain, as it is otherwise. Its content is checked against `diff_id`.

    Raises `UntrustedError` (`layer-diff-id-mismatch`), `MalformedError` (`layer-gzip-malformed`).
    """
    if is_gzip:
        yield from _checked_gzip(chunks, diff_id)
        return
    yield from compressed(checked_chunks(chunks, diff_id), "gzip")


def _checked_gzip(chunks: Iterable[bytes], diff_id: str) -> Iterator[bytes]:
    """Pass gzip bytes through and check what is inside on the way."""
    passed: list[bytes] = []

    def tee() -> Iterator[bytes]:
        for chunk in chunks:
            passed.append(chunk)
            for start in range(0, len(chunk), CHUNK):
                yield chunk[start : start + CHUNK]

    for _ in checked_chunks(gunzip_chunks(tee()), diff_id):
        yield from passed
        passed.clear()
    yield from passed
