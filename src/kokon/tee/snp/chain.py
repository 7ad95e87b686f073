"""The certificates behind an SNP report: parsing and the signature of one by another.

AMD's chain cannot go through a general X.509 path validator: RSA-PSS is refused by some and VCEKs have serial number
0. So the three certificates are checked by hand, which is short since the chain has no choices in it.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

from kokon.errors import MalformedError
from kokon.tee.snp.amd import certificates as amd_certificates

CERTIFICATE_LIMIT: Final = 16 << 10
CHAIN_LENGTH: Final = 3
RSA_BITS: Final = 4096
_PSS: Final = padding.PSS(mgf=padding.MGF1(SHA384()), salt_length=48)

# AMD's VCEKs carry serial number 0. A warning for each would hide real ones.
warnings.filterwarnings("ignore", message="Parsed a serial number", category=CryptographyDeprecationWarning)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is looked at of one certificate. `name` is the subject's common name, `extensions` raw values by dotted
    OID."""

    der: bytes
    name: str
    subject: bytes
    issuer: bytes
    not_before: datetime
    not_after: datetime
    authority: bool
    path_length: int | None
    key: CertificatePublicKeyTypes
    signed: bytes
    signature: bytes
    extensions: Mapping[str, bytes]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the DER SubjectPublicKeyInfo, lower-case hex."""
        spki = self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(spki).hexdigest()

    @property
    def self_issued(self) -> bool:
        """Subject and issuer are the same name."""
        return self.subject == self.issuer

    def issued(self, other: Certificate) -> bool:
        """True if `other` names this certificate as its issuer and this key signed it (RSA-4096, PSS, SHA-384, salt
        48)."""
        if other.issuer != self.subject or not isinstance(self.key, rsa.RSAPublicKey):
            return False
        if self.key.key_size != RSA_BITS:
            return False
        try:
            self.key.verify(other.signature, other.signed, _PSS, SHA384())
        except InvalidSignature:
            return False
        return True


def parse_certificate(der: bytes) -> Certificate:
    """One DER certificate of at most 16 KiB. Raises `MalformedError` (`certificate-malformed`)."""
    if len(der) > CERTIFICATE_LIMIT:
        raise MalformedError(
            "certificate-malformed", "a certificate is too large", expected=f"<= {CERTIFICATE_LIMIT}", found=len(der)
        )
    try:
        return _parse(der)
    except (
        ValueError,
        TypeError,
        IndexError,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
        UnsupportedAlgorithm,
    ) as error:
        raise MalformedError("certificate-malformed", "a certificate does not parse", found=error) from error


def _element(der: bytes, start: int) -> tuple[int, int]:
    """Where the content of the DER element at `start` begins and ends; of DER that has been parsed before."""
    first = der[start + 1]
    content = start + 2 + (first & 0x7F if first > 0x7F else 0)
    size = int.from_bytes(der[start + 2 : content], "big") if first > 0x7F else first
    return content, content + size


def _check_unsigned_parts(der: bytes) -> None:
    """What stands outside the signature leaves no choice: the algorithm named there is the signed one (RFC 5280,
    4.1.1.2), and the signature is whole bytes. So no bit of a certificate can be changed without being noticed.
    """
    signed, _end = _element(der, 0)
    version, end = _element(der, signed)
    _content, outer_end = _element(der, end)
    outer = der[end:outer_end]
    _content, version_end = _element(der, version)
    _content, inner = _element(der, version_end)
    _content, inner_end = _element(der, inner)
    if der[inner:inner_end] != outer:
        raise ValueError("the signature algorithm outside differs from the signed one")
    signature, _end = _element(der, outer_end)
    if der[signature] != 0:
        raise ValueError("the signature is not whole bytes")


def _parse(der: bytes) -> Certificate:
    certificate = x509.load_der_x509_certificate(der)
    _check_unsigned_parts(der)
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1:
        raise ValueError("the subject needs exactly one common name")
    authority, path_length, signs = False, None, False
    unknown: dict[str, bytes] = {}
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints):
            authority, path_length = value.ca, value.path_length
        elif isinstance(value, x509.KeyUsage):
            signs = value.key_cert_sign
        elif isinstance(value, x509.UnrecognizedExtension):
            if extension.critical:
                raise ValueError(f"critical extension {extension.oid.dotted_string} is unknown")
            unknown[extension.oid.dotted_string] = value.value
    return Certificate(
        der=der,
        name=str(names[0].value),
        subject=certificate.subject.public_bytes(),
        issuer=certificate.issuer.public_bytes(),
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        authority=authority and signs,
        path_length=path_length,
        key=certificate.public_key(),
        signed=certificate.tbs_certificate_bytes,
        signature=certificate.signature,
        extensions=unknown,
    )


@cache
def _known() -> Mapping[bytes, Certificate]:
    return {known.subject: known for known in map(parse_certificate, amd_certificates())}


def complete_chain(certificates: tuple[bytes, ...]) -> tuple[Certificate, ...]:
    """The chain, leaf first, with what is missing at its end added from AMD's certificates that we know by name.

    Raises `MalformedError` (`certificate-malformed`, `certificate-count`).
    """
    if len(certificates) > CHAIN_LENGTH:
        raise MalformedError("certificate-count", "an SNP chain has three certificates", found=len(certificates))
    chain = [parse_certificate(der) for der in certificates]
    while chain and len(chain) < CHAIN_LENGTH and not chain[-1].self_issued:
        following = _known().get(chain[-1].issuer)
        if following is None:
            break
        chain.append(following)
    return tuple(chain)
