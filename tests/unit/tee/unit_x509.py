"""Small certificate authorities whose keys are at hand, for tests of paths and revocation."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from kokon.tee.certificates import Certificate, parse_certificate
from kokon.tee.revocation import RevocationList, parse_crl

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
YEAR = timedelta(days=365)


def name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def usage(*, sign: bool, crl: bool) -> x509.KeyUsage:
    rest = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(key_cert_sign=sign, crl_sign=crl, **rest)


@dataclass
class Authority:
    """One name and key; `parent` signs its certificate, itself if None."""

    common: str
    parent: "Authority | None" = None
    key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    ca: bool = True
    path_length: int | None = None
    signs: bool = True
    lists: bool = True
    start: datetime = NOW - YEAR
    end: datetime = NOW + YEAR
    serial: int = 7
    digest: HashAlgorithm = field(default_factory=SHA256)
    extra: tuple[tuple[x509.ExtensionType, bool], ...] = ()

    @property
    def der(self) -> bytes:
        signer = self.parent or self
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(self.common))
            .issuer_name(name(signer.common))
            .serial_number(self.serial)
            .not_valid_before(self.start)
            .not_valid_after(self.end)
            .public_key(self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=self.ca, path_length=self.path_length if self.ca else None), True)
            .add_extension(usage(sign=self.signs and self.ca, crl=self.lists), True)
        )
        for extension, critical in self.extra:
            builder = builder.add_extension(extension, critical)
        return builder.sign(signer.key, self.digest).public_bytes(Encoding.DER)

    @property
    def certificate(self) -> Certificate:
        return parse_certificate(self.der)

    def crl(
        self,
        *serials: int,
        start: datetime = NOW - timedelta(days=1),
        end: datetime | None = NOW + timedelta(days=1),
        signer: "Authority | None" = None,
        extra: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    ) -> RevocationList:
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(name(self.common))
            .last_update(start)
            .next_update(end or start + YEAR)
        )
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start).build()
            builder = builder.add_revoked_certificate(revoked)
        for extension, critical in extra:
            builder = builder.add_extension(extension, critical)
        return parse_crl(builder.sign((signer or self).key, SHA384()).public_bytes(Encoding.DER))
