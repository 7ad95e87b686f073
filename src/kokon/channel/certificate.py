"""The guest's TLS certificate: self-signed, and carrying evidence about the enclave that made its key.

The extension is TCG DICE tagged evidence, OID 2.23.133.5.4.9, as RA-TLS uses it (Interoperable RA-TLS, CCC): CBOR
tag 60000 over an array of two byte strings, the evidence and the claims. The evidence is an SEV-SNP extended report
(report, then the GHCB certificate table); the claims are a CBOR map whose `pubkey-hash` holds the CBOR array [7,
SHA-384 of the DER SubjectPublicKeyInfo] (7 is SHA-384 in IANA's named information hash registry). REPORT_DATA is
SHA-256 of the claims' exact bytes, followed by 32 zero bytes.

So the hardware vouches for the key. The certificate's own dates and names vouch for nothing and are not looked at:
it never expires (RFC 5280 section 4.1.2.5), since freshness comes from a nonce (`kokon.channel.protocol`) and not
from a clock that the host controls.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cbor2
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kokon.channel.mint import CERTIFICATE_LIMIT, EVIDENCE_TAG, SHA384_ALGORITHM, claims_report_data
from kokon.errors import MalformedError, UntrustedError
from kokon.tee.snp.certtable import decode_extended

if TYPE_CHECKING:
    from kokon.tee.evidence import Evidence

EVIDENCE_OID = x509.ObjectIdentifier("2.23.133.5.4.9")
"""TCG DICE Attestation Architecture 1.1, section 6: id-tcg-dice-TaggedEvidence."""
CLAIMS_LIMIT = 1024


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What a guest's certificate says: DER SubjectPublicKeyInfo, and evidence that is bound to it by hash.

    The binding was checked; the evidence itself (signature, chain, measurement) was not.
    """

    spki: bytes
    evidence: Evidence
    report_data: bytes

    @property
    def key_digest(self) -> bytes:
        """SHA-384 of the SubjectPublicKeyInfo, 48 bytes."""
        return hashlib.sha384(self.spki).digest()


def read_certificate(der: bytes) -> PeerCertificate:
    """The key and evidence in a guest's certificate (DER, at most 96 KiB), once the one is bound to the other.

    Raises `MalformedError` (`certificate-malformed`, `certificate-without-evidence` and what the evidence raises) and
    `UntrustedError` (`certificate-key-mismatch`: the evidence speaks of another key).
    """
    certificate = _load(der)
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    evidence_bytes, claims = _tagged_evidence(_extension(certificate))
    evidence = decode_extended(evidence_bytes)
    report_data = evidence_report_data(evidence)
    if not hmac.compare_digest(_claimed_key(claims), hashlib.sha384(spki).digest()):
        raise UntrustedError(
            "certificate-key-mismatch",
            "the certificate's claims name another TLS key",
            expected=hashlib.sha384(spki).hexdigest(),
            found=_claimed_key(claims).hex(),
            hint="somebody stands between you and the guest: do not send anything",
        )
    if not hmac.compare_digest(report_data, claims_report_data(claims)):
        raise UntrustedError(
            "certificate-key-mismatch",
            "the certificate's evidence was made for another TLS key",
            expected=claims_report_data(claims).hex(),
            found=report_data.hex(),
            hint="somebody stands between you and the guest: do not send anything",
        )
    return PeerCertificate(spki, evidence, report_data)


def evidence_report_data(evidence: Evidence) -> bytes:
    """REPORT_DATA inside `evidence`, not verified. Raises `MalformedError` as the parser of reports does."""
    from kokon.tee.snp.report import parse_report

    return parse_report(evidence.report).report_data


def _load(der: bytes) -> x509.Certificate:
    if len(der) > CERTIFICATE_LIMIT:
        raise MalformedError(
            "certificate-malformed",
            "certificate is too large",
            expected=f"<= {CERTIFICATE_LIMIT} bytes",
            found=len(der),
        )
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        curve = key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else "no elliptic curve"
        if curve not in ("secp384r1", "secp256r1"):
            raise MalformedError("certificate-malformed", "TLS key must be on P-384 or P-256", found=curve)
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise MalformedError("certificate-malformed", "not a self-signed certificate", found=error) from error
    return certificate


def _extension(certificate: x509.Certificate) -> bytes:
    try:
        extension = certificate.extensions.get_extension_for_oid(EVIDENCE_OID)
    except x509.ExtensionNotFound as error:
        raise MalformedError(
            "certificate-without-evidence",
            "the peer's certificate carries no evidence",
            expected=f"extension {EVIDENCE_OID.dotted_string}",
            hint="the other end is an ordinary TLS server: check the address",
        ) from error
    except (ValueError, x509.DuplicateExtension) as error:
        raise MalformedError("certificate-malformed", "certificate extensions are malformed", found=error) from error
    if not isinstance(extension.value, x509.UnrecognizedExtension):
        raise MalformedError("certificate-malformed", "evidence extension has an unexpected type")
    return extension.value.value


def _tagged_evidence(value: bytes) -> tuple[bytes, bytes]:
    tagged = _cbor(value, CERTIFICATE_LIMIT)
    if not isinstance(tagged, cbor2.CBORTag) or tagged.tag != EVIDENCE_TAG:
        raise MalformedError("certificate-malformed", f"evidence lacks CBOR tag {EVIDENCE_TAG}")
    pair = tagged.value
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(part, bytes) for part in pair):
        raise MalformedError("certificate-malformed", "tagged evidence must be two byte strings")
    evidence, claims = pair
    return evidence, claims


def _claimed_key(claims: bytes) -> bytes:
    """The SHA-384 of a key that `claims` names; other claims are refused."""
    members = _cbor(claims, CLAIMS_LIMIT)
    if not isinstance(members, dict) or set(members) != {"pubkey-hash"}:
        raise MalformedError("certificate-malformed", "claims must be exactly pubkey-hash")
    wrapped = members["pubkey-hash"]
    digest = _cbor(wrapped, CLAIMS_LIMIT) if isinstance(wrapped, bytes) else None
    if not isinstance(digest, list) or len(digest) != 2 or digest[0] != SHA384_ALGORITHM:
        raise MalformedError("certificate-malformed", "pubkey-hash must be a SHA-384 digest")
    if not isinstance(digest[1], bytes) or len(digest[1]) != 48:
        raise MalformedError("certificate-malformed", "pubkey-hash must be a SHA-384 digest")
    return digest[1]


def _cbor(data: bytes, limit: int) -> object:
    """One CBOR item (RFC 8949) in its shortest form and nothing after it."""
    if len(data) > limit:
        raise MalformedError("certificate-malformed", "CBOR is too large", found=len(data))
    try:
        value: object = cbor2.loads(
            data, allow_indefinite=False, allow_duplicate_keys=False, strict_hashable_types=True, max_depth=8
        )
        exact = cbor2.dumps(value) == data
    except cbor2.CBORError as error:
        raise MalformedError("certificate-malformed", "evidence extension is not CBOR", found=error) from error
    if not exact:
        raise MalformedError("certificate-malformed", "CBOR is not in its shortest form, or has trailing bytes")
    return value
