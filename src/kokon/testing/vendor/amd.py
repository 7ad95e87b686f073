"""AMD's side of SEV-SNP: attestation reports, chip and version certificates, revocation lists, certificate table. Pure.

Report: SEV-SNP ABI (AMD document 56860), table "ATTESTATION_REPORT". Certificates: AMD document 57230. Certificate
table: GHCB specification (56421), SNP Extended Guest Request.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA384

from kokon.testing.vendor.authority import (
    P384,
    PSS,
    Authority,
    KeyRing,
    Span,
    make_root,
    name,
    signature_scalars,
)
from kokon.testing.vendor.encoding import BIT_STRING, IA5_STRING, SEQUENCE, der, der_integer

Product = Literal["Milan", "Genoa", "Turin"]
SigningKey = Literal["vcek", "vlek"]
PRODUCTS: Final[tuple[Product, ...]] = ("Milan", "Genoa", "Turin")

CSP: Final = "CN=cc-eu-central-1.example.com"
"""The cloud provider for which VLEKs are, unless another is named."""
REPORT_SIZE: Final = 0x4A0
SIGNED_SIZE: Final = 0x2A0
POLICY: Final = 0x30000
"""SMT allowed, and bit 17, which is always one."""
POLICY_MIGRATE: Final = 1 << 18
POLICY_DEBUG: Final = 1 << 19
POLICY_SINGLE_SOCKET: Final = 1 << 20
MASK_CHIP_KEY: Final = 1 << 1
SIGNED_BY_VLEK: Final = 1 << 2
UNSIGNED: Final = 7 << 2

_CPUID: Final[dict[str, tuple[int, int, int]]] = {
    "Milan": (0x19, 0x01, 1),
    "Genoa": (0x19, 0x11, 1),
    "Turin": (0x1A, 0x02, 1),
}
_SERIALS: Final[dict[str, int]] = {"Milan": 0x10000, "Genoa": 0x20000, "Turin": 0x30000}
_ARC: Final = "1.3.6.1.4.1.3704.1."
_VCEK_NAMES: Final[dict[str, str]] = {"Milan": "Milan-B0", "Genoa": "Genoa", "Turin": "Turin"}
_GUIDS: Final[dict[str, str]] = {
    "vcek": "63da758de6644564adc5f4b93be8accd",
    "vlek": "a8074bc2a25a483eaae639c045a0b8a1",
    "ask": "4ab7b379bbac4fe4a02f05aef327c782",
    "ark": "c0b406a4a803495297433fb6014cd0ae",
    "crl": "92f81bc358114d3d97ffd19f88dc67ea",
}
_VERSION_AND_SERIAL: Final = bytes.fromhex("a0030201020201")
"""How a certificate of version 3 with a serial number of one byte begins, up to that byte."""
YEAR: Final = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Tcb:
    """Security version numbers of a platform; `fmc` exists on Turin only."""

    bootloader: int = 4
    tee: int = 0
    snp: int = 22
    microcode: int = 213
    fmc: int = 1

    def encode(self, product: Product) -> bytes:
        """TCB_VERSION: 8 bytes, in the layout of the product line."""
        if product == "Turin":
            return bytes([self.fmc, self.bootloader, self.tee, self.snp, 0, 0, 0, self.microcode])
        return bytes([self.bootloader, self.tee, 0, 0, 0, 0, self.snp, self.microcode])


@dataclass(frozen=True, slots=True)
class SnpReport:
    """The fields of an attestation report by the ABI's names. None: what goes with the product line.

    `current_tcb`, `committed_tcb` and `launch_tcb` are `reported_tcb` unless given; `chip_id` is what stands in the
    report, 64 bytes.
    """

    product: Product = "Milan"
    version: int = 3
    guest_svn: int = 0
    policy: int = POLICY
    family_id: bytes = bytes(16)
    image_id: bytes = bytes(16)
    vmpl: int = 0
    signature_algo: int = 1
    platform_info: int = 1
    key_info: int = 0
    report_data: bytes = bytes(64)
    measurement: bytes = bytes(range(48))
    host_data: bytes = bytes(32)
    id_key_digest: bytes = bytes(48)
    author_key_digest: bytes = bytes(48)
    report_id: bytes = b"\x11" * 32
    report_id_ma: bytes = b"\xff" * 32
    reported_tcb: Tcb = field(default_factory=Tcb)
    current_tcb: Tcb | None = None
    committed_tcb: Tcb | None = None
    launch_tcb: Tcb | None = None
    cpuid: tuple[int, int, int] | None = None
    chip_id: bytes = bytes(64)
    current_version: tuple[int, int, int] = (55, 1, 31)
    """Build, minor, major."""
    committed_version: tuple[int, int, int] = (55, 1, 31)
    launch_mit_vector: int | None = None
    current_mit_vector: int | None = None
    reserved: bytes = bytes(4)
    """What stands at 0x4C, where the ABI wants zeros."""

    def encode(self) -> bytes:
        """The report's 1184 bytes without a signature."""
        report = bytearray(REPORT_SIZE)
        struct.pack_into(
            "<IIQ16s16sII", report, 0, self.version, self.guest_svn, self.policy, self.family_id, self.image_id,
            self.vmpl, self.signature_algo,
        )  # fmt: skip
        struct.pack_into("<8sQI4s", report, 0x38, self._tcb(self.current_tcb), self.platform_info, self.key_info,
                         self.reserved)  # fmt: skip
        struct.pack_into(
            "<64s48s32s48s48s32s32s8s", report, 0x50, self.report_data, self.measurement, self.host_data,
            self.id_key_digest, self.author_key_digest, self.report_id, self.report_id_ma, self._tcb(None),
        )  # fmt: skip
        if self.version >= 3:
            report[0x188:0x18B] = bytes(self.cpuid or _CPUID[self.product])
        struct.pack_into("<64s8s", report, 0x1A0, self.chip_id, self._tcb(self.committed_tcb))
        report[0x1E8:0x1EB] = bytes(self.current_version)
        report[0x1EC:0x1EF] = bytes(self.committed_version)
        vectors = (self._vector(self.launch_mit_vector), self._vector(self.current_mit_vector))
        struct.pack_into("<8sQQ", report, 0x1F0, self._tcb(self.launch_tcb), *vectors)
        return bytes(report)

    def _tcb(self, tcb: Tcb | None) -> bytes:
        return (tcb or self.reported_tcb).encode(self.product)

    def _vector(self, given: int | None) -> int:
        return given if given is not None else (0x3F if self.version >= 5 else 0)


def sign_report(unsigned: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The report with R and S, little-endian, 72 bytes each, at 0x2A0."""
    r, s = signature_scalars(key, unsigned[:SIGNED_SIZE])
    signature = r.to_bytes(72, "little") + s.to_bytes(72, "little")
    return unsigned[:SIGNED_SIZE] + signature + unsigned[SIGNED_SIZE + len(signature) :]


@dataclass(frozen=True, slots=True)
class Amd:
    """AMD as a vendor. `now`: authorities have existed for two years then, certificates of chips for one month."""

    keys: KeyRing
    now: datetime

    def chip_id(self, product: Product, chip: str = "first") -> bytes:
        """A chip's hardware id, 64 bytes, or 8 on Turin."""
        return self.keys.data(f"AMD chip {product} {chip}", 8 if product == "Turin" else 64)

    def ark(self, product: Product) -> Authority:
        """The root: RSA-4096."""
        return _ark(self, product)

    def ask(self, product: Product, kind: SigningKey = "vcek") -> Authority:
        """The intermediate for chip keys (ASK) or for loaded keys (ASVK): RSA-4096."""
        return _ask(self, product, kind)

    def chain(self, product: Product, kind: SigningKey = "vcek") -> tuple[bytes, bytes]:
        """Intermediate and root in DER."""
        return self.ask(product, kind).certificate, self.ark(product).certificate

    def vcek_key(self, product: Product, hardware_id: bytes, tcb: Tcb) -> ec.EllipticCurvePrivateKey:
        """A chip's key for one TCB version."""
        return self.keys.elliptic(f"VCEK {product} {hardware_id.hex()} {tcb.encode(product).hex()}", P384)

    def vlek_key(self, product: Product, csp: str, tcb: Tcb) -> ec.EllipticCurvePrivateKey:
        """A cloud provider's key for one TCB version."""
        return self.keys.elliptic(f"VLEK {product} {csp} {tcb.encode(product).hex()}", P384)

    def vcek(self, product: Product, hardware_id: bytes, tcb: Tcb, span: Span | None = None) -> bytes:
        """A chip's certificate: seven years, serial number 0 as AMD's have. The same each time in one process."""
        return _vcek(self, product, hardware_id, tcb, span or Span(self.now - YEAR / 12, 7 * YEAR))

    def vlek(self, product: Product, csp: str, tcb: Tcb, span: Span | None = None) -> bytes:
        """A cloud provider's certificate: one year. `csp` as "CN=cc-us-east-2.amazonaws.com"."""
        return _vlek(self, product, csp, tcb, span or Span(self.now - YEAR / 12, YEAR))

    def crl(self, product: Product, revoked: frozenset[str], span: Span) -> bytes:
        """The product line's list, signed by its root. "ask" and "asvk" in `revoked` put those on it."""
        return _crl(self, product, revoked, span)

    def report(self, fields: SnpReport, kind: SigningKey, *, chip: str, csp: str) -> bytes:
        """A report signed as the fields say. A masked or unsigned one carries zeros for a signature."""
        hardware_id = self.chip_id(fields.product, chip)
        if kind == "vcek":
            fields = replace(fields, chip_id=hardware_id.ljust(64, b"\0"))
            key = self.vcek_key(fields.product, hardware_id, fields.reported_tcb)
        else:
            fields = replace(fields, key_info=fields.key_info | SIGNED_BY_VLEK)
            key = self.vlek_key(fields.product, csp, fields.reported_tcb)
        unsigned = fields.encode()
        if fields.key_info & MASK_CHIP_KEY or fields.key_info & UNSIGNED == UNSIGNED:
            return unsigned
        return sign_report(unsigned, key)


@lru_cache(maxsize=64)
def _ark(amd: Amd, product: Product) -> Authority:
    key = amd.keys.rsa(f"ARK {product}", 4096)
    span = Span(amd.now - 2 * YEAR, 25 * YEAR)
    return make_root(f"ARK {product}", key, span, serial=_SERIALS[product], pss=True)


@lru_cache(maxsize=64)
def _ask(amd: Amd, product: Product, kind: SigningKey) -> Authority:
    vlek = kind == "vlek"
    key = amd.keys.rsa(f"{'ASVK' if vlek else 'ASK'} {product}", 4096)
    common = f"SEV-VLEK-{product}" if vlek else f"SEV-{product}"
    serial = _SERIALS[product] + (0x101 if vlek else 1)
    return amd.ark(product).delegate(common, key, Span(amd.now - 2 * YEAR, 25 * YEAR), serial=serial, lists=False)


@lru_cache(maxsize=1024)
def _vcek(amd: Amd, product: Product, hardware_id: bytes, tcb: Tcb, span: Span) -> bytes:
    extensions = _tcb_extensions(tcb, product, _VCEK_NAMES[product]) | {_ARC + "4": hardware_id}
    key = amd.vcek_key(product, hardware_id, tcb).public_key()
    return _with_serial_zero(amd.ask(product), "SEV-VCEK", key, span, extensions)


@lru_cache(maxsize=1024)
def _vlek(amd: Amd, product: Product, csp: str, tcb: Tcb, span: Span) -> bytes:
    extensions = _tcb_extensions(tcb, product, product) | {_ARC + "5": der(IA5_STRING, csp.encode())}
    key = amd.vlek_key(product, csp, tcb).public_key()
    return _with_serial_zero(amd.ask(product, "vlek"), "SEV-VLEK", key, span, extensions)


@lru_cache(maxsize=256)
def _crl(amd: Amd, product: Product, revoked: frozenset[str], span: Span) -> bytes:
    serials = {"ask": _SERIALS[product] + 1, "asvk": _SERIALS[product] + 0x101}
    return amd.ark(product).crl((serial for what, serial in serials.items() if what in revoked), span)


def _tcb_extensions(tcb: Tcb, product: Product, text: str) -> dict[str, bytes]:
    turin = product == "Turin"
    numbers = {"1": int(turin), "3.1": tcb.bootloader, "3.2": tcb.tee, "3.3": tcb.snp, "3.8": tcb.microcode}
    numbers |= {"3.9": tcb.fmc} if turin else {"3.4": 0}
    numbers |= {"3.5": 0, "3.6": 0, "3.7": 0}
    extensions = {_ARC + arc: der_integer(value) for arc, value in numbers.items()}
    return extensions | {_ARC + "2": der(IA5_STRING, text.encode())}


def _with_serial_zero(
    authority: Authority, common: str, public: ec.EllipticCurvePublicKey, span: Span, extensions: dict[str, bytes]
) -> bytes:
    """A certificate with the serial number 0, which the library does not make: exchanged in the signed part, which is
    then signed again."""
    draft_der = authority.issue(name(common), public, span, serial=1, extensions=extensions)
    draft = x509.load_der_x509_certificate(draft_der)
    signed = draft.tbs_certificate_bytes.replace(_VERSION_AND_SERIAL + b"\x01", _VERSION_AND_SERIAL + b"\0", 1)
    key = authority.key
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("AMD's authorities have RSA keys")
    signature = key.sign(signed, PSS, SHA384())
    algorithm = draft_der[4 + len(signed) : -len(signature) - 5]
    return der(SEQUENCE, signed, algorithm, der(BIT_STRING, b"\0", signature))


def certificate_table(certificates: tuple[bytes, ...], kind: SigningKey = "vcek", crl: bytes | None = None) -> bytes:
    """The certificate table behind an extended report: leaf, intermediate, root and perhaps a revocation list."""
    kinds = [kind, "ask", "ark"][: len(certificates)]
    items = list(zip(kinds, certificates, strict=True)) + ([("crl", crl)] if crl is not None else [])
    offset, entries = 24 * (len(items) + 1), b""
    for what, item in items:
        entries += struct.pack("<16sII", bytes.fromhex(_GUIDS[what]), offset, len(item))
        offset += len(item)
    return entries + bytes(24) + b"".join(item for _what, item in items)
