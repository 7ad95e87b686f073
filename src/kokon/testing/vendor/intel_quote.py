"""Intel's quotes: SGX version 3, TDX versions 4 and 5, signed by an attestation key that a PCK vouches for. Pure.

"Intel SGX ECDSA Quote Library API", appendix A.4 (version 3), and "Intel TDX DCAP Quoting Library API", appendix A.3
and A.4 (versions 4 and 5). Integers are little-endian, keys and signatures big-endian.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from cryptography.hazmat.primitives.asymmetric import ec

from kokon.testing.vendor.authority import KeyRing, Span, point, sign_raw
from kokon.testing.vendor.intel_pki import IntelAuthorities, Platform

INTEL_QE: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
"""Intel's vendor id for quoting enclaves."""
SGX: Final = 0
TDX: Final = 0x81
SGX_DEBUG: Final = 1 << 1
TD_DEBUG: Final = 1 << 0
TD_SEPT_VE_DISABLE: Final = 1 << 28
QE_SIGNER: Final = bytes.fromhex("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff")
"""MRSIGNER of Intel's SGX quoting enclave; the TDX one has another in the real world, here both have this."""

Certification = Literal["pem", "pem-nul", "der", "encrypted-ppid", "plain-ppid"]
_CERTIFICATION_TYPES: Final[dict[Certification, int]] = {
    "plain-ppid": 1,
    "encrypted-ppid": 3,
    "pem": 5,
    "pem-nul": 5,
    "der": 5,
}


@dataclass(frozen=True, slots=True)
class SgxReport:
    """A report of an enclave, 384 bytes (SDM, "REPORT"). `flags` without debug: INIT and 64-bit mode."""

    cpusvn: bytes = bytes(16)
    miscselect: int = 0
    isvextprodid: bytes = bytes(16)
    flags: int = 0x5
    xfrm: int = 0xE7
    mrenclave: bytes = bytes(range(32))
    mrsigner: bytes = bytes(range(100, 132))
    configid: bytes = bytes(64)
    isvprodid: int = 0
    isvsvn: int = 0
    configsvn: int = 0
    isvfamilyid: bytes = bytes(16)
    report_data: bytes = bytes(64)
    reserved: bytes = bytes(12)
    """What stands behind MISCSELECT, where zeros belong."""

    def encode(self) -> bytes:
        """The 384 bytes."""
        body = bytearray(384)
        struct.pack_into("<16sI12s16sQQ32s", body, 0, self.cpusvn, self.miscselect, self.reserved, self.isvextprodid,
                         self.flags, self.xfrm, self.mrenclave)  # fmt: skip
        body[128:160] = self.mrsigner
        struct.pack_into("<64sHHH", body, 192, self.configid, self.isvprodid, self.isvsvn, self.configsvn)
        struct.pack_into("<16s64s", body, 304, self.isvfamilyid, self.report_data)
        return bytes(body)


@dataclass(frozen=True, slots=True)
class TdReport:
    """A report of a trust domain: 584 bytes, or 648 with the two fields of TDX 1.5."""

    tee_tcb_svn: bytes = bytes([5, 1, 2]) + bytes(13)
    mrseam: bytes = b"\x5e" * 48
    mrsignerseam: bytes = bytes(48)
    seam_attributes: int = 0
    td_attributes: int = TD_SEPT_VE_DISABLE
    xfam: int = 0x61AE7
    mrtd: bytes = bytes(range(48))
    mrconfigid: bytes = bytes(48)
    mrowner: bytes = bytes(48)
    mrownerconfig: bytes = bytes(48)
    rtmrs: tuple[bytes, bytes, bytes, bytes] = (bytes(48), bytes(48), bytes(48), bytes(48))
    report_data: bytes = bytes(64)
    tee_tcb_svn2: bytes = bytes([5, 1, 2]) + bytes(13)
    mrservicetd: bytes = bytes(48)

    def encode(self, *, later: bool = False) -> bytes:
        """The body of TD 1.0, with `later` that of TD 1.5."""
        attributes = struct.pack("<QQQ", self.seam_attributes, self.td_attributes, self.xfam)
        body = self.tee_tcb_svn + self.mrseam + self.mrsignerseam + attributes + self.mrtd + self.mrconfigid
        body += self.mrowner + self.mrownerconfig + b"".join(self.rtmrs) + self.report_data
        return body + self.tee_tcb_svn2 + self.mrservicetd if later else body


@dataclass(frozen=True, slots=True)
class QuotingEnclave:
    """Intel's enclave that signs quotes, and how this quote was put together.

    `report` is its own report, whose REPORTDATA is filled in; `bound` False breaks that binding. `reversed_chain` puts
    the certificates in another order than they should be in, as some real quotes have them.
    """

    report: SgxReport = field(
        default_factory=lambda: SgxReport(flags=0x11, mrsigner=QE_SIGNER, isvprodid=1, isvsvn=8, mrenclave=b"\x9e" * 32)
    )
    vendor: bytes = INTEL_QE
    authentication_data: bytes = bytes(range(32))
    user_data: bytes = bytes(20)
    qe_svn: int = 8
    pce_svn: int = 13
    attestation_key_type: int = 2
    certification: Certification = "pem"
    bound: bool = True
    reversed_chain: bool = False
    padding: int = 0
    """Zeros behind the quote, as kernels hand it out."""


TDX_QE: Final = QuotingEnclave(
    report=SgxReport(flags=0x11, mrsigner=QE_SIGNER, isvprodid=2, isvsvn=4, mrenclave=b"\x9e" * 32)
)
"""The quoting enclave for trust domains has the product id 2."""


@dataclass(frozen=True, slots=True)
class Quoter:
    """What makes quotes on one platform."""

    keys: KeyRing
    authorities: IntelAuthorities
    platform: Platform
    enclave: QuotingEnclave
    pck_span: Span | None = None

    def sgx(self, report: SgxReport) -> bytes:
        """A quote of version 3 over an enclave's report."""
        header = self._header(3, SGX, struct.pack("<HH", self.enclave.qe_svn, self.enclave.pce_svn))
        return self._finish(header + report.encode(), nested=False)

    def sgx_v4(self, report: SgxReport) -> bytes:
        """A quote of version 4 over an enclave's report."""
        return self._finish(self._header(4, SGX, bytes(4)) + report.encode(), nested=True)

    def tdx(self, report: TdReport, version: int = 4, *, later: bool = False) -> bytes:
        """A quote over a trust domain's report: version 4, or 5 with a TD 1.0 or, if `later`, a TD 1.5 body."""
        body = report.encode(later=later)
        if version >= 5:
            body = struct.pack("<HI", 3 if later else 2, len(body)) + body
        return self._finish(self._header(version, TDX, bytes(4)) + body, nested=True)

    def attestation_key(self) -> ec.EllipticCurvePrivateKey:
        """The quoting enclave's key on this platform."""
        return self.keys.elliptic(f"attestation key {self.platform.chip}")

    def _header(self, version: int, tee: int, versions: bytes) -> bytes:
        enclave = self.enclave
        kind = struct.pack("<HHI", version, enclave.attestation_key_type, tee)
        return kind + versions + enclave.vendor + enclave.user_data

    def _finish(self, signed: bytes, *, nested: bool) -> bytes:
        """The quote from what is signed: signature, key, and the certification of the key."""
        key = self.attestation_key()
        public = point(key.public_key())
        inner = self._enclave_report(public) + self._certification()
        if nested:
            inner = struct.pack("<HI", 6, len(inner)) + inner
        data = sign_raw(key, signed) + public + inner
        return signed + struct.pack("<I", len(data)) + data + bytes(self.enclave.padding)

    def _enclave_report(self, public: bytes) -> bytes:
        """The quoting enclave's report over the key, signed by the PCK, and the authentication data."""
        authentication = self.enclave.authentication_data
        digest = hashlib.sha256(public + authentication).digest() if self.enclave.bound else b"\x66" * 32
        cpusvn = self.enclave.report.cpusvn
        if not any(cpusvn):
            cpusvn = self.platform.raw_cpusvn
        report = replace(self.enclave.report, report_data=digest.ljust(64, b"\0"), cpusvn=cpusvn).encode()
        signature = sign_raw(self.authorities.pck_key(self.platform), report)
        return report + signature + struct.pack("<H", len(authentication)) + authentication

    def _certification(self) -> bytes:
        kind = self.enclave.certification
        data = self._chain() if _CERTIFICATION_TYPES[kind] == 5 else self._platform_id(encrypted=kind != "plain-ppid")
        return struct.pack("<HI", _CERTIFICATION_TYPES[kind], len(data)) + data

    def _chain(self) -> bytes:
        pck, authority, root = self.authorities.chain(self.platform, self.pck_span)
        chain = [pck, root, authority] if self.enclave.reversed_chain else [pck, authority, root]
        if self.enclave.certification == "der":
            return b"".join(chain)
        return b"".join(map(pem, chain)) + (b"\0" if self.enclave.certification == "pem-nul" else b"")

    def _platform_id(self, *, encrypted: bool) -> bytes:
        """PPID, CPUSVN, PCESVN and PCEID, by which Intel's service finds the PCK certificate."""
        authorities = self.authorities
        ppid = authorities.encrypted_ppid(self.platform) if encrypted else authorities.ppid(self.platform)
        return ppid + self.platform.raw_cpusvn + struct.pack("<H", self.platform.pcesvn) + self.platform.pceid


def pem(certificate: bytes) -> bytes:
    """A certificate in PEM (RFC 7468)."""
    text = base64.b64encode(certificate)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""])
