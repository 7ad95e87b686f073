"""Structures of the TPM 2.0 Library Specification, Part 2: what a quote, its signature and its key look like. Pure.

All integers are big-endian. Sizes are bounded, trailing bytes refused; whatever is wrong with bytes is
`MalformedError` (`tpm-malformed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from kokon.errors import MalformedError
from kokon.tee.eventlog.log import ALGORITHMS

MAGIC: Final = b"\xff\x54\x43\x47"
"""TPM_GENERATED_VALUE: a restricted key signs nothing from outside that begins so."""
QUOTE: Final = 0x8018
"""TPM_ST_ATTEST_QUOTE."""
ATTEST_LIMIT: Final = 4096

NUMBERS: Final[Mapping[str, int]] = {name: number for number, (name, _size) in ALGORITHMS.items()}
"""TPM_ALG_ID by name."""

RSASSA: Final = 0x0014
RSAPSS: Final = 0x0016
ECDSA: Final = 0x0018
SCHEMES: Final[Mapping[int, str]] = {RSASSA: "rsassa", RSAPSS: "rsapss", ECDSA: "ecdsa"}
"""Signature schemes by TPM_ALG_ID."""
_RSA: Final = 0x0001
_ECC: Final = 0x0023
_NULL: Final = 0x0010
CURVES: Final[Mapping[int, str]] = {0x0003: "secp256r1", 0x0004: "secp384r1", 0x0005: "secp521r1"}
"""Curve names by TPM_ECC_CURVE."""

ATTRIBUTES: Final[Mapping[str, int]] = {
    "fixedTPM": 1,
    "stClear": 2,
    "fixedParent": 4,
    "sensitiveDataOrigin": 5,
    "userWithAuth": 6,
    "adminWithPolicy": 7,
    "noDA": 10,
    "encryptedDuplication": 11,
    "restricted": 16,
    "decrypt": 17,
    "sign": 18,
    "x509sign": 19,
}
"""Bits of TPMA_OBJECT (Part 2, section 8.3)."""


class Reader:
    """Takes a structure apart from its beginning; `what` names it in errors."""

    def __init__(self, data: bytes, what: str, *, limit: int = ATTEST_LIMIT) -> None:
        self._data = data
        self._at = 0
        self._what = what
        if len(data) > limit:
            self.refuse("it is too large", f"<= {limit} bytes", len(data))

    def refuse(self, problem: str, expected: object, found: object) -> NoReturn:
        """Raise `MalformedError` (`tpm-malformed`)."""
        raise MalformedError("tpm-malformed", f"{self._what}: {problem}", expected=expected, found=found)

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        left = len(self._data) - self._at
        if size > left:
            self.refuse("it is too short", f"{size} more bytes", left)
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        """An unsigned integer of `size` bytes."""
        return int.from_bytes(self.take(size), "big")

    def sized(self, limit: int) -> bytes:
        """A TPM2B: its size in two bytes, and as many bytes, at most `limit`."""
        size = self.number(2)
        if size > limit:
            self.refuse("a field is too large", f"<= {limit} bytes", size)
        return self.take(size)

    def finish(self) -> None:
        """Nothing may follow."""
        if self._at != len(self._data):
            self.refuse("bytes follow its end", "none", len(self._data) - self._at)


@dataclass(frozen=True, slots=True)
class Selection:
    """PCRs of one bank: its hash algorithm's name and the indexes, ascending."""

    bank: str
    pcrs: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.bank}: {ranges(self.pcrs)}"


@dataclass(frozen=True, slots=True)
class Attest:
    """A TPMS_ATTEST with TPMS_QUOTE_INFO (Part 2, 10.12.8 and 10.12.1).

    `clock` counts milliseconds of the TPM's power, `reset_count` its resets, `restart_count` resumes since; `safe` is
    false if the clock may have been higher. They tell a reboot between two quotes. `extra_data` is the caller's nonce.
    """

    qualified_signer: bytes
    extra_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int
    selections: tuple[Selection, ...]
    pcr_digest: bytes


@dataclass(frozen=True, slots=True)
class Signature:
    """A TPMT_SIGNATURE: scheme "rsassa", "rsapss" or "ecdsa", hash name, and the RSA signature or r and s."""

    scheme: str
    hash: str
    rsa: bytes = b""
    r: int = 0
    s: int = 0


@dataclass(frozen=True, slots=True)
class Public:
    """A TPMT_PUBLIC of a signing key. RSA has `modulus` and `exponent`, ECC `curve`, `x` and `y`."""

    name_hash: str
    attributes: int
    policy: bytes
    scheme: str
    modulus: int = 0
    exponent: int = 0
    curve: str = ""
    x: int = 0
    y: int = 0

    def has(self, attribute: str) -> bool:
        """Whether a bit of TPMA_OBJECT is set, by its name in the specification."""
        return bool(self.attributes >> ATTRIBUTES[attribute] & 1)


def ranges(numbers: tuple[int, ...]) -> str:
    """Ascending numbers as text: "0-7, 14"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts) or "none"


def parse_attest(data: bytes) -> Attest:
    """A TPMS_ATTEST of a quote, the signed bytes. Raises `MalformedError` (`tpm-malformed`)."""
    reader = Reader(data, "quote")
    magic = reader.take(4)
    if magic != MAGIC:
        reader.refuse("not made by a TPM", MAGIC.hex(), magic.hex())
    kind = reader.number(2)
    if kind != QUOTE:
        reader.refuse("an attestation, but no quote", f"{QUOTE:#x}", f"{kind:#x}")
    signer = reader.sized(68)
    extra = reader.sized(130)
    clock, resets, restarts, safe = (reader.number(size) for size in (8, 4, 4, 1))
    if safe > 1:
        reader.refuse("a flag that is neither yes nor no", "0 or 1", safe)
    firmware = reader.number(8)
    selections = _selections(reader)
    digest = reader.sized(64)
    reader.finish()
    return Attest(signer, extra, clock, resets, restarts, bool(safe), firmware, selections, digest)


def _selections(reader: Reader) -> tuple[Selection, ...]:
    """TPML_PCR_SELECTION (Part 2, 10.9.7): bit n of byte m selects PCR 8 m + n."""
    count = reader.number(4)
    if count > len(ALGORITHMS):
        reader.refuse("too many PCR banks", f"<= {len(ALGORITHMS)}", count)
    found: dict[str, Selection] = {}
    for _ in range(count):
        number = reader.number(2)
        bank = ALGORITHMS.get(number, (f"{number:#06x}", 0))[0]
        size = reader.number(1)
        if size > 4 or bank in found:
            reader.refuse("a PCR selection is too long or given twice", "<= 4 bytes, once", f"{bank}, {size}")
        bits = int.from_bytes(reader.take(size), "little")
        found[bank] = Selection(bank, tuple(index for index in range(8 * size) if bits >> index & 1))
    return tuple(found.values())


def parse_signature(data: bytes) -> Signature:
    """A TPMT_SIGNATURE (Part 2, 11.3.4) with RSASSA, RSAPSS or ECDSA. Raises `MalformedError` (`tpm-malformed`)."""
    reader = Reader(data, "signature")
    scheme, number = reader.number(2), reader.number(2)
    if scheme not in SCHEMES or number not in ALGORITHMS:
        reader.refuse("unknown scheme or hash", ", ".join(SCHEMES.values()), f"{scheme:#x}, {number:#x}")
    name = ALGORITHMS[number][0]
    if scheme == ECDSA:
        r, s = (int.from_bytes(reader.sized(66), "big") for _ in range(2))
        signature = Signature(SCHEMES[scheme], name, r=r, s=s)
    else:
        signature = Signature(SCHEMES[scheme], name, rsa=reader.sized(512))
    reader.finish()
    return signature


def parse_public(data: bytes) -> Public:
    """A TPMT_PUBLIC (Part 2, 12.2.4) of an RSA or ECC key without a symmetric part. Raises `MalformedError`
    (`tpm-malformed`)."""
    reader = Reader(data, "attestation key")
    kind, number, attributes = reader.number(2), reader.number(2), reader.number(4)
    if kind not in (_RSA, _ECC) or number not in ALGORITHMS:
        reader.refuse("unknown kind of key or hash", "RSA or ECC", f"{kind:#x}, {number:#x}")
    policy = reader.sized(64)
    if reader.number(2) != _NULL:
        reader.refuse("it has a symmetric algorithm, so it encrypts", "a signing key", "another")
    scheme = _scheme(reader)
    common = ALGORITHMS[number][0], attributes, policy, scheme
    if kind == _RSA:
        bits, exponent = reader.number(2), reader.number(4)
        modulus = int.from_bytes(reader.sized(512), "big")
        public = Public(*common, modulus=modulus, exponent=exponent or 65537)
        if modulus.bit_length() != bits:
            reader.refuse("its modulus has another size than it says", bits, modulus.bit_length())
    else:
        curve = reader.number(2)
        if curve not in CURVES or reader.number(2) != _NULL:
            reader.refuse("unknown curve, or a key derivation", ", ".join(CURVES.values()), f"{curve:#x}")
        x, y = (int.from_bytes(reader.sized(66), "big") for _ in range(2))
        public = Public(*common, curve=CURVES[curve], x=x, y=y)
    reader.finish()
    return public


def _scheme(reader: Reader) -> str:
    number = reader.number(2)
    if number == _NULL:
        return ""
    hashed = reader.number(2)
    if number not in SCHEMES or hashed not in ALGORITHMS:
        reader.refuse("unknown signature scheme", ", ".join(SCHEMES.values()), f"{number:#x}, {hashed:#x}")
    return f"{SCHEMES[number]}-{ALGORITHMS[hashed][0]}"
