"""The server's TLS identity: a self-signed P-256 certificate made at first start, pinned by launch documents."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kokon.errors import MalformedError, StaleError, UsageError
from kokon.provisioning.keys import KEY_FILE_LIMIT, private_file, private_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec

TLS_KEY = "tls-key.pem"
TLS_CERTIFICATE = "tls.pem"
LOOPBACK = ("127.0.0.1", "localhost")
LIFETIME = timedelta(days=3650)
"""Long, since every launch document pins the certificate: a new one means that every workload is admitted anew."""
SKEW = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """Where key and certificate are, and the certificate as PEM text."""

    key_file: Path = field(repr=False)
    certificate_file: Path
    certificate: str


def open_tls(directory: Path, names: Sequence[str], now: datetime) -> TlsIdentity:
    """The TLS identity in `directory`, made for the loopback names and `names` if it is not there.

    Raises as `kokon.provisioning.keys.open_keys`, and `UsageError` (`tls-name-missing`) if an existing certificate
    lacks one of `names`, `StaleError` (`tls-expired`).
    """
    key = private_key(directory / TLS_KEY)
    path = directory / TLS_CERTIFICATE
    wanted = tuple(dict.fromkeys((*LOOPBACK, *names)))
    pem = private_file(path, lambda: make_certificate(key, wanted, now))
    certificate = _load(pem, path)
    if certificate.public_key() != key.public_key():
        raise MalformedError("key-file-malformed", f"{TLS_CERTIFICATE} does not belong to {TLS_KEY}")
    _check(certificate, wanted, now)
    return TlsIdentity(directory / TLS_KEY, path, pem.decode())


def make_certificate(key: ec.EllipticCurvePrivateKey, names: Sequence[str], now: datetime) -> bytes:
    """A self-signed server certificate (RFC 5280) for DNS names and IP addresses, as PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Kokon provisioning server")])
    public = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def server_context(identity: TlsIdentity) -> ssl.SSLContext:
    """TLS 1.3, and 1.2 for guests that have nothing newer; no tickets kept, no compression."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.load_cert_chain(identity.certificate_file, identity.key_file)
    return context


def client_context(certificate: str) -> ssl.SSLContext:
    """For clients: trusts exactly `certificate` (PEM), nothing of the system's.

    Raises `MalformedError` (`certificate-malformed`).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=certificate)
    except (ssl.SSLError, ValueError) as error:
        raise MalformedError("certificate-malformed", "the server's certificate is not a PEM certificate") from error
    return context


def _load(pem: bytes, path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem[:KEY_FILE_LIMIT])
    except ValueError as error:
        raise MalformedError("key-file-malformed", f"{path.name} is not a certificate") from error


def _check(certificate: x509.Certificate, wanted: Sequence[str], now: datetime) -> None:
    if now >= certificate.not_valid_after_utc:
        raise StaleError(
            "tls-expired",
            "the server's TLS certificate has expired",
            expected=f"before {certificate.not_valid_after_utc.isoformat()}",
            found=now.isoformat(timespec="seconds"),
            hint=f"remove {TLS_CERTIFICATE}, start again, and admit every workload anew",
        )
    present = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    missing = [name for name in wanted if _general_name(name) not in present]
    if missing:
        raise UsageError(
            "tls-name-missing",
            "the server's TLS certificate was made for other names",
            expected=", ".join(missing),
            found=", ".join(str(name.value) for name in present),
            hint=f"remove {TLS_CERTIFICATE} to get a new one; launch documents pin it, so admit every workload anew",
        )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise UsageError("tls-name-malformed", "not a DNS name or an IP address", found=repr(name)) from error
