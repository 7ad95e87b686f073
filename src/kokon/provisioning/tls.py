"""The server's TLS identity: a self-signed P-256 certificate made at first start, pinned by launch documents.

The key never lies in a file: OpenSSL reads it out of memory that has no name.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import ssl
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kokon.errors import MalformedError, StaleError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cryptography.hazmat.primitives.asymmetric import ec

LOOPBACK = ("127.0.0.1", "localhost")
LIFETIME = timedelta(days=3650)
"""Long, since every launch document pins the certificate: a new one means that every workload is admitted anew."""
SKEW = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """Where OpenSSL finds key and certificate, and the certificate as PEM text."""

    key_file: Path = field(repr=False)
    certificate_file: Path
    certificate: str


@contextlib.contextmanager
def tls_identity(key: bytes, certificate: str) -> Iterator[TlsIdentity]:
    """The identity of a private key (PEM) and its certificate (PEM), for OpenSSL, which reads files only: both lie in
    anonymous memory of this process while the context lasts."""
    descriptors = [_in_memory(data) for data in (key, certificate.encode())]
    try:
        paths = [Path(f"/proc/self/fd/{descriptor}") for descriptor in descriptors]
        yield TlsIdentity(paths[0], paths[1], certificate)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _in_memory(data: bytes) -> int:
    descriptor = os.memfd_create("kokon", os.MFD_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, data)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def make_certificate(key: ec.EllipticCurvePrivateKey, names: Sequence[str], now: datetime) -> bytes:
    """A self-signed server certificate (RFC 5280) for the loopback names and `names`, DNS names and IP addresses, as
    PEM. Raises `UsageError` (`tls-name-malformed`)."""
    names = tuple(dict.fromkeys((*LOOPBACK, *names)))
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


def check_certificate(pem: bytes, key: object, names: Sequence[str], now: datetime) -> None:
    """Check that a certificate (PEM) is for the public key `key`, the loopback names and `names`, and good at `now`.

    Raises `UsageError` (`tls-name-missing`, `tls-name-malformed`), `StaleError` (`tls-expired`), `MalformedError`
    (`certificate-malformed`).
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise MalformedError("certificate-malformed", "the server's certificate is not a PEM certificate") from error
    if certificate.public_key() != key:
        raise MalformedError("certificate-malformed", "the server's certificate is not one for its key")
    hint = "start once with --new-certificate; launch documents pin it, so admit every workload anew"
    if now >= certificate.not_valid_after_utc:
        raise StaleError(
            "tls-expired",
            "the server's TLS certificate has expired",
            expected=f"before {certificate.not_valid_after_utc.isoformat()}",
            found=now.isoformat(timespec="seconds"),
            hint=hint,
        )
    present = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    missing = [name for name in (*LOOPBACK, *names) if _general_name(name) not in present]
    if missing:
        raise UsageError(
            "tls-name-missing",
            "the server's TLS certificate was made for other names",
            expected=", ".join(missing),
            found=", ".join(str(name.value) for name in present),
            hint=hint,
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
