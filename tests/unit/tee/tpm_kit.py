"""A small TPM for tests: every field settable, signatures by real keys. Independent of `kokon.testing`."""

import hashlib
import struct
from dataclasses import dataclass, replace
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kokon.tee.evidence import Check, Claims, Evidence
from kokon.tee.vtpm.quote import encode_pcrs

HASHES = {"sha1": SHA1(), "sha256": SHA256(), "sha384": SHA384(), "sha512": SHA512()}
NUMBERS = {"sha1": 4, "sha256": 11, "sha384": 12, "sha512": 13}
SIZES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
ATTRIBUTES = 0x50072
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@cache
def rsa_key(number: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    del number
    return rsa.generate_private_key(65537, bits)


@cache
def ecc_key(curve: str = "secp256r1") -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key({"secp256r1": ec.SECP256R1(), "secp384r1": ec.SECP384R1()}[curve])


def spki(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def select(*selections: tuple[str, tuple[int, ...]]) -> bytes:
    out = struct.pack(">I", len(selections))
    for bank, pcrs in selections:
        bits = sum(1 << index for index in pcrs).to_bytes(3, "little")
        out += struct.pack(">HB", NUMBERS[bank], 3) + bits
    return out


def value(index: int, bank: str = "sha256") -> bytes:
    return hashlib.new(bank, bytes([index])).digest()


def values(pcrs: tuple[int, ...], bank: str = "sha256") -> dict[int, bytes]:
    return {index: value(index, bank) for index in pcrs}


@dataclass(frozen=True)
class Quote:
    selections: tuple[tuple[str, tuple[int, ...]], ...] = (("sha256", (0, 1, 7)),)
    nonce: bytes = b"nonce"
    hash: str = "sha256"
    signer: bytes = b"\0\x0b" + bytes(32)
    magic: bytes = b"\xffTCG"
    kind: int = 0x8018
    clock: int = 77
    resets: int = 3
    restarts: int = 1
    safe: int = 1
    firmware: int = 9
    digest: bytes | None = None

    def encode(self) -> bytes:
        digest = self.digest
        if digest is None:
            listed = b"".join(value(index, bank) for bank, pcrs in self.selections for index in pcrs)
            digest = hashlib.new(self.hash, listed).digest()
        head = self.magic + struct.pack(">H", self.kind) + sized(self.signer) + sized(self.nonce)
        clock = struct.pack(">QIIBQ", self.clock, self.resets, self.restarts, self.safe, self.firmware)
        return head + clock + select(*self.selections) + sized(digest)


def sign(message: bytes, key: Key, *, hash_name: str = "sha256", pss: int | None = None, raw: bool = False) -> bytes:
    algorithm = HASHES[hash_name]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(key.sign(message, ec.ECDSA(algorithm)))
        size = (key.key_size + 7) // 8
        scalars = sized(r.to_bytes(size, "big")) + sized(s.to_bytes(size, "big"))
        return struct.pack(">HH", 0x18, NUMBERS[hash_name]) + scalars
    if pss is not None:
        signature = key.sign(message, padding.PSS(padding.MGF1(algorithm), pss), algorithm)
        return struct.pack(">HH", 0x16, NUMBERS[hash_name]) + sized(signature)
    signature = key.sign(message, padding.PKCS1v15(), algorithm)
    return signature if raw else struct.pack(">HH", 0x14, NUMBERS[hash_name]) + sized(signature)


def public_area(key: Key, attributes: int = ATTRIBUTES) -> bytes:
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        head = struct.pack(">HHIH", 1, 11, attributes, 0) + struct.pack(">HHHHI", 0x10, 0x14, 11, public.key_size, 0)
        return head + sized(public.public_numbers().n.to_bytes(public.key_size // 8, "big"))
    curve, hashed = {"secp256r1": (3, 11), "secp384r1": (4, 12)}[public.curve.name]
    numbers = public.public_numbers()
    size = (public.key_size + 7) // 8
    head = struct.pack(">HHIH", 0x23, 11, attributes, 0) + struct.pack(">HHHHH", 0x10, 0x18, hashed, curve, 0x10)
    return head + sized(numbers.x.to_bytes(size, "big")) + sized(numbers.y.to_bytes(size, "big"))


def qualified(area: bytes, parent: int = 0x4000000B) -> bytes:
    name = b"\0\x0b" + hashlib.sha256(area).digest()
    return b"\0\x0b" + hashlib.sha256(struct.pack(">I", parent) + name).digest()


def evidence(quote: Quote | None = None, key: Key | None = None, **options: object) -> Evidence:
    """One quote with everything beside it."""
    quote, key = quote or Quote(), key or rsa_key()
    message = quote.encode()
    banks: dict[str, dict[int, bytes]] = {}
    for bank, pcrs in quote.selections:
        banks[bank] = values(pcrs, bank)
    parts = {
        "signature": sign(message, key, hash_name=quote.hash, **options),  # type: ignore[arg-type]
        "pcrs": encode_pcrs(banks),
        "ak": spki(key),
    }
    return Evidence("tpm", message, parts=parts)


def with_parts(base: Evidence, **changes: bytes | None) -> Evidence:
    """Evidence with other parts; None takes one away. Underscores stand for dashes."""
    parts = dict(base.parts) | {name.replace("_", "-"): data for name, data in changes.items() if data is not None}
    gone = {name.replace("_", "-") for name, data in changes.items() if data is None}
    return replace(base, parts={name: data for name, data in parts.items() if name not in gone})


def found(claims: Claims, name: str) -> Check:
    """The check of that name, of which there is one."""
    (check,) = [check for check in claims.checks if check.name == name]
    return check


def codes(claims: Claims) -> list[str | None]:
    return [check.code for check in claims.failures]
