"""X.509 certificates of chip vendors: parsing, and the signature of one by another. Pure.

Vendors' chains do not go through a general path validator: AMD signs with RSA-PSS, which some refuse, and gives VCEKs
the serial number 0; Intel's embedded chains come in any order; AWS's are only good for three hours. So paths are
checked here, by hand and with every reason (`path.py`), on certificates of which no unsigned bit can be changed.

Parsing and signature checks are remembered by the certificates' bytes: an endorsement is verified once, whatever the
number of reports that it is for.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ObjectIdentifier, SignatureAlgorithmOID

from kokon.errors import MalformedError

CERTIFICATE_LIMIT: Final = 16 << 10
REMEMBERED: Final = 1024
"""How many certificates and signatures are remembered."""

_SALT: Final = 48
_COMMON_NAME: Final = bytes.fromhex("0603550403")
"""Object identifier 2.5.4.3 in DER."""
_ECDSA: Final[Mapping[ObjectIdentifier, HashAlgorithm]] = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: SHA256(),
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: SHA384(),
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: SHA512(),
}
_PKCS1: Final[Mapping[ObjectIdentifier, HashAlgorithm]] = {
    SignatureAlgorithmOID.RSA_WITH_SHA256: SHA256(),
    SignatureAlgorithmOID.RSA_WITH_SHA384: SHA384(),
    SignatureAlgorithmOID.RSA_WITH_SHA512: SHA512(),
}
RSA_MINIMUM: Final = 2048
RSA_MAXIMUM: Final = 8192
EXPONENT_MAXIMUM: Final = 1 << 32
"""Beyond these a signature check takes long, and no vendor goes there."""

CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

# AMD's VCEKs carry serial number 0, and some makers of TPMs long names. A warning for each would hide real ones.
warnings.filterwarnings("ignore", message="Parsed a serial number", category=CryptographyDeprecationWarning)
warnings.filterwarnings("ignore", message="Attribute's length must be", category=UserWarning)


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """What is looked at of one certificate. `name` is the subject's common name or else the whole subject;
    `subject` and `issuer` are DER; `unknown` holds raw values of extensions by dotted OID that no check here reads.

    Two are equal if their bytes are.
    """

    der: bytes
    name: str
    subject: bytes
    issuer: bytes
    serial: int
    not_before: datetime
    not_after: datetime
    authority: bool
    path_length: int | None
    signs_lists: bool
    key: CertificatePublicKeyTypes
    spki: bytes
    algorithm: ObjectIdentifier
    signed: bytes
    signature: bytes
    unknown: Mapping[str, bytes]
    fingerprint: str
    """SHA-256 of the DER SubjectPublicKeyInfo, lower-case hex."""
    vouched: str = ""
    """The fingerprint of the key that is known to have signed this, for certificates that are part of this program
    (`snp.known`); empty for all others, whose signatures are checked."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Certificate) and self.der == other.der

    def __hash__(self) -> int:
        return hash(self.der)

    @property
    def self_issued(self) -> bool:
        """Subject and issuer are the same name."""
        return self.subject == self.issuer

    def issued(self, other: Certificate) -> bool:
        """True if `other` names this certificate as its issuer and this key signed it."""
        if other.issuer != self.subject:
            return False
        return other.vouched == self.fingerprint or _signed(self, other.algorithm, other.signature, other.signed)


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
        OverflowError,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
        UnsupportedAlgorithm,
    ) as error:
        raise MalformedError("certificate-malformed", "a certificate does not parse", found=error) from error


def verify_signature(
    key: CertificatePublicKeyTypes, algorithm: ObjectIdentifier, signature: bytes, signed: bytes
) -> bool:
    """True if `signature` over `signed` is by `key` with an X.509 signature `algorithm` that vendors use.

    These are ECDSA on P-256, P-384 and P-521, RSA PKCS #1 v1.5 with SHA-256 and above, and RSA-PSS as AMD does it:
    SHA-384, MGF1 with SHA-384, 48 bytes of salt (AMD document 57230). RSA keys have at least 2048 bits.
    """
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            if not isinstance(key.curve, CURVES) or algorithm not in _ECDSA:
                return False
            key.verify(signature, signed, ec.ECDSA(_ECDSA[algorithm]))
        elif isinstance(key, rsa.RSAPublicKey) and _plausible(key):
            if algorithm == SignatureAlgorithmOID.RSASSA_PSS:
                key.verify(signature, signed, padding.PSS(padding.MGF1(SHA384()), _SALT), SHA384())
            elif algorithm in _PKCS1:
                key.verify(signature, signed, padding.PKCS1v15(), _PKCS1[algorithm])
            else:
                return False
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _plausible(key: rsa.RSAPublicKey) -> bool:
    return RSA_MINIMUM <= key.key_size <= RSA_MAXIMUM and key.public_numbers().e < EXPONENT_MAXIMUM


@lru_cache(maxsize=REMEMBERED)
def _signed(issuer: Certificate, algorithm: ObjectIdentifier, signature: bytes, signed: bytes) -> bool:
    return verify_signature(issuer.key, algorithm, signature, signed)


def _element(der: bytes, start: int) -> tuple[int, int]:
    """Where the content of the DER element at `start` begins and ends; of DER that has been parsed before."""
    first = der[start + 1]
    content = start + 2 + (first & 0x7F if first > 0x7F else 0)
    size = int.from_bytes(der[start + 2 : content], "big") if first > 0x7F else first
    return content, content + size


def check_unsigned_parts(der: bytes, *, version: bool = True) -> None:
    """What stands outside the signature leaves no choice: the algorithm named there is the signed one (RFC 5280,
    4.1.1.2), and the signature is whole bytes. So no bit of a certificate can be changed without being noticed.

    `version` says that the signed part begins with a version before two further elements (certificates); in a
    revocation list the algorithm comes right after an untagged one. Raises `ValueError`.
    """
    signed, _end = _element(der, 0)
    first, end = _element(der, signed)
    _content, outer_end = _element(der, end)
    outer = der[end:outer_end]
    _content, inner = _element(der, first)
    if version:
        _content, inner = _element(der, inner)
    _content, inner_end = _element(der, inner)
    if der[inner:inner_end] != outer:
        raise ValueError("the signature algorithm outside differs from the signed one")
    signature, last = _element(der, outer_end)
    if der[signature] != 0 or last != len(der):
        raise ValueError("the signature is not whole bytes")


def _members(der: bytes, start: int, count: int) -> list[bytes]:
    """The `count` elements from `start` on, whole; of DER that has been parsed before."""
    found = []
    for _ in range(count):
        _content, end = _element(der, start)
        found.append(der[start:end])
        start = end
    return found


@lru_cache(maxsize=REMEMBERED)
def _parse(der: bytes) -> Certificate:
    certificate = x509.load_der_x509_certificate(der)
    check_unsigned_parts(der)
    signed, _end = _element(der, 0)
    first, end = _element(der, signed)
    # RFC 5280, 4.1: version, serial number, algorithm, issuer, validity, subject, key.
    _version, _serial, _algorithm, issuer, _validity, subject, spki = _members(der, first, 7)
    authority, path_length, signs, signs_lists = False, None, False, False
    unknown: dict[str, bytes] = {}
    for extension in certificate.extensions:
        value = extension.value
        kind = type(value)  # `isinstance` asks an abstract base class each time, which is slow
        if kind is x509.BasicConstraints:
            authority, path_length = value.ca, value.path_length
        elif kind is x509.KeyUsage:
            signs, signs_lists = value.key_cert_sign, value.crl_sign
        elif kind is x509.UnrecognizedExtension:
            if extension.critical:
                raise ValueError(f"critical extension {extension.oid.dotted_string} is unknown")
            unknown[extension.oid.dotted_string] = value.value
    return Certificate(
        der=der,
        name=_common_name(subject) or certificate.subject.rfc4514_string(),
        subject=subject,
        issuer=issuer,
        serial=certificate.serial_number,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        authority=authority and signs,
        path_length=path_length,
        signs_lists=signs_lists,
        key=certificate.public_key(),
        spki=spki,
        algorithm=certificate.signature_algorithm_oid,
        signed=der[signed:end],
        signature=certificate.signature,
        unknown=unknown,
        fingerprint=hashlib.sha256(spki).hexdigest(),
    )


def _common_name(subject: bytes) -> str | None:
    """The common name in a DER Name, if there is exactly one, as UTF-8 or Latin-1 (RFC 5280, 4.1.2.4)."""
    names = []
    position, end = _element(subject, 0)
    while position < end:
        attributes, position = _element(subject, position)
        attribute, _end = _element(subject, attributes)
        kind, value = _members(subject, attribute, 2)
        if kind == _COMMON_NAME:
            names.append(value[_element(value, 0)[0] :])
    if len(names) != 1:
        return None
    try:
        return names[0].decode()
    except UnicodeDecodeError:
        return names[0].decode("latin-1")
