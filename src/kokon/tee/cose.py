"""COSE_Sign1 (RFC 9052 section 4.2): one payload under one signature. Pure.

What is verified are the bytes as they came: the protected header and the payload are byte strings inside the message
and go into the Sig_structure (section 4.4) unchanged, so that no re-encoding can make a difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

from kokon.errors import MalformedError
from kokon.tee.cbor import Tag, read_cbor, write_cbor

COSE_SIGN1_TAG: Final = 18
ALGORITHM: Final = 1
"""Header label of the algorithm (RFC 9052 section 3.1), as are the following."""
CRITICAL: Final = 2
CONTENT_TYPE: Final = 3

ES256: Final = -7
ES384: Final = -35
ES512: Final = -36
EDDSA: Final = -8
"""Algorithm identifiers (RFC 9053, section 2)."""

_ECDSA: Final[Mapping[int, tuple[type[ec.EllipticCurve], HashAlgorithm]]] = {
    ES256: (ec.SECP256R1, SHA256()),
    ES384: (ec.SECP384R1, SHA384()),
    ES512: (ec.SECP521R1, SHA512()),
}
_HEADER_LIMIT: Final = 16 << 10

Header = Mapping[int | str | bytes, Any]


@dataclass(frozen=True, slots=True)
class CoseSign1:
    """A message. `protected` and `payload` are the bytes that were received; `header` is the protected header read.

    `payload` is None if it is detached. `unprotected` is not signed: nothing in it may be believed.
    """

    protected: bytes
    header: Header
    unprotected: Header
    payload: bytes | None
    signature: bytes
    tagged: bool = False

    @property
    def algorithm(self) -> int | str | None:
        """The signed algorithm identifier, None if there is none."""
        value = self.header.get(ALGORITHM)
        return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def parse_sign1(data: bytes, *, limit: int, what: str = "the COSE message") -> CoseSign1:
    """A message, tagged 18 or not, of at most `limit` bytes, in the shortest encoding of everything unsigned.

    Raises `MalformedError` (`cbor-too-large`, `cbor-malformed`, `cose-malformed`).
    """
    value = read_cbor(data, limit=limit, what=what)
    message = sign1_from(value, what=what)
    if encode_sign1(message) != data:
        raise MalformedError("cose-malformed", f"{what} is not in its shortest form")
    return message


def sign1_from(value: Any, *, what: str = "the COSE message") -> CoseSign1:
    """The message in a CBOR item that has been read already. Raises `MalformedError` (`cose-malformed` and those of
    the protected header's CBOR)."""
    tagged = isinstance(value, Tag) and value.number == COSE_SIGN1_TAG
    items = value.value if tagged else value
    if not isinstance(items, list) or len(items) != 4:
        raise MalformedError("cose-malformed", f"{what} is no COSE_Sign1", expected="an array of four")
    protected, unprotected, payload, signature = items
    if not isinstance(protected, bytes) or not isinstance(signature, bytes):
        raise MalformedError("cose-malformed", f"{what} lacks a protected header or signature", expected="byte strings")
    if not isinstance(unprotected, dict) or not (payload is None or isinstance(payload, bytes)):
        raise MalformedError("cose-malformed", f"{what} has a header or payload of a wrong type")
    header = read_cbor(protected, limit=_HEADER_LIMIT, what="the protected header") if protected else {}
    if not isinstance(header, dict) or set(header) & set(unprotected):
        raise MalformedError("cose-malformed", f"{what} has a parameter twice, or its protected header is no map")
    if CRITICAL in header or CRITICAL in unprotected:
        raise MalformedError("cose-malformed", f"{what} demands that unknown parameters be understood", found="crit")
    return CoseSign1(protected, header, unprotected, payload, signature, tagged)


def encode_sign1(message: CoseSign1) -> bytes:
    """The message in its shortest form."""
    items = [message.protected, message.unprotected, message.payload, message.signature]
    return write_cbor(Tag(COSE_SIGN1_TAG, items) if message.tagged else items)


def sig_structure(protected: bytes, payload: bytes, external: bytes = b"") -> bytes:
    """What is signed: RFC 9052 section 4.4, context "Signature1". An empty protected header is the empty string."""
    return write_cbor(["Signature1", b"" if protected == b"\xa0" else protected, external, payload])


def verify_sign1(message: CoseSign1, key: PublicKeyTypes) -> bool:
    """True if `key` signed the message with the algorithm that its protected header names: ES256 with P-256, ES384
    with P-384, ES512 with P-521, EdDSA with Ed25519 or Ed448. A detached payload is never signed here."""
    if message.payload is None:
        return False
    signed = sig_structure(message.protected, message.payload)
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            return _verify_ecdsa(message, key, signed)
        if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey) and message.algorithm == EDDSA:
            key.verify(message.signature, signed)
            return True
    except InvalidSignature:
        return False
    return False


def _verify_ecdsa(message: CoseSign1, key: ec.EllipticCurvePublicKey, signed: bytes) -> bool:
    algorithm = message.algorithm
    if not isinstance(algorithm, int) or algorithm not in _ECDSA:
        return False
    curve, digest = _ECDSA[algorithm]
    half = (key.curve.key_size + 7) // 8
    if not isinstance(key.curve, curve) or len(message.signature) != 2 * half:
        return False
    r, s = (int.from_bytes(part, "big") for part in (message.signature[:half], message.signature[half:]))
    key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(digest))
    return True
