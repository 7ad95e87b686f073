"""RA-TLS certificates with anything in them, and a stand-in for the verification of Intel quotes."""

import hashlib
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from kokon.tee.cbor import Tag, write_cbor
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence, canonical_digest, failed, passed
from kokon.tee.ratls.certificate import DICE_OID, LEGACY_OIDS, TEE_QUOTE_TAG

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
START, END = datetime(2001, 1, 1, tzinfo=UTC), datetime(2030, 12, 31, 23, 59, 59, tzinfo=UTC)  # Gramine's
KEY = ec.generate_private_key(ec.SECP384R1())
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
ZEROS = bytes(32)


def spki(key: Key = KEY) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def quote(report_data: bytes, *, version: int = 3, tee: int = 0, enclave: int = 1) -> bytes:
    """A quote of which only what the stand-in looks at is there: header, MRENCLAVE, REPORTDATA. Nobody signed it."""
    header = struct.pack("<HHI", version, 2, tee).ljust(48, b"\7")
    body = bytes(64) + bytes([enclave]) * 32 + bytes(224) + report_data
    return header + body + bytes(100)


def stand_in(evidence: Evidence, endorsements: Endorsements, now: datetime) -> Claims:
    """Claims of a quote made by `quote`; enclave 99 has a failed check of its own."""
    del endorsements, now
    measurement, report_data = evidence.report[112:144], evidence.report[368:432]
    good = measurement[0] != 99
    check = passed("quote") if good else failed("quote", "test-broken")
    return Claims(
        tee=evidence.tee,
        simulated=False,
        root="ab",
        product="Test",
        measurement=measurement,
        host_data=b"",
        report_data=report_data,
        debug=measurement[0] == 66,
        migratable=False,
        vmpl=0,
        chip_id=b"",
        reported_tcb={},
        checks=(check,),
        details={"mr_enclave": measurement.hex()},
        canonical=canonical_digest(evidence.tee, evidence.report, b""),
    )


def key_claims(key: Key = KEY, algorithm: int = 1, **more: bytes) -> bytes:
    digest = hashlib.new({1: "sha256", 7: "sha384", 8: "sha512"}[algorithm], spki(key)).digest()
    return write_cbor({"pubkey-hash": write_cbor([algorithm, digest])} | more)


def bound(subject: bytes, upper: bytes = ZEROS) -> bytes:
    return hashlib.sha256(subject).digest() + upper


def dice(evidence: bytes, claims: bytes, tag: int = TEE_QUOTE_TAG) -> bytes:
    return write_cbor(Tag(tag, [evidence, claims]))


@dataclass(frozen=True)
class Maker:
    """A certificate; `extensions` are raw values by OID."""

    extensions: dict[str, bytes] = field(default_factory=dict)
    key: Key = KEY
    signer: Key | None = None
    issuer: str = "RATLS"
    start: datetime = START
    end: datetime = END
    critical: bool = False

    def make(self) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name("RATLS"))
            .issuer_name(name(self.issuer))
            .public_key(self.key.public_key())
            .serial_number(1)
            .not_valid_before(self.start)
            .not_valid_after(self.end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
        )
        for oid, value in self.extensions.items():
            raw = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
            builder = builder.add_extension(raw, critical=self.critical)
        return builder.sign(self.signer or self.key, SHA256()).public_bytes(Encoding.DER)


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def gramine(**changes: Any) -> Maker:
    """As Gramine makes it: both extensions. Any part may be given instead."""
    key = changes.get("key", KEY)
    claims = changes.pop("claims", key_claims(key))
    enclave = changes.pop("enclave", 1)
    legacy = changes.pop("legacy", quote(bound(spki(key)), enclave=enclave))
    value = changes.pop("dice", dice(quote(bound(claims), enclave=enclave), claims))
    found = {LEGACY_OIDS[0]: legacy, DICE_OID: value}
    return Maker({oid: content for oid, content in found.items() if content is not None}, **changes)


def element(tag: int, content: bytes) -> bytes:
    size = len(content)
    head = bytes([size]) if size < 0x80 else bytes([0x82]) + size.to_bytes(2, "big")
    return bytes([tag]) + head + content


def with_null_parameters(der: bytes, key: ec.EllipticCurvePrivateKey = KEY) -> bytes:
    """The certificate signed anew with NULL after its ECDSA algorithm, as older Gramine writes it."""
    plain, null = bytes.fromhex("300a06082a8648ce3d040302"), bytes.fromhex("300c06082a8648ce3d0403020500")
    body = x509.load_der_x509_certificate(der).tbs_certificate_bytes
    signed = element(0x30, body[4:].replace(plain, null, 1))
    signature = key.sign(signed, ec.ECDSA(SHA256()))
    return element(0x30, signed + null + element(0x03, b"\0" + signature))
