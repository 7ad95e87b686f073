"""Intel's certificates for SGX and TDX platforms, and its revocation lists. Pure.

PCK certificates as "Intel SGX PCK Certificate and Certificate Revocation List Profile Specification" has them, with the
extension 1.2.840.113741.1.13.1. Everything is P-256 with SHA-256.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric import ec

from kokon.testing.vendor.authority import Authority, KeyRing, Span, make_root, name
from kokon.testing.vendor.encoding import (
    ENUMERATED,
    OCTET_STRING,
    SEQUENCE,
    der,
    der_boolean,
    der_integer,
    der_oid,
)

CertificateAuthority = Literal["platform", "processor"]
SGX_EXTENSIONS: Final = "1.2.840.113741.1.13.1"
YEAR: Final = timedelta(days=365)
SERIALS: Final[dict[str, int]] = {"platform-ca": 0x1001, "processor-ca": 0x1002, "tcb-signing": 0x1003, "pck": 0x2001}
"""Serial numbers of what can be revoked."""


@dataclass(frozen=True, slots=True)
class Platform:
    """One machine with an Intel processor. `cpusvn` is what its PCK certificate is for, 16 components; `chip` only
    tells machines of the same make apart. The defaults are what the strictest policy accepts."""

    chip: str = "first"
    fmspc: bytes = bytes.fromhex("00606a000000")
    pceid: bytes = bytes(2)
    components: tuple[int, ...] = (7, 7, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0)
    pcesvn: int = 11
    cpusvn: bytes | None = None
    """Raw CPUSVN (16); None: the components as bytes."""
    sgx_type: int = 1
    """0 standard, 1 scalable, 2 scalable with integrity."""
    ca: CertificateAuthority = "platform"
    dynamic: bool = False
    cached_keys: bool = False
    smt: bool = True

    @property
    def raw_cpusvn(self) -> bytes:
        """CPUSVN, 16 bytes."""
        return bytes(self.components) if self.cpusvn is None else self.cpusvn


@dataclass(frozen=True, slots=True)
class IntelAuthorities:
    """Intel's public key infrastructure at the time `now`."""

    keys: KeyRing
    now: datetime

    def root(self) -> Authority:
        """ "Kokon simulated Intel SGX Root CA"."""
        return _root(self)

    def ca(self, which: CertificateAuthority) -> Authority:
        """Intel SGX PCK Platform CA or Processor CA."""
        return _below(self, f"Intel SGX PCK {which.capitalize()} CA", SERIALS[f"{which}-ca"])

    def tcb_signing_key(self) -> ec.EllipticCurvePrivateKey:
        """What signs TCB info and identities."""
        return self.keys.elliptic("Intel TCB signing")

    def tcb_signing(self, span: Span | None = None) -> bytes:
        """The certificate "Intel SGX TCB Signing"."""
        public = self.tcb_signing_key().public_key()
        valid = span or Span(self.now - YEAR, 7 * YEAR)
        return self.root().issue(name("Intel SGX TCB Signing"), public, valid, serial=SERIALS["tcb-signing"])

    def pck_key(self, platform: Platform) -> ec.EllipticCurvePrivateKey:
        """A platform's provisioning certification key for its CPUSVN and PCESVN."""
        return self.keys.elliptic(f"PCK {platform.chip} {platform.raw_cpusvn.hex()} {platform.pcesvn}")

    def ppid(self, platform: Platform) -> bytes:
        """The platform's provisioning id, 16 bytes."""
        return self.keys.data(f"PPID {platform.chip}", 16)

    def encrypted_ppid(self, platform: Platform) -> bytes:
        """What stands for the PPID once it is encrypted to Intel's key: 384 bytes."""
        return self.keys.data(f"encrypted PPID {platform.chip}", 384)

    def instance_id(self, platform: Platform) -> bytes:
        """The platform instance id, 16 bytes; only platforms under the Platform CA have one."""
        return self.keys.data(f"platform instance {platform.chip}", 16)

    def pck(self, platform: Platform, span: Span | None = None) -> bytes:
        """The platform's certificate."""
        public = self.pck_key(platform).public_key()
        valid = span or Span(self.now - YEAR / 2, 7 * YEAR)
        extensions = {SGX_EXTENSIONS: self._sgx_extensions(platform)}
        authority = self.ca(platform.ca)
        subject = name("Intel SGX PCK Certificate")
        return authority.issue(subject, public, valid, serial=SERIALS["pck"], extensions=extensions)

    def chain(self, platform: Platform, span: Span | None = None) -> tuple[bytes, bytes, bytes]:
        """PCK certificate, its authority, root."""
        return self.pck(platform, span), self.ca(platform.ca).certificate, self.root().certificate

    def pck_crl(self, which: CertificateAuthority, revoked: frozenset[str], span: Span) -> bytes:
        """The list of a PCK authority. "pck" in `revoked` puts every platform on it: they share a serial number."""
        return self.ca(which).crl([SERIALS["pck"]] if "pck" in revoked else [], span)

    def root_crl(self, revoked: frozenset[str], span: Span) -> bytes:
        """The root's list: "platform-ca", "processor-ca" and "tcb-signing" can be on it."""
        return self.root().crl((SERIALS[what] for what in revoked if what in SERIALS and what != "pck"), span)

    def _sgx_extensions(self, platform: Platform) -> bytes:
        """The SEQUENCE of pairs of OID and value (profile specification, section 1.5)."""
        tcb = [_pair(f"2.{index}", der_integer(svn)) for index, svn in enumerate(platform.components, 1)]
        tcb += [_pair("2.17", der_integer(platform.pcesvn)), _pair("2.18", der(OCTET_STRING, platform.raw_cpusvn))]
        pairs = [
            _pair("1", der(OCTET_STRING, self.ppid(platform))),
            _pair("2", der(SEQUENCE, *tcb)),
            _pair("3", der(OCTET_STRING, platform.pceid)),
            _pair("4", der(OCTET_STRING, platform.fmspc)),
            _pair("5", der_integer(platform.sgx_type, ENUMERATED)),
        ]
        if platform.ca == "platform":
            flags = (platform.dynamic, platform.cached_keys, platform.smt)
            configuration = (_pair(f"7.{index}", der_boolean(flag)) for index, flag in enumerate(flags, 1))
            pairs.append(_pair("6", der(OCTET_STRING, self.instance_id(platform))))
            pairs.append(_pair("7", der(SEQUENCE, *configuration)))
        return der(SEQUENCE, *pairs)


def _pair(arc: str, value: bytes) -> bytes:
    return der(SEQUENCE, der_oid(f"{SGX_EXTENSIONS}.{arc}"), value)


@lru_cache(maxsize=64)
def _root(intel: IntelAuthorities) -> Authority:
    key = intel.keys.elliptic("Intel SGX Root CA")
    span = Span(intel.now - 5 * YEAR, 30 * YEAR)
    return make_root("Intel SGX Root CA", key, span, serial=0x1000, path_length=1)


@lru_cache(maxsize=64)
def _below(intel: IntelAuthorities, common: str, serial: int) -> Authority:
    return intel.root().delegate(
        common, intel.keys.elliptic(common), Span(intel.now - 5 * YEAR, 15 * YEAR), serial=serial
    )
