"""One quote: its signature, which PCRs it selects, and whether the PCR values given are those it was made over. Pure.

What verifiers get wrong here: PCR values are only hashed together, so a value's place in the list proves nothing unless
the *selection* in the signed quote says which PCRs, of which bank, were hashed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from kokon.errors import MalformedError
from kokon.tee.eventlog.log import ALGORITHMS
from kokon.tee.vtpm.tpm import NUMBERS, Attest, Public, Reader, Signature, parse_signature

Key = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
Banks = Mapping[str, Mapping[int, bytes]]
"""PCR values by bank and index."""

RSA_MINIMUM: Final = 2048
PCRS: Final = 32
PCRS_LIMIT: Final = 16 << 10
STRENGTH: Final = ("sha512", "sha384", "sha256", "sha1")
"""Banks that can be used, the strongest first."""
_SIGNED: Final[Mapping[str, HashAlgorithm]] = {"sha256": SHA256(), "sha384": SHA384(), "sha512": SHA512()}
_CURVES: Final = {"secp256r1": ec.SECP256R1(), "secp384r1": ec.SECP384R1(), "secp521r1": ec.SECP521R1()}


def read_signature(data: bytes, key: Key) -> Signature:
    """The signature in a part: a TPMT_SIGNATURE, or as many bytes as the RSA key has, which is RSASSA with SHA-256.

    Raises `MalformedError` (`tpm-malformed`).
    """
    if isinstance(key, rsa.RSAPublicKey) and len(data) == (key.key_size + 7) // 8:
        return Signature("rsassa", "sha256", rsa=data)
    return parse_signature(data)


def signed_by(key: Key, signature: Signature, message: bytes) -> bool:
    """True if `key` made the signature over `message` with SHA-256, SHA-384 or SHA-512."""
    algorithm = _SIGNED.get(signature.hash)
    if algorithm is None:
        return False
    try:
        if isinstance(key, rsa.RSAPublicKey):
            # PSS.AUTO: TPMs salt with as much as fits or as long as the digest, by version (Part 1, B.7).
            scheme = (
                padding.PKCS1v15()
                if signature.scheme == "rsassa"
                else padding.PSS(padding.MGF1(algorithm), padding.PSS.AUTO)
            )
            if signature.scheme == "ecdsa":
                return False
            key.verify(signature.rsa, message, scheme, algorithm)
        else:
            if signature.scheme != "ecdsa":
                return False
            key.verify(encode_dss_signature(signature.r, signature.s), message, ec.ECDSA(algorithm))
    except InvalidSignature:
        return False
    return True


def strong(key: Key) -> bool:
    """Whether a key is one that is accepted: RSA of at least 2048 bits, or on P-256, P-384 or P-521."""
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= RSA_MINIMUM
    return key.curve.name in _CURVES


@lru_cache(maxsize=256)
def load_key(spki: bytes) -> Key:
    """An RSA or ECC key from its DER SubjectPublicKeyInfo, which must be the only encoding of it.

    Raises `MalformedError` (`tpm-malformed`).
    """
    try:
        key = load_der_public_key(spki) if len(spki) <= 4096 else None
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedError("tpm-malformed", "the attestation key does not parse", found=error) from error
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey) or spki_of(key) != spki:
        raise MalformedError("tpm-malformed", "not an RSA or ECC key in DER", found=f"{len(spki)} bytes")
    return key


def spki_of(key: Key) -> bytes:
    """DER SubjectPublicKeyInfo of a key."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_of(public: Public) -> Key:
    """The key in a TPMT_PUBLIC. Raises `MalformedError` (`tpm-malformed`) for numbers that are none."""
    try:
        if public.curve:
            return ec.EllipticCurvePublicNumbers(public.x, public.y, _CURVES[public.curve]).public_key()
        return rsa.RSAPublicNumbers(public.exponent, public.modulus).public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError("tpm-malformed", "the attestation key's numbers are no key", found=error) from error


def pcr_digest(attest: Attest, banks: Banks, algorithm: str) -> bytes | None:
    """What the quote's digest must be for these PCR values: the selected ones, concatenated in the selection's order,
    hashed with the signature's `algorithm` (Part 3, 18.4). None if one of them was not given."""
    digest = hashlib.new(algorithm)
    for selection in attest.selections:
        values = banks.get(selection.bank, {})
        for index in selection.pcrs:
            if index not in values:
                return None
            digest.update(values[index])
    return digest.digest()


def parse_pcrs(data: bytes) -> dict[str, dict[int, bytes]]:
    """PCR values from the part "pcrs", by bank and index. Raises `MalformedError` (`tpm-malformed`)."""
    reader = Reader(data, "PCR values", limit=PCRS_LIMIT)
    banks: dict[str, dict[int, bytes]] = {}
    last = 0
    left = len(data)
    while left:
        number, count = reader.number(2), reader.number(1)
        if number not in ALGORITHMS or number <= last:
            reader.refuse("unknown bank, or out of order", f"above {last:#x}", f"{number:#x}")
        name, size = ALGORITHMS[number]
        last = number
        banks[name] = _values(reader, count, size)
        left -= 3 + count * (1 + size)
    return banks


def _values(reader: Reader, count: int, size: int) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    for _ in range(count):
        index = reader.number(1)
        if index >= PCRS or (values and index <= max(values)):
            reader.refuse("no such PCR, or out of order", f"ascending below {PCRS}", index)
        values[index] = reader.take(size)
    return values


def encode_pcrs(banks: Banks) -> bytes:
    """The part "pcrs" of PCR values. Banks without values are left out. Raises `MalformedError` (`tpm-malformed`) for
    values of a wrong size, an unknown bank or PCR."""
    out = bytearray()
    for number, name in sorted((NUMBERS.get(name, 0), name) for name in banks):
        values = banks[name]
        if not number or any(len(value) != ALGORITHMS[number][1] for value in values.values()) or len(values) > PCRS:
            raise MalformedError("tpm-malformed", "PCR values of a wrong size or an unknown bank", found=name)
        if values and not 0 <= min(values) <= max(values) < PCRS:
            raise MalformedError("tpm-malformed", "no such PCR", expected=f"0..{PCRS - 1}", found=max(values))
        if values:
            out += number.to_bytes(2, "big") + bytes([len(values)])
            out += b"".join(bytes([index]) + values[index] for index in sorted(values))
    return bytes(out)


def strongest(banks: Iterable[str]) -> str:
    """The strongest of some banks, "" if none of them can be used."""
    known = set(banks)
    return next((name for name in STRENGTH if name in known), "")
