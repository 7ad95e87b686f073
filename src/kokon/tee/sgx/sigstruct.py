"""SIGSTRUCT, the enclave's certificate: reading, checking, making and signing it, in one step or in two. Pure.

Intel SDM volume 3D, "Enclave Signature Structure (SIGSTRUCT)": 1808 bytes, little-endian. The signature is RSA-3072
with exponent 3, PKCS#1 v1.5 and SHA-256, over bytes 0 to 127 and 900 to 1027. Q1 and Q2 only save the processor
divisions; EINIT refuses wrong ones.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from kokon.errors import MalformedError, UntrustedError
from kokon.wire import check_size

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

SIZE: Final = 1808
KEY_SIZE: Final = 384
EXPONENT: Final = 3

DEBUG: Final = 1 << 1
MODE_64: Final = 1 << 2
KSS: Final = 1 << 7
"""Attribute flags (SDM 3D, "ATTRIBUTES"): debuggable, 64-bit, key separation and sharing."""
XFRM_LEGACY: Final = 3
"""x87 and SSE, which every enclave has."""

_HEADER: Final = bytes.fromhex("06000000e10000000000010000000000")
_HEADER2: Final = bytes.fromhex("01010000600000006000000001000000")
_VENDORS: Final = (0, 0x8086)
_SIGNED: Final = ((0, 128), (900, 1028))
_RESERVED: Final = ((44, 128), (908, 912), (992, 1008), (1028, 1040))
_FRONT = struct.Struct("<16sII16sI")
_BODY = struct.Struct("<II4x16sQQQQ32s16x16sHH")
_RSA_MODULUS_BITS: Final = KEY_SIZE * 8


@dataclass(frozen=True, slots=True)
class Sigstruct:
    """What the signer vouches for, and the signature; `modulus` and `signature` are 0 while unsigned.

    `vendor` is 0 or 0x8086 (Intel's own enclaves). A bit of `flags`, `xfrm` or `miscselect` must hold in the enclave if
    its bit in the mask is set. `family_id` and `extended_product_id` (16 bytes) count only with KSS.
    """

    mrenclave: bytes
    date: date
    product_id: int = 0
    security_version: int = 0
    flags: int = MODE_64
    xfrm: int = XFRM_LEGACY
    flags_mask: int = 0xFFFF_FFFF_FFFF_FFFF
    xfrm_mask: int = 0xFFFF_FFFF_FFFF_FFFF
    miscselect: int = 0
    miscselect_mask: int = 0xFFFF_FFFF
    family_id: bytes = bytes(16)
    extended_product_id: bytes = bytes(16)
    vendor: int = 0
    software_defined: int = 0
    modulus: int = 0
    signature: int = 0
    q1: int = 0
    q2: int = 0

    @property
    def debug(self) -> bool:
        """Whether it admits an enclave that can be debugged: the flag is set, or free because its mask is not."""
        return bool(self.flags & DEBUG) or not self.flags_mask & DEBUG

    @property
    def mrsigner(self) -> bytes:
        """SHA-256 of the modulus as it stands in the structure, 32 bytes."""
        return mrsigner(self.modulus)


def mrsigner(modulus: int) -> bytes:
    """MRSIGNER of a key: SHA-256 of the modulus as 384 bytes, little-endian."""
    return hashlib.sha256(modulus.to_bytes(KEY_SIZE, "little")).digest()


def _broken(message: str, found: object = None) -> MalformedError:
    return MalformedError("sigstruct-malformed", message, found=found)


def _from_bcd(word: int) -> date:
    digits = f"{word:08x}"
    if not digits.isdecimal():
        raise _broken("the date of the SIGSTRUCT is not binary coded decimal", digits)
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError as error:
        raise _broken("the date of the SIGSTRUCT does not exist", digits) from error


def _number(data: bytes, start: int) -> int:
    return int.from_bytes(data[start : start + KEY_SIZE], "little")


def parse_sigstruct(data: bytes) -> Sigstruct:
    """The structure in 1808 bytes, signed or not; nothing is verified.

    Raises `MalformedError` (`size-mismatch`, `sigstruct-malformed`: wrong headers, reserved bytes that are not zero,
    an exponent that is not 3).
    """
    check_size(data, SIZE, "the SIGSTRUCT")
    header, vendor, when, header2, defined = _FRONT.unpack_from(data, 0)
    if header != _HEADER or header2 != _HEADER2 or vendor not in _VENDORS:
        raise _broken("the SIGSTRUCT has a wrong header", (header + header2).hex())
    for start, end in _RESERVED:
        if any(data[start:end]):
            raise _broken("reserved bytes of the SIGSTRUCT are not zero", f"{start} to {end - 1}")
    modulus, signature = _number(data, 128), _number(data, 516)
    (exponent,) = struct.unpack_from("<I", data, 512)
    if exponent != (EXPONENT if modulus or signature else 0) and exponent != EXPONENT:
        raise _broken("the SIGSTRUCT's exponent is not 3", exponent)
    misc, misc_mask, family, flags, xfrm, flags_mask, xfrm_mask, enclave, extended, product, svn = _BODY.unpack_from(
        data, 900
    )
    return Sigstruct(
        mrenclave=enclave,
        date=_from_bcd(when),
        product_id=product,
        security_version=svn,
        flags=flags,
        xfrm=xfrm,
        flags_mask=flags_mask,
        xfrm_mask=xfrm_mask,
        miscselect=misc,
        miscselect_mask=misc_mask,
        family_id=family,
        extended_product_id=extended,
        vendor=vendor,
        software_defined=defined,
        modulus=modulus,
        signature=signature,
        q1=_number(data, 1040),
        q2=_number(data, 1424),
    )


def encode(sigstruct: Sigstruct) -> bytes:
    """The structure as 1808 bytes. Raises `MalformedError` (`sigstruct-field`) for a value that has no room."""
    day = sigstruct.date
    bcd = int(f"{day.year:04}{day.month:02}{day.day:02}", 16)
    for name in ("mrenclave", "family_id", "extended_product_id"):
        check_size(getattr(sigstruct, name), 32 if name == "mrenclave" else 16, name)
    data = bytearray(SIZE)
    try:
        _FRONT.pack_into(data, 0, _HEADER, sigstruct.vendor, bcd, _HEADER2, sigstruct.software_defined)
        _BODY.pack_into(
            data,
            900,
            sigstruct.miscselect,
            sigstruct.miscselect_mask,
            sigstruct.family_id,
            sigstruct.flags,
            sigstruct.xfrm,
            sigstruct.flags_mask,
            sigstruct.xfrm_mask,
            sigstruct.mrenclave,
            sigstruct.extended_product_id,
            sigstruct.product_id,
            sigstruct.security_version,
        )
        numbers = ((128, sigstruct.modulus), (516, sigstruct.signature), (1040, sigstruct.q1), (1424, sigstruct.q2))
        for start, number in numbers:
            data[start : start + KEY_SIZE] = number.to_bytes(KEY_SIZE, "little")
    except (struct.error, OverflowError) as error:
        raise MalformedError("sigstruct-field", "a value does not fit into a SIGSTRUCT", found=error) from error
    if sigstruct.modulus:
        struct.pack_into("<I", data, 512, EXPONENT)
    return bytes(data)


def to_be_signed(sigstruct: Sigstruct) -> bytes:
    """The 256 bytes that the key signs (RSA, PKCS#1 v1.5, SHA-256). Raises `MalformedError` (`sigstruct-field`)."""
    data = encode(sigstruct)
    return b"".join(data[start:end] for start, end in _SIGNED)


def _check_key(modulus: int, exponent: int) -> None:
    if modulus.bit_length() != _RSA_MODULUS_BITS or exponent != EXPONENT:
        raise MalformedError(
            "sigstruct-key",
            "enclaves are signed with an RSA key of 3072 bits and exponent 3",
            expected="3072 bits, exponent 3",
            found=f"{modulus.bit_length()} bits, exponent {exponent}",
            hint="openssl genrsa -3 -out enclave-key.pem 3072",
        )


def sign(sigstruct: Sigstruct, key: RSAPrivateKey) -> Sigstruct:
    """The structure signed with `key`. Raises `MalformedError` (`sigstruct-key`, `sigstruct-field`)."""
    numbers = key.public_key().public_numbers()
    _check_key(numbers.n, numbers.e)
    signature = key.sign(to_be_signed(sigstruct), padding.PKCS1v15(), hashes.SHA256())
    return assemble(sigstruct, numbers.n, signature)


def assemble(sigstruct: Sigstruct, modulus: int, signature: bytes) -> Sigstruct:
    """The structure with a signature that was made elsewhere over `to_be_signed`: 384 bytes, big-endian, as signing
    tools write it. It is verified.

    Raises `MalformedError` (`sigstruct-key`, `sigstruct-field`, `size-mismatch`) and `UntrustedError`
    (`sigstruct-signature`).
    """
    _check_key(modulus, EXPONENT)
    check_size(signature, KEY_SIZE, "the signature")
    number = int.from_bytes(signature, "big")
    if number >= modulus:
        raise _bad_signature()
    q1, rest = divmod(number * number, modulus)
    signed = replace(sigstruct, modulus=modulus, signature=number, q1=q1, q2=number * rest // modulus)
    verify_sigstruct(signed)
    return signed


def _bad_signature() -> UntrustedError:
    return UntrustedError(
        "sigstruct-signature",
        "the signature of the SIGSTRUCT is not that of its key over its contents",
        hint="the bytes to be signed must be signed with RSA, PKCS#1 v1.5 and SHA-256 by the key that is named",
    )


def verify_sigstruct(sigstruct: Sigstruct) -> None:
    """Check the signature, Q1 and Q2 as EINIT does; whether the key is the right one is for MRSIGNER to say.

    Raises `MalformedError` (`sigstruct-key`, `sigstruct-field`) and `UntrustedError` (`sigstruct-signature`,
    `sigstruct-quotients`).
    """
    _check_key(sigstruct.modulus, EXPONENT)
    number, modulus = sigstruct.signature, sigstruct.modulus
    if number >= modulus or modulus % 2 == 0:
        raise _bad_signature()
    key = rsa.RSAPublicNumbers(EXPONENT, modulus).public_key()
    try:
        key.verify(number.to_bytes(KEY_SIZE, "big"), to_be_signed(sigstruct), padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature as error:
        raise _bad_signature() from error
    q1, rest = divmod(number * number, modulus)
    if (sigstruct.q1, sigstruct.q2) != (q1, number * rest // modulus):
        raise UntrustedError("sigstruct-quotients", "Q1 or Q2 of the SIGSTRUCT is wrong, a processor would refuse it")
