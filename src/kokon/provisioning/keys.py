"""The server's keys and tokens: made at first start, kept in files that only the owner can read.

`master.key` seals the store and the cookies of handshakes, `owner-key.pem` opens what authors encrypt to the owner,
`token-keys.json` signs attestation tokens, `admin.token` opens the admin interface.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from kokon.errors import HostError, MalformedError, UsageError
from kokon.provisioning.token.keys import TokenKeys, decode_keys, generate_keys

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

MASTER_KEY = "master.key"
OWNER_KEY = "owner-key.pem"
TOKEN_KEYS = "token-keys.json"  # noqa: S105
ADMIN_TOKEN = "admin.token"  # noqa: S105
KEY_FILE_LIMIT = 16 << 10


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """What the server must keep to itself; nothing of it shows in a repr."""

    master: bytes = field(repr=False)
    owner: ec.EllipticCurvePrivateKey = field(repr=False)
    token: TokenKeys = field(repr=False)
    admin_token: str = field(repr=False)


def open_keys(directory: Path, now: datetime) -> ServerKeys:
    """The keys in `directory`, each made at `now` (aware) if it is not there yet; the directory gets mode 0700, files
    0600.

    Raises `HostError` (`state-unusable`), `UsageError` (`key-file-exposed`), `MalformedError` (`key-file-malformed`).
    """
    private_directory(directory)
    master = private_file(directory / MASTER_KEY, lambda: secrets.token_bytes(32))
    if len(master) != 32:
        raise MalformedError(
            "key-file-malformed", f"{MASTER_KEY} is not a master key", expected="32 bytes", found=len(master)
        )
    return ServerKeys(
        master=master,
        owner=private_key(directory / OWNER_KEY),
        token=open_token_keys(directory, now),
        admin_token=_token(private_file(directory / ADMIN_TOKEN, lambda: secrets.token_urlsafe(32).encode())),
    )


def open_token_keys(directory: Path, now: datetime) -> TokenKeys:
    """The keys for tokens, made at `now` (aware) if they are not there. Raises as `open_keys`, and
    `token-keys-malformed`."""
    return decode_keys(private_file(directory / TOKEN_KEYS, lambda: generate_keys(now).encode()))


def keep_token_keys(directory: Path, keys: TokenKeys) -> None:
    """Replace the keys for tokens on the disk. Raises `HostError` (`state-unusable`)."""
    try:
        write_private(directory / TOKEN_KEYS, keys.encode())
    except OSError as error:
        raise _unusable(directory / TOKEN_KEYS, error) from error


def session_key(master: bytes) -> bytes:
    """The key that seals the cookies of handshakes (32 bytes), from the master key (RFC 5869, expand)."""
    return HKDFExpand(SHA256(), 32, b"kokon kbs session key").derive(master)


def private_directory(directory: Path) -> None:
    """Make `directory` if needed and close it to others (0700). Raises `HostError` (`state-unusable`)."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError as error:
        raise _unusable(directory, error) from error


def private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in `path` (PKCS#8 PEM), made if it is not there. Raises as `open_keys`."""
    pem = private_file(path, lambda: key_pem(ec.generate_private_key(ec.SECP256R1())))
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise MalformedError("key-file-malformed", f"{path.name} is not a private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise MalformedError("key-file-malformed", f"{path.name} is not a P-256 key")
    return key


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """`key` as unencrypted PKCS#8 PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of the key's SubjectPublicKeyInfo, in hexadecimal."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def private_file(path: Path, make: Callable[[], bytes]) -> bytes:
    """The content of `path`, first written with mode 0600 from `make()` if it does not exist.

    Raises `HostError` (`state-unusable`), `UsageError` (`key-file-exposed`), `MalformedError` (`key-file-malformed`).
    """
    try:
        if not path.exists():
            _write_first(path, make())
        mode = path.stat().st_mode
        data = path.read_bytes()
    except OSError as error:
        raise _unusable(path, error) from error
    if mode & 0o077:
        raise UsageError(
            "key-file-exposed",
            f"{path.name} can be read by others on this machine",
            expected="mode 0600",
            found=f"mode {mode & 0o777:04o}",
            hint="treat the key as known to others: replace it, or `chmod 600` it if you are sure that nobody read it",
        )
    if not 0 < len(data) <= KEY_FILE_LIMIT:
        raise MalformedError("key-file-malformed", f"{path.name} is empty or too large", found=len(data))
    return data


def write_private(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` by `data`, all or nothing even if the machine stops in between. Raises `OSError`."""
    _written(path, data, mode).replace(path)
    _sync_directory(path.parent)


def _write_first(path: Path, data: bytes) -> None:
    """Write `path` as `write_private` does, unless it is there by now: of two servers that start at once, both must
    go on with the key that stays."""
    temporary = _written(path, data, 0o600)
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(temporary)
    temporary.unlink()
    _sync_directory(path.parent)


def _written(path: Path, data: bytes, mode: int) -> Path:
    """A file beside `path` that holds `data` on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        os.fchmod(descriptor, mode)
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return temporary


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _token(data: bytes) -> str:
    text = data.decode("latin-1").strip()
    if not 32 <= len(text) <= 256 or not all(char.isascii() and (char.isalnum() or char in "-_") for char in text):
        raise MalformedError("key-file-malformed", f"{ADMIN_TOKEN} is not a token of this server")
    return text


def _unusable(path: Path, error: OSError) -> HostError:
    return HostError(
        "state-unusable",
        f"cannot use {path.name} in the server's state directory",
        found=error.strerror,
        hint="give the directory to the user that runs the server, with mode 0700",
    )
