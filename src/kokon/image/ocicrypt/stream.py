"""One layer through the cipher AES_256_CTR_HMAC_SHA256, as a stream of bounded memory.

Format: ocicrypt spec (facts oci.md 1.4). Whoever stores what comes out must make it visible only after the last chunk:
`ImageStore.upload` does. The MAC is checked before the last chunk is given out.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import queue
import threading
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from kokon.errors import UntrustedError
from kokon.image.layer import CHUNK, KEY_SIZE, NONCE_SIZE, checked_chunks, decrypt_chunks
from kokon.image.ocicrypt.compress import compressed, decompressed
from kokon.image.ocicrypt.options import encode_private, encode_public

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kokon.image.layer import PrivateOptions, PublicOptions

DEPTH = 4
"""Chunks (of at most 1 MiB) between two threads."""


class LayerCipher:
    """Encrypts one layer under a fresh key: iterate `chunks` once, then ask for `private` and `public`.

    `digest` is the plaintext's, if the caller checks it anyway; else it is computed here.
    """

    def __init__(self, digest: str | None = None) -> None:
        self._digest = digest
        self._symkey = os.urandom(KEY_SIZE)
        self._nonce = os.urandom(NONCE_SIZE)
        self._code = hmac.new(self._symkey, digestmod="sha256")
        self._plain = hashlib.sha256()

    def chunks(self, plaintext: Iterable[bytes]) -> Iterator[bytes]:
        """The ciphertext of `plaintext`."""
        encryptor = Cipher(algorithms.AES256(self._symkey), modes.CTR(self._nonce)).encryptor()
        for chunk in plaintext:
            if self._digest is None:
                self._plain.update(chunk)
            sealed = encryptor.update(chunk)
            self._code.update(sealed)
            yield sealed

    def private(self) -> bytes:
        """The private options, to be wrapped for the recipients."""
        return encode_private(self._symkey, self._nonce, self._digest or "sha256:" + self._plain.hexdigest())

    def public(self) -> str:
        """The value of the annotation `pubopts`."""
        return encode_public(self._code.digest())


def decrypted(chunks: Iterable[bytes], public: PublicOptions, private: PrivateOptions) -> Iterator[bytes]:
    """The plaintext of a layer. The MAC is checked before the last chunk comes out.

    Raises `UntrustedError` (`layer-hmac-mismatch`), `MalformedError` (`layer-nonce-missing`).
    """
    return decrypt_chunks(_authenticated(chunks, public, private), public, private)


def _authenticated(chunks: Iterable[bytes], public: PublicOptions, private: PrivateOptions) -> Iterator[bytes]:
    """`chunks`, the last one held back until the MAC over all is right."""
    code = hmac.new(private.symkey, digestmod="sha256")
    last = b""
    for chunk in chunks:
        code.update(chunk)
        if last:
            yield last
        last = chunk
    if not hmac.compare_digest(code.digest(), public.hmac):
        raise UntrustedError("layer-hmac-mismatch", "a layer does not match its authentication code")
    yield last


def checked(chunks: Iterable[bytes], compression: str, diff_id: str | None) -> Iterator[bytes]:
    """A stored layer passed through; its content must have the digest `diff_id` (None: not checked).

    Raises `UntrustedError` (`layer-diff-id-mismatch`), and what `decompressed` raises.
    """
    if diff_id is None:
        yield from chunks
    elif compression == "":
        yield from checked_chunks(chunks, diff_id)
    else:
        yield from _checked_inside(chunks, compression, diff_id)


def _checked_inside(chunks: Iterable[bytes], compression: str, diff_id: str) -> Iterator[bytes]:
    passed: list[bytes] = []

    def tee() -> Iterator[bytes]:
        for chunk in chunks:
            passed.append(chunk)
            for start in range(0, len(chunk), CHUNK):
                yield chunk[start : start + CHUNK]

    for _ in checked_chunks(decompressed(tee(), compression), diff_id):
        yield from passed
        passed.clear()
    yield from passed


def recompressed(chunks: Iterable[bytes], old: str, new: str | None, diff_id: str | None) -> Iterator[bytes]:
    """A stored layer in another compression (None: as it is), its content checked against `diff_id`. Raises as
    `checked`."""
    if new is None or new == old:
        return checked(chunks, old, diff_id)
    content = decompressed(chunks, old)
    return compressed(content if diff_id is None else checked_chunks(content, diff_id), new)


def ahead(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """`chunks`, worked out in a thread of their own up to `DEPTH` ahead; what they raise is raised here."""
    pipe: queue.Queue[tuple[bytes | None, BaseException | None]] = queue.Queue(DEPTH)
    stopped = threading.Event()
    worker = threading.Thread(target=_fill, args=(chunks, pipe, stopped), daemon=True)
    worker.start()
    try:
        while True:
            chunk, error = pipe.get()
            if error is not None:
                raise error
            if chunk is None:
                return
            yield chunk
    finally:
        stopped.set()
        while worker.is_alive():
            _drain(pipe)
            worker.join(0.01)


def _fill(
    chunks: Iterable[bytes], pipe: queue.Queue[tuple[bytes | None, BaseException | None]], stopped: threading.Event
) -> None:
    try:
        for chunk in chunks:
            pipe.put((chunk, None))
            if stopped.is_set():
                return
        pipe.put((None, None))
    except BaseException as error:  # noqa: BLE001 -- raised again in the thread that reads
        pipe.put((None, error))


def _drain(pipe: queue.Queue[tuple[bytes | None, BaseException | None]]) -> None:
    while True:
        try:
            pipe.get_nowait()
        except queue.Empty:
            return
