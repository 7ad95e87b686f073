"""Files of private keys: PKCS#8, plain or encrypted, and cosign's own encrypted form.

cosign: PEM `ENCRYPTED SIGSTORE PRIVATE KEY` (older: `ENCRYPTED COSIGN PRIVATE KEY`) around the JSON that
go-securesystemslib's package `encrypted` writes: scrypt (RFC 7914) makes a key of 32 bytes for NaCl's secretbox
(XSalsa20-Poly1305) around PKCS#8 in DER form (facts oci.md 2.1).
"""

from __future__ import annotations

import binascii
import json
import secrets
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from kokon.errors import MalformedError, UntrustedError
from kokon.image.ecdsa import PEM_LIMIT
from kokon.image.signing.keys import PrivateKey, check_private
from kokon.wire import Fields, b64, parse_json, unb64

if TYPE_CHECKING:
    from collections.abc import Callable

    Password = Callable[[], bytes]

COSIGN_LABELS: Final = ("ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY")
WORK: Final = (32768, 65536, 131072)
"""scrypt's N that go-securesystemslib accepts; r is 8 and p 1 always."""
_WRITTEN_WORK: Final = 65536
_SALT, _NONCE, _KEY = 32, 24, 32
_BLOCK, _LANES = 8, 1


def parse_private(data: bytes, password: Password) -> PrivateKey:
    """The private key of a PEM file. `password` is asked only for a file that is encrypted.

    Raises `MalformedError` (`key-malformed`, the codes of `kokon.wire`), `UntrustedError` (`key-password`), and what
    `password` raises.
    """
    if len(data) > PEM_LIMIT:
        raise MalformedError("key-malformed", "the file is too large to be a key", found=len(data))
    for label in COSIGN_LABELS:
        if f"-----BEGIN {label}-----".encode() in data:
            return _private(decrypt_cosign(_pem_body(data, label), password()))
    encrypted = b"ENCRYPTED" in data
    return _private(data, password() if encrypted else None)


def encode_plain(key: PrivateKey) -> bytes:
    """PKCS#8 in PEM form, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def encode_cosign(key: PrivateKey, password: bytes) -> bytes:
    """The key as `cosign generate-key-pair` writes it, encrypted to `password`."""
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    body = base64_lines(encrypt_cosign(der, password))
    label = COSIGN_LABELS[0]
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n".encode()


def encrypt_cosign(der: bytes, password: bytes) -> bytes:
    """go-securesystemslib's encrypted JSON around `der`."""
    import nacl.secret  # when it is needed: most keys are not encrypted so

    salt, nonce = secrets.token_bytes(_SALT), secrets.token_bytes(_NONCE)
    box = nacl.secret.SecretBox(_derive(password, salt, _WRITTEN_WORK))
    document = {
        "kdf": {"name": "scrypt", "params": {"N": _WRITTEN_WORK, "r": _BLOCK, "p": _LANES}, "salt": b64(salt)},
        "cipher": {"name": "nacl/secretbox", "nonce": b64(nonce)},
        "ciphertext": b64(box.encrypt(der, nonce).ciphertext),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def decrypt_cosign(document: bytes, password: bytes) -> bytes:
    """What go-securesystemslib's encrypted JSON holds.

    Raises `MalformedError` (`key-malformed`, the codes of `kokon.wire`), `UntrustedError` (`key-password`).
    """
    import nacl.exceptions
    import nacl.secret

    fields = Fields(parse_json(document, limit=PEM_LIMIT, what="encrypted key"), "encrypted key")
    kdf, cipher = Fields(fields.table("kdf"), "kdf"), Fields(fields.table("cipher"), "cipher")
    params = Fields(kdf.table("params"), "params")
    names = (kdf.text("name"), cipher.text("name"))
    work = (params.integer("N"), params.integer("r"), params.integer("p"))
    if names != ("scrypt", "nacl/secretbox") or work not in [(n, _BLOCK, _LANES) for n in WORK]:
        raise MalformedError(
            "key-malformed",
            "the key is encrypted in a way that cosign does not use",
            expected=f"scrypt with N of {WORK}, r 8, p 1, and nacl/secretbox",
            found=(*names, *work),
        )
    salt = unb64(kdf.text("salt"), what="salt", size=_SALT)
    nonce = unb64(cipher.text("nonce"), what="nonce", size=_NONCE)
    ciphertext = unb64(fields.text("ciphertext", limit=PEM_LIMIT), what="ciphertext", limit=PEM_LIMIT)
    for part in (params, kdf, cipher, fields):
        part.finish()
    try:
        return bytes(nacl.secret.SecretBox(_derive(password, salt, work[0])).decrypt(ciphertext, nonce))
    except (nacl.exceptions.CryptoError, ValueError) as error:
        raise _wrong_password() from error


def base64_lines(data: bytes) -> str:
    """Base64 in lines of 64 characters, as PEM has it (RFC 7468)."""
    text = b64(data)
    return "".join(text[at : at + 64] + "\n" for at in range(0, len(text), 64))


def _derive(password: bytes, salt: bytes, work: int) -> bytes:
    return Scrypt(salt=salt, length=_KEY, n=work, r=_BLOCK, p=_LANES).derive(password)


def _pem_body(data: bytes, label: str) -> bytes:
    text = data.decode("ascii", "replace").strip()
    begin, end = f"-----BEGIN {label}-----", f"-----END {label}-----"
    if not text.startswith(begin) or not text.endswith(end) or text.count("-----BEGIN") != 1:
        raise MalformedError("key-malformed", "the key file holds more than one encrypted key", expected=label)
    inner = text.removeprefix(begin).removesuffix(end)
    try:
        return binascii.a2b_base64("".join(inner.split()).encode(), strict_mode=True)
    except (ValueError, binascii.Error) as error:
        raise MalformedError("key-malformed", "the encrypted key is not base64") from error


def _private(data: bytes, password: bytes | None = None) -> PrivateKey:
    load = serialization.load_pem_private_key if data.startswith(b"-----") else serialization.load_der_private_key
    try:
        key = load(data, password)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if password is not None:
            raise _wrong_password() from error
        raise MalformedError(
            "key-malformed", "this is not a private key that Kokon reads", expected="PEM: PKCS#8 or cosign's"
        ) from error
    return check_private(key)


def _wrong_password() -> UntrustedError:
    return UntrustedError(
        "key-password", "the password does not open the key", hint="a wrong password, or a file that was changed"
    )
