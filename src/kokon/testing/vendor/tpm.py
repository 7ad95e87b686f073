"""TPM 2.0 quotes: attestation keys, TPMS_ATTEST, signatures, and the messages that carry them. Pure.

TCG "TPM 2.0 Library", part 2 (structures; integers are big-endian). The key's certificate is one under a simulated
endorsement root, as Google's and Azure's virtual TPMs have them.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from kokon.testing.vendor.authority import Authority, KeyRing, Span, make_root, name, point, signature_scalars, spki
from kokon.testing.vendor.encoding import proto_bytes, proto_varint
from kokon.testing.vendor.eventlog import ALGORITHMS

KeyKind = Literal["rsa", "ecc"]
GENERATED: Final = b"\xffTCG"
ATTEST_QUOTE: Final = 0x8018
RSASSA: Final = 0x0014
RSAPSS: Final = 0x0016
ECDSA: Final = 0x0018
ENDORSEMENT_HIERARCHY: Final = bytes.fromhex("4000000b")
ALL_PCRS: Final = tuple(range(24))
YEAR: Final = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Attest:
    """TPMS_ATTEST of a quote. `pcrs` holds all registers of the bank, of which the `selection` is digested;
    `pcr_digest` None: the right one."""

    extra_data: bytes = b""
    pcrs: tuple[bytes, ...] = (bytes(32),) * 24
    selection: tuple[int, ...] = ALL_PCRS
    bank: str = "sha256"
    pcr_digest: bytes | None = None
    digest_algorithm: str = "sha256"
    magic: bytes = GENERATED
    type: int = ATTEST_QUOTE
    qualified_signer: bytes = struct.pack(">H", 0x0B) + b"\x51" * 32
    clock: int = 1_234_567
    reset_count: int = 3
    restart_count: int = 1
    safe: bool = True
    firmware_version: int = 0x2024_0101_0000_0001

    def encode(self) -> bytes:
        """The bytes that are signed."""
        chosen = b"".join(self.pcrs[index] for index in sorted(self.selection))
        digest = self.pcr_digest
        if digest is None:
            digest = hashlib.new(self.digest_algorithm, chosen).digest()
        bits = sum(1 << index for index in self.selection).to_bytes(3, "little")
        clock = struct.pack(
            ">QII?Q", self.clock, self.reset_count, self.restart_count, self.safe, self.firmware_version
        )
        head = self.magic + struct.pack(">H", self.type) + sized(self.qualified_signer) + sized(self.extra_data)
        return head + clock + struct.pack(">IHB", 1, ALGORITHMS[self.bank], 3) + bits + sized(digest)


def sized(data: bytes) -> bytes:
    """TPM2B: a length of 16 bits, then the bytes."""
    return struct.pack(">H", len(data)) + data


@dataclass(frozen=True, slots=True)
class Tpm:
    """One machine's TPM and the authorities behind its keys, at the time `now`."""

    keys: KeyRing
    now: datetime
    machine: str = "first"

    def ak(self, kind: KeyKind = "rsa") -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
        """The attestation key: RSA-2048 or P-256."""
        label = f"TPM attestation key {self.machine}"
        return self.keys.rsa(label) if kind == "rsa" else self.keys.elliptic(label)

    def ak_public(self, kind: KeyKind = "rsa") -> bytes:
        """DER SubjectPublicKeyInfo of the attestation key."""
        return spki(self.ak(kind).public_key())

    def root(self) -> Authority:
        """ "Kokon simulated EK root"."""
        return _root(self.keys, self.now)

    def intermediate(self) -> Authority:
        """What signs certificates of keys."""
        return _intermediate(self.keys, self.now)

    def ak_certificate(self, kind: KeyKind = "rsa", span: Span | None = None) -> bytes:
        """The attestation key's certificate."""
        valid = span or Span(self.now - YEAR / 12, 10 * YEAR)
        public = self.ak(kind).public_key()
        return self.intermediate().issue(name(f"simulated TPM {self.machine}"), public, valid, serial=0x5003)

    def chain(self, kind: KeyKind = "rsa", span: Span | None = None) -> tuple[bytes, bytes, bytes]:
        """Key, intermediate, root."""
        return self.ak_certificate(kind, span), self.intermediate().certificate, self.root().certificate

    def crl(self, revoked: frozenset[str], span: Span) -> bytes:
        """The list of what signs certificates of keys; "ak" can be on it."""
        return self.intermediate().crl([0x5003] if "ak" in revoked else [], span)

    def root_crl(self, revoked: frozenset[str], span: Span) -> bytes:
        """The root's list; "ek-ca" can be on it."""
        return self.root().crl([0x5002] if "ek-ca" in revoked else [], span)

    def qualified_name(self, kind: KeyKind = "rsa") -> bytes:
        """The qualified signer in quotes by the attestation key, a primary key of the endorsement hierarchy (Part 1,
        section 16)."""
        algorithm = struct.pack(">H", ALGORITHMS["sha256"])
        own_name = algorithm + hashlib.sha256(self.public_area(kind)).digest()
        return algorithm + hashlib.sha256(ENDORSEMENT_HIERARCHY + own_name).digest()

    def sign(self, message: bytes, kind: KeyKind = "rsa", *, scheme: int | None = None, raw: bool = False) -> bytes:
        """TPMT_SIGNATURE over a message with SHA-256; `raw` leaves out the algorithms and sizes, as Azure does."""
        key = self.ak(kind)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            r, s = signature_scalars(key, message)
            scalars = sized(r.to_bytes(32, "big")) + sized(s.to_bytes(32, "big"))
            return struct.pack(">HH", ECDSA, ALGORITHMS["sha256"]) + scalars
        pss = padding.PSS(padding.MGF1(SHA256()), 32)
        signature = key.sign(message, pss if scheme == RSAPSS else padding.PKCS1v15(), SHA256())
        return signature if raw else struct.pack(">HH", scheme or RSASSA, ALGORITHMS["sha256"]) + sized(signature)

    def public_area(self, kind: KeyKind = "rsa") -> bytes:
        """TPMT_PUBLIC of the attestation key: restricted, signing, fixed to this TPM."""
        public = self.ak(kind).public_key()
        attributes = 0x00050072
        if isinstance(public, rsa.RSAPublicKey):
            head = struct.pack(">HHIH", 0x0001, 0x000B, attributes, 0)
            scheme = struct.pack(">HHHHI", 0x0010, RSASSA, 0x000B, 2048, 0)
            return head + scheme + sized(public.public_numbers().n.to_bytes(256, "big"))
        head = struct.pack(">HHIH", 0x0023, 0x000B, attributes, 0)
        scheme = struct.pack(">HHHHH", 0x0010, ECDSA, 0x000B, 0x0003, 0x0010)
        xy = point(public)
        return head + scheme + sized(xy[:32]) + sized(xy[32:])


@dataclass(frozen=True, slots=True)
class Quoted:
    """A quote with its signature and all registers of the bank."""

    message: bytes
    signature: bytes
    pcrs: tuple[bytes, ...]
    bank: str = "sha256"


def go_tpm_tools(
    tpm: Tpm, quotes: tuple[Quoted, ...], log: bytes, kind: KeyKind = "rsa", *, certified: bool = True
) -> bytes:
    """The message `attest.Attestation` of go-tpm-tools, which Google's tools write."""
    message = proto_bytes(1, tpm.public_area(kind))
    for quote in quotes:
        registers = b"".join(
            proto_bytes(2, (proto_varint(1, index) if index else b"") + proto_bytes(2, value))
            for index, value in enumerate(quote.pcrs)
        )
        bank = proto_varint(1, ALGORITHMS[quote.bank]) + registers
        message += proto_bytes(
            2, proto_bytes(1, quote.message) + proto_bytes(2, quote.signature) + proto_bytes(3, bank)
        )
    message += proto_bytes(3, log)
    if certified:
        leaf, *others = tpm.chain(kind)
        message += proto_bytes(6, leaf) + b"".join(proto_bytes(7, other) for other in others)
    return message


def bincode_quote(quoted: Quoted) -> bytes:
    """Signature, message and registers as the az-cvm-vtpm tools serialise them: lengths in 64 bits, little-endian."""
    lengths = struct.pack("<Q", len(quoted.signature)) + quoted.signature
    lengths += struct.pack("<Q", len(quoted.message)) + quoted.message
    return lengths + struct.pack("<Q", len(quoted.pcrs)) + b"".join(quoted.pcrs)


@lru_cache(maxsize=64)
def _root(keys: KeyRing, now: datetime) -> Authority:
    key = keys.elliptic("EK root")
    return make_root("EK root", key, Span(now - 2 * YEAR, 30 * YEAR), serial=0x5001)


@lru_cache(maxsize=64)
def _intermediate(keys: KeyRing, now: datetime) -> Authority:
    span = Span(now - YEAR, 15 * YEAR)
    return _root(keys, now).delegate("simulated EK/AK intermediate", keys.elliptic("EK CA"), span, serial=0x5002)
