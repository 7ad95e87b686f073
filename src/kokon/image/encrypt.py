"""Layers of a sealed image: ocicrypt's cipher for two recipients, the owner's key and the image's own."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from kokon.image.keyprovider import wrap
from kokon.image.layer import AGENT_ANNOTATION, JWE_ANNOTATION, PUBLIC_ANNOTATION
from kokon.image.ocicrypt.stream import LayerCipher, recompressed
from kokon.jose.jwe import encrypt_to
from kokon.wire import b64

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


def wrapped_for(private: bytes, owner: Mapping[str, Any], kek: bytes, kid: str) -> dict[str, str]:
    """The annotations that give a layer's private options to the `owner` (public JWK), and to whoever gets the key
    `kek` (32 bytes) at `kid`. Raises as `encrypt_to` and `wrap` do."""
    message = json.dumps(encrypt_to(owner, private), separators=(",", ":")).encode()
    return {JWE_ANNOTATION: b64(message), AGENT_ANNOTATION: b64(wrap(kek, kid, private, os.urandom))}


class LayerEncryptor(LayerCipher):
    """Encrypts one layer under a fresh key: iterate `chunks`, then ask for `annotations`."""

    def annotations(self, owner: Mapping[str, Any], kek: bytes, kid: str) -> dict[str, str]:
        """The layer's annotations, for the recipients of `wrapped_for`."""
        return {PUBLIC_ANNOTATION: self.public(), **wrapped_for(self.private(), owner, kek, kid)}


def gzip_layer(chunks: Iterable[bytes], diff_id: str, *, is_gzip: bool) -> Iterator[bytes]:
    """A layer as gzip: compressed if it is plain, as it is otherwise. Its content is checked against `diff_id`.

    Raises `UntrustedError` (`layer-diff-id-mismatch`), `MalformedError` (`layer-gzip-malformed`).
    """
    return recompressed(chunks, "gzip" if is_gzip else "", "gzip", diff_id)
