"""Keys and certificate authorities of the fake vendor. Pure but for RSA keys, which the operating system makes.

Elliptic keys come from the seed: the same seed gives the same keys on every machine. RSA keys cannot be had that way
in reasonable time (RSA-4096 takes half a second even at random), so each is made once in a process when first needed,
and is another in the next process. All roots are called "Kokon simulated ...": no verifier believes them unless their
fingerprint is accepted.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, TypedDict

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

ROOT_PREFIX: Final = "Kokon simulated "
ORGANIZATION: Final = "Kokon simulation, no vendor"
P256: Final = ec.SECP256R1()
P384: Final = ec.SECP384R1()
PSS: Final = padding.PSS(mgf=padding.MGF1(SHA384()), salt_length=48)
"""How AMD signs certificates: RSA-PSS, SHA-384, 48 bytes of salt (AMD document 57230)."""

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

_rsa_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class KeyRing:
    """All keys and identifiers of one fake vendor. Two with the same seed are the same."""

    seed: bytes = field(repr=False)

    def data(self, label: str, size: int) -> bytes:
        """`size` bytes that depend on the seed and the label: SHAKE-256."""
        return hashlib.shake_256(len(self.seed).to_bytes(4, "big") + self.seed + label.encode()).digest(size)

    def elliptic(self, label: str, curve: ec.EllipticCurve = P256) -> ec.EllipticCurvePrivateKey:
        """The elliptic key of that label."""
        wide = int.from_bytes(self.data(f"{label} {curve.name}", 64), "big")
        return ec.derive_private_key(wide % (curve.group_order - 1) + 1, curve)

    def rsa(self, label: str, bits: int = 2048) -> rsa.RSAPrivateKey:
        """The RSA key of that label, made at first use in this process."""
        with _rsa_lock:
            return _rsa(self.seed, label, bits)


@lru_cache(maxsize=128)
def _rsa(_seed: bytes, _label: str, bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def spki(key: PublicKey) -> bytes:
    """DER SubjectPublicKeyInfo."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: PublicKey) -> str:
    """By what a root is pinned or accepted: SHA-256 of the SubjectPublicKeyInfo, lower-case hex."""
    return hashlib.sha256(spki(key)).hexdigest()


def point(key: ec.EllipticCurvePublicKey) -> bytes:
    """x and y, big-endian, without a prefix: 64 bytes for P-256, as Intel writes public keys."""
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def sign_raw(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """r and s, big-endian and as wide as the curve: SHA-256 on P-256, SHA-384 on P-384. Deterministic (RFC 6979)."""
    r, s = signature_scalars(key, data)
    size = key.curve.key_size // 8
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def signature_scalars(key: ec.EllipticCurvePrivateKey, data: bytes) -> tuple[int, int]:
    """r and s of a deterministic signature with the hash that belongs to the curve."""
    algorithm = ec.ECDSA(_elliptic_hash(key), deterministic_signing=True)
    return decode_dss_signature(key.sign(data, algorithm))


def _elliptic_hash(key: ec.EllipticCurvePrivateKey) -> SHA256 | SHA384:
    return SHA384() if key.curve.key_size > 256 else SHA256()


def name(common: str, organization: str = ORGANIZATION) -> x509.Name:
    """A subject: common name and organization."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
        ]
    )


@dataclass(frozen=True, slots=True)
class Span:
    """When something is valid: from `start` for `lifetime`."""

    start: datetime
    lifetime: timedelta

    @property
    def end(self) -> datetime:
        """The first moment at which it is not valid any more."""
        return self.start + self.lifetime


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority: its certificate in DER and the key that signs. `pss` for AMD's way of signing."""

    subject: x509.Name
    key: PrivateKey = field(repr=False)
    certificate: bytes = field(repr=False)
    pss: bool = False

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the SubjectPublicKeyInfo, lower-case hex."""
        return fingerprint(self.key.public_key())

    def issue(
        self,
        subject: x509.Name,
        public: PublicKey,
        span: Span,
        *,
        serial: int,
        extensions: Mapping[str, bytes] | None = None,
    ) -> bytes:
        """An end certificate in DER. `extensions` are raw values by dotted OID, none critical."""
        builder = _builder(subject, self.subject, public, span, serial)
        for oid, value in (extensions or {}).items():
            extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self.key, **_manner(self.key, self.pss)).public_bytes(Encoding.DER)

    def delegate(
        self, common: str, key: PrivateKey, span: Span, *, serial: int, path_length: int | None = 0, lists: bool = True
    ) -> Authority:
        """An authority below this one. `lists`: its key may sign revocation lists too."""
        subject = name(common)
        builder = _builder(subject, self.subject, key.public_key(), span, serial)
        builder = _authority(builder, path_length, lists)
        der = builder.sign(self.key, **_manner(self.key, self.pss)).public_bytes(Encoding.DER)
        return Authority(subject, key, der, pss=self.pss)

    def crl(self, revoked: Iterable[int], span: Span, *, number: int = 1) -> bytes:
        """A revocation list in DER with those serial numbers."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.subject)
            .last_update(span.start)
            .next_update(span.end)
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(_identifier(self.key.public_key()), critical=False)
        )
        for serial in sorted(revoked):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(span.start).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key, **_manner(self.key, self.pss)).public_bytes(Encoding.DER)


def make_root(
    common: str, key: PrivateKey, span: Span, *, serial: int, pss: bool = False, path_length: int | None = None
) -> Authority:
    """A self-signed root whose common name gets the prefix "Kokon simulated "."""
    subject = name(ROOT_PREFIX + common)
    builder = _authority(_builder(subject, subject, key.public_key(), span, serial), path_length, True)
    return Authority(subject, key, builder.sign(key, **_manner(key, pss)).public_bytes(Encoding.DER), pss)


def _identifier(key: PublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: PublicKey, span: Span, serial: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(span.start)
        .not_valid_after(span.end)
    )


def _authority(builder: x509.CertificateBuilder, path_length: int | None, lists: bool) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=lists,
        encipher_only=False,
        decipher_only=False,
    )
    constraints = x509.BasicConstraints(ca=True, path_length=path_length)
    return builder.add_extension(constraints, critical=True).add_extension(usage, critical=True)


class _Manner(TypedDict):
    algorithm: SHA256 | SHA384
    rsa_padding: padding.PSS | None
    ecdsa_deterministic: bool | None


def _manner(key: PrivateKey, pss: bool) -> _Manner:
    """How a key signs certificates and lists."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {"algorithm": _elliptic_hash(key), "rsa_padding": None, "ecdsa_deterministic": True}
    if pss:
        return {"algorithm": SHA384(), "rsa_padding": PSS, "ecdsa_deterministic": None}
    return {"algorithm": SHA256(), "rsa_padding": None, "ecdsa_deterministic": None}
