"""Making the guest's TLS certificate, whose form `kokon.channel.certificate` tells. Guest code.

DER (X.690) and CBOR (RFC 8949) of the one form are written by hand: importing general encoders of both costs an
emulated guest a third of a second.
"""

from __future__ import annotations

import hashlib
import os
from datetime import datetime
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kokon.errors import MalformedError
from kokon.tee.snp.certtable import encode_extended

if TYPE_CHECKING:
    from collections.abc import Callable

    from kokon.tee.evidence import Evidence

EVIDENCE_TAG = 60000
SHA384_ALGORITHM = 7
CERTIFICATE_LIMIT = 96 << 10
"""Bytes. OpenSSL refuses certificate messages above 100 KiB by default."""
NAME_LIMIT = 64
_INTEGER, _BITS, _OCTETS, _OID, _TEXT, _TIME, _SEQUENCE, _SET = 0x02, 0x03, 0x04, 0x06, 0x0C, 0x18, 0x30, 0x31
_UTC_TIME = 0x17
_NO_END = b"99991231235959Z"
_COMMON_NAME = bytes.fromhex("550403")  # 2.5.4.3
_BASIC_CONSTRAINTS = bytes.fromhex("551d13")  # 2.5.29.19
_EVIDENCE = bytes.fromhex("678105050409")  # 2.23.133.5.4.9
_ECDSA_SHA384 = bytes.fromhex("2a8648ce3d040303")  # 1.2.840.10045.4.3.3
_CBOR_BYTES, _CBOR_TEXT, _CBOR_ARRAY, _CBOR_MAP, _CBOR_TAG = 2, 3, 4, 5, 6


def spki_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """DER SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7) of a private key's public half."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_claims(spki: bytes) -> bytes:
    """The claims (CBOR) that name the key `spki`."""
    digest = _cbor(_CBOR_ARRAY, 2) + bytes([SHA384_ALGORITHM]) + _cbor_bytes(hashlib.sha384(spki).digest())
    return _cbor(_CBOR_MAP, 1) + _cbor(_CBOR_TEXT, 11) + b"pubkey-hash" + _cbor_bytes(digest)


def claims_report_data(claims: bytes) -> bytes:
    """The 64 bytes of REPORT_DATA that bind evidence to `claims`."""
    return hashlib.sha256(claims).digest() + bytes(32)


def make_certificate(
    key: ec.EllipticCurvePrivateKey,
    evidence_for: Callable[[bytes], Evidence],
    now: datetime,
    *,
    name: str = "kokon guest",
) -> bytes:
    """A self-signed certificate (DER) for `key` (P-384 or P-256) with evidence that is bound to it.

    `evidence_for` asks the hardware for evidence over 64 bytes of report data; `now` (UTC) is the start of validity.
    Raises `MalformedError` (`certificate-malformed`) if the curve is another one or the evidence is too large.
    """
    if not isinstance(key.curve, ec.SECP384R1 | ec.SECP256R1):
        raise MalformedError("certificate-malformed", "TLS key must be on P-384 or P-256", found=key.curve.name)
    spki = spki_of(key)
    claims = key_claims(spki)
    evidence = encode_extended(evidence_for(claims_report_data(claims)))
    value = _cbor(_CBOR_TAG, EVIDENCE_TAG) + _cbor(_CBOR_ARRAY, 2) + _cbor_bytes(evidence) + _cbor_bytes(claims)
    body = _body(spki, value, now, name[:NAME_LIMIT])
    signature = key.sign(body, ec.ECDSA(hashes.SHA384()))
    der = _der(_SEQUENCE, body, _algorithm(), _der(_BITS, b"\0", signature))
    if len(der) > CERTIFICATE_LIMIT:
        raise MalformedError("certificate-malformed", "evidence is too large for a certificate", found=len(der))
    return der


def _body(spki: bytes, evidence: bytes, now: datetime, name: str) -> bytes:
    """TBSCertificate (RFC 5280 section 4.1)."""
    serial = bytes([os.urandom(1)[0] & 0x3F | 0x40]) + os.urandom(15)  # positive, without a leading zero
    attribute = _der(_SEQUENCE, _der(_OID, _COMMON_NAME), _der(_TEXT, name.encode()))
    subject = _der(_SEQUENCE, _der(_SET, attribute))
    constraints = _der(_SEQUENCE, _der(_OID, _BASIC_CONSTRAINTS), b"\x01\x01\xff", _der(_OCTETS, _der(_SEQUENCE)))
    tagged = _der(_SEQUENCE, _der(_OID, _EVIDENCE), _der(_OCTETS, evidence))
    return _der(
        _SEQUENCE,
        _der(0xA0, _der(_INTEGER, b"\x02")),  # version 3
        _der(_INTEGER, serial),
        _algorithm(),
        subject,
        _der(_SEQUENCE, _time(now), _der(_TIME, _NO_END)),
        subject,
        spki,
        _der(0xA3, _der(_SEQUENCE, constraints, tagged)),
    )


def _algorithm() -> bytes:
    return _der(_SEQUENCE, _der(_OID, _ECDSA_SHA384))


def _time(now: datetime) -> bytes:
    """UTCTime up to 2049, then GeneralizedTime (RFC 5280 section 4.1.2.5)."""
    if 1950 <= now.year < 2050:
        return _der(_UTC_TIME, now.strftime("%y%m%d%H%M%SZ").encode())
    return _der(_TIME, now.strftime("%Y%m%d%H%M%SZ").encode())


def _der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size = len(body)
    if size < 0x80:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def _cbor(kind: int, number: int) -> bytes:
    """The head of a CBOR item in its shortest form (RFC 8949 section 3)."""
    if number < 24:
        return bytes([kind << 5 | number])
    for detail, size in ((24, 1), (25, 2)):
        if number < 1 << 8 * size:
            return bytes([kind << 5 | detail]) + number.to_bytes(size, "big")
    return bytes([kind << 5 | 26]) + number.to_bytes(4, "big")


def _cbor_bytes(data: bytes) -> bytes:
    return _cbor(_CBOR_BYTES, len(data)) + data
