"""TLS of the server: one context at a time, replaced while running when certificates of clients come or go.

TLS 1.3 by default; 1.2, with forward secrecy and authenticated encryption only, for old guests. The hybrid key exchange
X25519MLKEM768 is what OpenSSL 3.5 and later choose by themselves; with an older one (Debian 12 has 3.0) there is none,
and Python cannot add it: `kokon.provisioning.web.groups` tells what is the case.

A client may show a certificate. Then it must be one of the enrolled ones: OpenSSL takes only those for trusted, and
lets a handshake with any other fail. The client sees the connection end, in TLS 1.3 at its first read: neither asyncio
nor uvloop sends the alert that OpenSSL has made. The server counts `certificate-refused`. A client that shows none is
served. The handshake proves the client's key; **who the client is must be decided by the certificate's key**, which
`kokon.provisioning.web.connection` hands on: an enrolled certificate that may sign others would let those through the
handshake, so such a one is refused here already.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kokon.errors import MalformedError, UsageError

if TYPE_CHECKING:
    from kokon.provisioning.tls import TlsIdentity

CERTIFICATE_LIMIT = 16 << 10
"""Bytes of a client's certificate."""
ENROLLED_LIMIT = 10_000
"""Certificates that may be enrolled at once."""
CIPHERS_12 = "ECDHE+AESGCM:ECDHE+CHACHA20"


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """`old_guests` allows TLS 1.2 too."""

    old_guests: bool = False


class ServerTls:
    """The server's TLS: `context` is for the next connection.

    Everything may be called from any thread. Connections that are open keep what they began with, so whoever is no
    longer enrolled must be refused by the application too.
    """

    def __init__(self, identity: TlsIdentity, options: TlsOptions = TlsOptions()) -> None:
        self._identity = identity
        self._options = options
        self._enrolled: frozenset[bytes] = frozenset()
        self._context = server_context(identity, (), options)

    @property
    def context(self) -> ssl.SSLContext:
        """The context that is in force now."""
        return self._context

    def enroll(self, certificates: Iterable[bytes]) -> bool:
        """From now on accept exactly `certificates` (DER) from clients; False if that is so already.

        Raises as `server_context`; then all stays as it was.
        """
        wanted = frozenset(certificates)
        if wanted == self._enrolled:
            return False
        self._context = server_context(self._identity, wanted, self._options)
        self._enrolled = wanted
        return True

    def renew(self, identity: TlsIdentity) -> None:
        """Show another certificate from now on. Raises as `server_context`; then all stays as it was."""
        self._context = server_context(identity, self._enrolled, self._options)
        self._identity = identity


def server_context(
    identity: TlsIdentity,
    enrolled: Iterable[bytes] = (),
    options: TlsOptions = TlsOptions(),
) -> ssl.SSLContext:
    """A context for servers that asks for a certificate out of `enrolled` (DER) if there are any.

    No tickets: a resumed session would bring a certificate that nobody checks again. Raises `MalformedError`
    (`client-certificate-malformed`, `key-file-malformed`), `UsageError` (`client-certificate-authority`,
    `client-certificates-too-many`).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2 if options.old_guests else ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_ciphers(CIPHERS_12)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(identity.certificate_file, identity.key_file)
    except (OSError, ssl.SSLError) as error:
        raise MalformedError(
            "key-file-malformed", "the server's certificate and key cannot be used", found=type(error).__name__
        ) from error
    anchors = sorted(set(enrolled))
    if anchors:
        _trust(context, anchors)
    return context


def _trust(context: ssl.SSLContext, anchors: list[bytes]) -> None:
    if len(anchors) > ENROLLED_LIMIT:
        raise UsageError(
            "client-certificates-too-many",
            "too many certificates of clients",
            expected=f"<= {ENROLLED_LIMIT}",
            found=len(anchors),
        )
    pem = "".join(check_client_certificate(der).public_bytes(Encoding.PEM).decode() for der in anchors)
    context.load_verify_locations(cadata=pem)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN


def check_client_certificate(der: bytes) -> x509.Certificate:
    """The certificate `der` if it may be enrolled. One that may not be must not get as far as `enroll`, which then
    enrolls nobody: check it when somebody wants it kept.

    Raises `MalformedError` (`client-certificate-malformed`), `UsageError` (`client-certificate-authority`).
    """
    if len(der) > CERTIFICATE_LIMIT:
        raise MalformedError(
            "client-certificate-malformed",
            "a client's certificate is too large",
            expected=f"<= {CERTIFICATE_LIMIT} bytes",
            found=len(der),
        )
    try:
        certificate = x509.load_der_x509_certificate(der)
        signs = _may_sign(certificate)
        certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError("client-certificate-malformed", "a client's certificate is not X.509") from error
    if signs:
        raise UsageError(
            "client-certificate-authority",
            "a client's certificate must not be able to sign others",
            hint="make it with basicConstraints CA:FALSE",
        )
    return certificate


def key_digest(der: bytes) -> bytes | None:
    """SHA-256 of the SubjectPublicKeyInfo (RFC 5280) of a certificate; None if it has no key that is known here."""
    try:
        public = x509.load_der_x509_certificate(der).public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def _may_sign(certificate: x509.Certificate) -> bool:
    """Whether OpenSSL might take `certificate` for an issuer: unless it says that it is none."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return True
