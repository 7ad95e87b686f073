"""The simulated chip's keys on this machine: made once, kept in a directory that only its owner may read.

`ark.pem` is the public root certificate; it is written last, so that the keys are complete if it is there. Private
keys are PEM (PKCS#8), the chip secret is 32 raw bytes. A lock file lets any number of processors start at the same
time.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from kokon.errors import HostError, MalformedError
from kokon.tee.simulated.processor import PRODUCT, TCB, Processor, chip_id, current_tcb, vcek_key

ARK: Final = "ark.pem"
ASK: Final = "ask.pem"
ARK_KEY: Final = "ark-key.pem"
ASK_KEY: Final = "ask-key.pem"
CHIP: Final = "chip.key"
ROOT: Final = "ark.sha256"
LOCK: Final = ".lock"
FILE_LIMIT: Final = 16 << 10
SECRET_SIZE: Final = 32


def load_processor(directory: Path, now: datetime | None = None) -> Processor:
    """The processor whose keys are in `directory`; makes them at first use, which takes some seconds.

    Raises `HostError`: `processor-keys-exposed`, `processor-keys-broken`, `processor-keys-unwritable`.
    """
    moment = datetime.now(UTC) if now is None else now
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(directory)
        with _locked(directory):
            if not (directory / ARK).exists():
                _make_authorities(directory, moment)
            if not (directory / _vcek_name()).exists():
                _make_vcek(directory, moment)
    except OSError as error:
        raise HostError(
            "processor-keys-unwritable",
            f"the simulated processor's keys in {directory} cannot be made or read",
            found=error.strerror,
        ) from error
    certificates = tuple(_certificate(directory, name) for name in (_vcek_name(), ASK, ARK))
    return Processor(_secret(directory), certificates)


def fingerprint(directory: Path) -> str:
    """The root's fingerprint: SHA-256 of its SubjectPublicKeyInfo, lower-case hex. Makes the keys at first use.

    Raises `HostError` as `load_processor` does.
    """
    return root_fingerprint(load_processor(directory).certificates[-1])


def stored_fingerprint(directory: Path) -> str:
    """The root's fingerprint as noted when the keys were made. Raises `HostError` (`processor-keys-broken`)."""
    text = _read(directory, ROOT).decode("ascii", "replace").strip()
    if len(text) != 64:
        raise _broken(f"{ROOT} is not a fingerprint")
    return text


def are_made(directory: Path) -> bool:
    """True if the keys are complete, for the current TCB version too."""
    return (directory / ARK).exists() and (directory / _vcek_name()).exists()


def _vcek_name() -> str:
    return f"vcek-{current_tcb().hex()}.pem"


def root_fingerprint(certificate: bytes) -> str:
    """SHA-256 (hex) of the SubjectPublicKeyInfo in a DER certificate. Raises `HostError`
    (`processor-keys-broken`)."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except ValueError as error:
        raise _broken("a certificate does not parse") from error
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _broken(found: str) -> HostError:
    return HostError(
        "processor-keys-broken",
        "the simulated processor's keys are damaged",
        found=found,
        hint="remove the directory to get a new identity; evidence and sealed keys of the old one are then worthless",
    )


def _check_private(directory: Path) -> None:
    status = directory.stat()
    if status.st_mode & 0o077 or status.st_uid != os.geteuid():
        raise HostError(
            "processor-keys-exposed",
            f"others may read the simulated processor's keys in {directory}",
            expected="mode 0700, owned by this user",
            found=f"mode {status.st_mode & 0o7777:04o}",
            hint=f"chmod 700 {directory}",
        )


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(directory: Path, name: str, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = directory / f".{name}.new"
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / name)


def _make_authorities(directory: Path, now: datetime) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from kokon.tee.simulated.certificates import make_ark, make_ask

    ark, ask = (rsa.generate_private_key(65537, 4096) for _ in range(2))
    for name, key in ((ARK_KEY, ark), (ASK_KEY, ask)):
        _write(directory, name, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for old in directory.glob("vcek-*.pem"):
        old.unlink()
    _write(directory, CHIP, secrets.token_bytes(SECRET_SIZE))
    _write(directory, ASK, make_ask(ark, ask.public_key(), now).public_bytes(Encoding.PEM))
    root = make_ark(ark, now)
    _write(directory, ROOT, root_fingerprint(root.public_bytes(Encoding.DER)).encode() + b"\n")
    _write(directory, ARK, root.public_bytes(Encoding.PEM))


def _make_vcek(directory: Path, now: datetime) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

    from kokon.tee.simulated.certificates import make_vcek

    secret = _secret(directory)
    try:
        key = load_pem_private_key(_read(directory, ASK_KEY), None)
        issuer = x509.load_pem_x509_certificate(_read(directory, ASK)).subject
    except ValueError as error:
        raise _broken(f"{ASK_KEY} or {ASK} does not parse") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise _broken(f"{ASK_KEY} is not an RSA key")
    public = vcek_key(secret, current_tcb()).public_key()
    certificate = make_vcek(key, issuer, public, chip_id=chip_id(secret), tcb=TCB, product=PRODUCT, now=now)
    _write(directory, _vcek_name(), certificate.public_bytes(Encoding.PEM))


def _read(directory: Path, name: str) -> bytes:
    try:
        with (directory / name).open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise _broken(f"{name}: {error.strerror}") from error
    if not 0 < len(data) <= FILE_LIMIT:
        raise _broken(f"{name} has {len(data)} bytes")
    return data


def _secret(directory: Path) -> bytes:
    secret = _read(directory, CHIP)
    if len(secret) != SECRET_SIZE:
        raise _broken(f"{CHIP} has {len(secret)} bytes")
    return secret


def _certificate(directory: Path, name: str) -> bytes:
    """DER of a PEM file with one certificate; without the X.509 parser, which a running processor does not need."""
    try:
        return pem_to_der(_read(directory, name))
    except MalformedError as error:
        raise _broken(f"{name} is not a PEM certificate") from error


def pem_to_der(pem: bytes) -> bytes:
    """DER of exactly one PEM certificate (RFC 7468). Raises `MalformedError` (`pem-malformed`)."""
    lines = pem.strip().split(b"\n")
    if len(lines) < 3 or lines[0] != b"-----BEGIN CERTIFICATE-----" or lines[-1] != b"-----END CERTIFICATE-----":
        raise MalformedError("pem-malformed", "this is not one PEM certificate")
    try:
        return base64.b64decode(b"".join(lines[1:-1]), validate=True)
    except binascii.Error as error:
        raise MalformedError("pem-malformed", "this is not one PEM certificate") from error
