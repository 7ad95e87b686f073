"""RA-TLS certificates as Gramine makes them: self-signed, with quotes about their own key. Pure.

Gramine, "Attestation and Secret Provisioning"; Confidential Computing Consortium, "Interoperable RA-TLS"; TCG "DICE
Attestation Architecture". Two forms, and a certificate may have both, then with two quotes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from kokon.testing.vendor.authority import spki
from kokon.testing.vendor.encoding import cbor, cbor_tag

Form = Literal["legacy", "dice", "both"]
LEGACY_OID: Final = "0.6.9.42.840.113741.1337.6"
"""How 1.2.840.113741.1337.6 reads after Gramine has encoded it twice."""
DICE_OID: Final = "2.23.133.5.4.9"
QUOTE_TAG: Final = 60000
HASHES: Final[dict[int, str]] = {1: "sha256", 7: "sha384", 8: "sha512"}
START: Final = datetime(2001, 1, 1, tzinfo=UTC)
END: Final = datetime(2030, 12, 31, 23, 59, 59, tzinfo=UTC)
"""Gramine's fixed dates."""


@dataclass(frozen=True, slots=True)
class RatlsOptions:
    """How a certificate is made. `hash` is IANA's number of the algorithm of "pubkey-hash" (1, 7, 8); `nonce` goes into
    the claims; `claims` adds further ones. `bound_key` puts another key's hash where this one's belongs, as somebody in
    the middle would have to. `wide` fills the upper half of REPORTDATA, where zeros belong."""

    form: Form = "both"
    hash: int = 1
    nonce: bytes | None = None
    claims: Mapping[str, bytes] = field(default_factory=dict, hash=False)
    with_key_hash: bool = True
    bound_key: bytes | None = None
    wide: bytes = bytes(32)
    not_before: datetime = START
    not_after: datetime = END

    def claims_bytes(self, key: ec.EllipticCurvePublicKey) -> bytes:
        """The claims that the DICE form's quote is about."""
        digest = hashlib.new(HASHES[self.hash], self.bound_key or spki(key)).digest()
        members: dict[str, object] = {"pubkey-hash": cbor([self.hash, digest])} if self.with_key_hash else {}
        members |= {"nonce": self.nonce} if self.nonce is not None else {}
        return cbor(members | dict(self.claims))

    def report_data(self, key: ec.EllipticCurvePublicKey, form: Literal["legacy", "dice"]) -> bytes:
        """What a quote's REPORTDATA must be, 64 bytes."""
        subject = self.claims_bytes(key) if form == "dice" else self.bound_key or spki(key)
        return hashlib.sha256(subject).digest() + self.wide


def ratls_certificate(
    key: ec.EllipticCurvePrivateKey, options: RatlsOptions, *, legacy: bytes | None, dice: bytes | None
) -> bytes:
    """The certificate in DER around one quote or both."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "GramineDevelopers"),
            x509.NameAttribute(NameOID.COMMON_NAME, "RATLS"),
        ]
    )
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(options.not_before).not_valid_after(options.not_after)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
    if legacy is not None:
        builder = _with(builder, LEGACY_OID, legacy)
    if dice is not None:
        tagged = cbor_tag(QUOTE_TAG, [dice, options.claims_bytes(key.public_key())])
        builder = _with(builder, DICE_OID, tagged)
    return builder.sign(key, SHA256(), ecdsa_deterministic=True).public_bytes(Encoding.DER)


def _with(builder: x509.CertificateBuilder, oid: str, value: bytes) -> x509.CertificateBuilder:
    return builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False)
