"""Certificates of the simulated chain, shaped as AMD's: ARK signs ASK signs VCEK. Pure: keys and time are arguments.

RSA-4096 with RSA-PSS, SHA-384, salt 48; the VCEK is P-384 and has AMD's extensions (arc 1.3.6.1.4.1.3704.1, AMD
document 57230). The names say that this is a simulation, so nobody can take the chain for AMD's even without looking
at its key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from kokon.tee.snp.extensions import (
    BOOTLOADER,
    HARDWARE_ID,
    MICROCODE,
    PRODUCT_NAME,
    SNP,
    STRUCT_VERSION,
    TEE,
    encode_integer,
    encode_text,
)

ORGANIZATION: Final = "Kokon simulation, no chip vendor"
ROOT_PREFIX: Final = "Kokon simulated ARK "
AUTHORITY_LIFETIME: Final = timedelta(days=25 * 365)
CHIP_LIFETIME: Final = timedelta(days=7 * 365)
CLOCK_SKEW: Final = timedelta(days=1)
_PSS: Final = padding.PSS(mgf=padding.MGF1(SHA384()), salt_length=48)


def spki_fingerprint(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of the DER SubjectPublicKeyInfo, lower-case hex: the name by which a root is pinned or accepted."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
        ]
    )


def root_name(ark: rsa.RSAPublicKey) -> x509.Name:
    """Subject of the simulated root, with the first 8 hex digits of its fingerprint."""
    return _name(ROOT_PREFIX + spki_fingerprint(ark)[:8])


def _authority_name(ark: rsa.RSAPublicKey) -> x509.Name:
    return _name("Kokon simulated ASK " + spki_fingerprint(ark)[:8])


def _authority(builder: x509.CertificateBuilder, *, path_length: int | None, crl: bool) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=crl,
        encipher_only=False,
        decipher_only=False,
    )
    constraints = x509.BasicConstraints(ca=True, path_length=path_length)
    return builder.add_extension(constraints, critical=True).add_extension(usage, critical=True)


def _builder(
    subject: x509.Name, issuer: x509.Name, now: datetime, lifetime: timedelta, serial: int
) -> x509.CertificateBuilder:
    start = now.replace(microsecond=0) - CLOCK_SKEW
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(serial)
        .not_valid_before(start)
        .not_valid_after(start + lifetime)
    )


def make_ark(ark: rsa.RSAPrivateKey, now: datetime) -> x509.Certificate:
    """The self-signed simulated root, valid for 25 years."""
    name = root_name(ark.public_key())
    builder = _builder(name, name, now, AUTHORITY_LIFETIME, 1).public_key(ark.public_key())
    return _authority(builder, path_length=None, crl=True).sign(ark, SHA384(), rsa_padding=_PSS)


def make_ask(ark: rsa.RSAPrivateKey, ask: rsa.RSAPublicKey, now: datetime) -> x509.Certificate:
    """The intermediate, valid for 25 years."""
    public = ark.public_key()
    builder = _builder(_authority_name(public), root_name(public), now, AUTHORITY_LIFETIME, 2).public_key(ask)
    return _authority(builder, path_length=0, crl=False).sign(ark, SHA384(), rsa_padding=_PSS)


def make_vcek(
    ask: rsa.RSAPrivateKey,
    issuer: x509.Name,
    vcek: ec.EllipticCurvePublicKey,
    *,
    chip_id: bytes,
    tcb: Mapping[str, int],
    product: str,
    now: datetime,
) -> x509.Certificate:
    """The chip's certificate for one TCB, valid for 7 years. `issuer` is the ASK's subject."""
    builder = _builder(_name("SEV-VCEK"), issuer, now, CHIP_LIFETIME, 3).public_key(vcek)
    extensions = {
        STRUCT_VERSION: encode_integer(0),
        PRODUCT_NAME: encode_text(product),
        BOOTLOADER: encode_integer(tcb["bootloader"]),
        TEE: encode_integer(tcb["tee"]),
        SNP: encode_integer(tcb["snp"]),
        MICROCODE: encode_integer(tcb["microcode"]),
        HARDWARE_ID: chip_id,
    }
    for oid, value in extensions.items():
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False)
    return builder.sign(ask, SHA384(), rsa_padding=_PSS)
