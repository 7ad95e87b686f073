"""Intel quotes, versions 3 to 5: bytes to fields and back. No cryptography, no I/O.

Layouts: Intel SGX ECDSA Quote Library API, appendix A (version 3); Intel TDX DCAP Quoting Library API, appendix A
(versions 4 and 5). Integers are little-endian, ECDSA numbers big-endian. Quotes are cut to their own lengths: what
follows is kept as `padding`, since configfs hands out buffers of a fixed size, and belongs to nothing that is signed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from kokon.errors import MalformedError

QUOTE_LIMIT: Final = 64 << 10
"""Bytes, with padding; twice what the kernel's configfs-tsm can hand out."""

SGX: Final = 0
TDX: Final = 0x81
"""TEE types."""

ENCLAVE: Final = 1
TD_1_0: Final = 2
TD_1_5: Final = 3
"""Body types of version 5, used here for all versions."""

ECDSA_P256: Final = 2
ECDSA_P384: Final = 3
"""Attestation key types."""

INTEL_QE: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
"""QE vendor id of Intel."""

PPID_PLAIN: Final = 1
PPID_RSA_2048: Final = 2
PPID_RSA_3072: Final = 3
PCK_LEAF: Final = 4
PCK_CHAIN: Final = 5
QE_REPORT: Final = 6
"""Types of certification data."""

_HEADER: Final = struct.Struct("<HHIHH16s20s")
_BODY_HEAD: Final = struct.Struct("<HI")
_CERTIFICATION: Final = struct.Struct("<HI")
_ENCLAVE: Final = struct.Struct("<16s4s12s16s16s32s32s32s32s64sHHH42s16s64s")
_ENCLAVE_RESERVED: Final = (2, 6, 8, 13)
_TD_1_0: Final = struct.Struct("<16s48s48s8s8s8s48s48s48s48s48s48s48s48s64s")
_TD_1_5: Final = struct.Struct(_TD_1_0.format + "16s48s")
_SIZES: Final = {ENCLAVE: _ENCLAVE.size, TD_1_0: _TD_1_0.size, TD_1_5: _TD_1_5.size}
_ECDSA_SIZE: Final = 64
_PPID_SIZES: Final = {PPID_PLAIN: 16, PPID_RSA_2048: 256, PPID_RSA_3072: 384}


@dataclass(frozen=True, slots=True)
class Header:
    """The first 48 bytes. `qe_svn` and `pce_svn` are reserved from version 4 on; `user_data` begins with an id of the
    platform's QE."""

    version: int
    key_type: int
    tee_type: int
    qe_svn: int
    pce_svn: int
    qe_vendor_id: bytes
    user_data: bytes


@dataclass(frozen=True, slots=True)
class EnclaveReport:
    """An SGX report body (384 bytes), of the quoted enclave or of the quoting enclave. Reserved bytes are zero.

    `misc_select` (4) and `attributes` (flags 8, XFRM 8) are bytes in memory order.
    """

    cpu_svn: bytes
    misc_select: bytes
    isv_ext_prod_id: bytes
    attributes: bytes
    mr_enclave: bytes
    mr_signer: bytes
    config_id: bytes
    isv_prod_id: int
    isv_svn: int
    config_svn: int
    isv_family_id: bytes
    report_data: bytes

    @property
    def flags(self) -> int:
        """ATTRIBUTES.FLAGS; bit 1 is DEBUG (Intel SDM volume 3D, 35.7.1)."""
        return int.from_bytes(self.attributes[:8], "little")


@dataclass(frozen=True, slots=True)
class TdReport:
    """A TD report body, version 1.0 (584 bytes) or 1.5 (648), where the last two fields are not None.

    Attributes and XFAM are 8 bytes in memory order; TEE_TCB_SVN has one byte a component.
    """

    tee_tcb_svn: bytes
    mr_seam: bytes
    mrsigner_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    rtmr3: bytes
    report_data: bytes
    tee_tcb_svn2: bytes | None = None
    mr_service_td: bytes | None = None

    @property
    def attributes(self) -> int:
        """TDATTRIBUTES as an integer (Intel TDX Module ABI, TD_ATTRIBUTES)."""
        return int.from_bytes(self.td_attributes, "little")


@dataclass(frozen=True, slots=True)
class Certification:
    """Certification data: `kind` 1 to 3 names the platform, 4 is a PCK certificate, 5 a chain. Nobody signs it."""

    kind: int
    data: bytes


@dataclass(frozen=True, slots=True)
class PlatformId:
    """Which platform a quote without certificates is from: what Intel's certification service is asked with.

    `ppid` is plain (16 bytes) or encrypted for Intel (256, 384); `pce_id` is b"" where the quote does not say.
    """

    ppid: bytes
    cpu_svn: bytes
    pce_svn: bytes
    pce_id: bytes


@dataclass(frozen=True, slots=True)
class Quote:
    """All of a quote. Signatures are r and s, the attestation key x and y, 32 bytes each."""

    header: Header
    body_type: int
    body: EnclaveReport | TdReport
    signature: bytes
    attestation_key: bytes
    qe_report: EnclaveReport
    qe_report_signature: bytes
    qe_auth_data: bytes
    certification: Certification
    padding: bytes = b""

    @property
    def signed(self) -> bytes:
        """What the attestation key signed: header and body, in version 5 with the body's type and size."""
        return encode_header(self.header) + _encode_typed_body(self)


def _malformed(what: str, expected: object, found: object) -> MalformedError:
    return MalformedError("quote-malformed", f"{what} of the quote is malformed", expected=expected, found=found)


class _Cursor:
    """Reads on from one end to the other, never past it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    def take(self, size: int, what: str) -> bytes:
        end = self.offset + size
        if end > len(self.data):
            raise _malformed(what, f"{size} bytes", f"{len(self.data) - self.offset} left")
        taken = self.data[self.offset : end]
        self.offset = end
        return taken

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")

    def finish(self, what: str) -> None:
        if self.offset != len(self.data):
            raise _malformed(what, "no more bytes", f"{len(self.data) - self.offset} more")


def looks_like_quote(data: bytes, tee_type: int) -> bool:
    """True if the bytes begin like a quote of that TEE: version, attestation key type and TEE type fit."""
    if len(data) < _HEADER.size:
        return False
    version, key_type, found = struct.unpack_from("<HHI", data)
    return 3 <= version <= 5 and key_type in (ECDSA_P256, ECDSA_P384) and found == tee_type


def parse_quote(data: bytes) -> Quote:
    """The quote in at most 64 KiB.

    Raises `MalformedError`: `quote-too-large`, `quote-version`, `quote-key-type` (only ECDSA P-256 is supported),
    `quote-tee-type`, `quote-reserved`, `quote-malformed` (lengths that contradict each other, unknown types).
    """
    if len(data) > QUOTE_LIMIT:
        raise MalformedError(
            "quote-too-large", "the quote is too large", expected=f"<= {QUOTE_LIMIT} bytes", found=len(data)
        )
    cursor = _Cursor(data)
    header = Header(*_HEADER.unpack(cursor.take(_HEADER.size, "the header")))
    _check_header(header)
    body_type, body = _parse_typed_body(cursor, header)
    signature_data = _Cursor(cursor.take(cursor.number(4, "the length of the signature data"), "the signature data"))
    padding = data[cursor.offset :]
    signature = signature_data.take(_ECDSA_SIZE, "the signature")
    key = signature_data.take(_ECDSA_SIZE, "the attestation key")
    inner = signature_data
    if header.version > 3:
        certification = _parse_certification(signature_data)
        if certification.kind != QE_REPORT:
            raise _malformed("the type of the certification data", QE_REPORT, certification.kind)
        inner = _Cursor(certification.data)
    return Quote(header, body_type, body, signature, key, *_parse_qe(inner), padding)


def _check_header(header: Header) -> None:
    if not 3 <= header.version <= 5:
        raise MalformedError("quote-version", "unknown version of the quote", expected="3 to 5", found=header.version)
    if header.key_type != ECDSA_P256:
        found = "3 (ECDSA P-384)" if header.key_type == ECDSA_P384 else header.key_type
        raise MalformedError(
            "quote-key-type",
            "this type of attestation key is not supported",
            expected="2 (ECDSA P-256)",
            found=found,
            hint="configure the platform's quoting enclave for ECDSA P-256",
        )
    if header.tee_type not in (SGX, TDX) or (header.tee_type == TDX and header.version == 3):
        raise MalformedError(
            "quote-tee-type",
            "the TEE type does not fit a quote of this version",
            expected="0 (SGX), from version 4 on 0x81 (TDX)",
            found=hex(header.tee_type),
        )


def _parse_typed_body(cursor: _Cursor, header: Header) -> tuple[int, EnclaveReport | TdReport]:
    kind = ENCLAVE if header.tee_type == SGX else TD_1_0
    if header.version == 5:
        kind, size = _BODY_HEAD.unpack(cursor.take(_BODY_HEAD.size, "the type of the body"))
        if _SIZES.get(kind) != size or (kind == ENCLAVE) != (header.tee_type == SGX):
            raise _malformed("the type or size of the body", "one that fits the TEE", f"type {kind}, {size} bytes")
    data = cursor.take(_SIZES[kind], "the body")
    return kind, parse_enclave_report(data) if kind == ENCLAVE else parse_td_report(data)


def parse_enclave_report(data: bytes) -> EnclaveReport:
    """The SGX report body in 384 bytes. Raises `MalformedError`: `quote-malformed`, `quote-reserved`."""
    if len(data) != _ENCLAVE.size:
        raise _malformed("an SGX report", f"{_ENCLAVE.size} bytes", len(data))
    values = _ENCLAVE.unpack(data)
    for index in _ENCLAVE_RESERVED:
        if any(values[index]):
            raise MalformedError(
                "quote-reserved",
                "a reserved field of an SGX report is not zero",
                expected="zeros",
                found=values[index].hex(),
            )
    return EnclaveReport(*(value for index, value in enumerate(values) if index not in _ENCLAVE_RESERVED))


def parse_td_report(data: bytes) -> TdReport:
    """The TD report body in 584 or 648 bytes. Raises `MalformedError` (`quote-malformed`)."""
    if len(data) == _TD_1_0.size:
        return TdReport(*_TD_1_0.unpack(data))
    if len(data) == _TD_1_5.size:
        return TdReport(*_TD_1_5.unpack(data))
    raise _malformed("a TD report", f"{_TD_1_0.size} or {_TD_1_5.size} bytes", len(data))


def _parse_certification(cursor: _Cursor) -> Certification:
    kind, size = _CERTIFICATION.unpack(cursor.take(_CERTIFICATION.size, "the certification data"))
    data = cursor.take(size, "the certification data")
    cursor.finish("the end")
    return Certification(kind, data)


def _parse_qe(cursor: _Cursor) -> tuple[EnclaveReport, bytes, bytes, Certification]:
    report = parse_enclave_report(cursor.take(_ENCLAVE.size, "the QE report"))
    signature = cursor.take(_ECDSA_SIZE, "the signature of the QE report")
    auth_data = cursor.take(cursor.number(2, "the length of the QE's data"), "the QE's data")
    certification = _parse_certification(cursor)
    if not PPID_PLAIN <= certification.kind <= PCK_CHAIN:
        raise _malformed("the type of the certification data", "1 to 5", certification.kind)
    parse_platform_id(certification)
    return report, signature, auth_data, certification


def parse_platform_id(certification: Certification) -> PlatformId | None:
    """Which platform certification data of the types 1 to 3 names; None for other types.

    Intel's own sample leaves the PCE id at the end out. Raises `MalformedError` (`quote-malformed`).
    """
    size = _PPID_SIZES.get(certification.kind)
    if size is None:
        return None
    data = certification.data
    if len(data) not in (size + 18, size + 20):
        raise _malformed("the platform's id", f"{size + 20} bytes", len(data))
    return PlatformId(data[:size], data[size : size + 16], data[size + 16 : size + 18], data[size + 18 :])


def encode_header(header: Header) -> bytes:
    """The header's 48 bytes."""
    return _HEADER.pack(
        header.version,
        header.key_type,
        header.tee_type,
        header.qe_svn,
        header.pce_svn,
        header.qe_vendor_id,
        header.user_data,
    )


def encode_enclave_report(report: EnclaveReport) -> bytes:
    """The report's 384 bytes; inverse of `parse_enclave_report`."""
    return _ENCLAVE.pack(
        report.cpu_svn,
        report.misc_select,
        b"",
        report.isv_ext_prod_id,
        report.attributes,
        report.mr_enclave,
        b"",
        report.mr_signer,
        b"",
        report.config_id,
        report.isv_prod_id,
        report.isv_svn,
        report.config_svn,
        b"",
        report.isv_family_id,
        report.report_data,
    )


def encode_td_report(report: TdReport) -> bytes:
    """The report's 584 or 648 bytes; inverse of `parse_td_report`."""
    fields = (
        report.tee_tcb_svn,
        report.mr_seam,
        report.mrsigner_seam,
        report.seam_attributes,
        report.td_attributes,
        report.xfam,
        report.mr_td,
        report.mr_config_id,
        report.mr_owner,
        report.mr_owner_config,
        report.rtmr0,
        report.rtmr1,
        report.rtmr2,
        report.rtmr3,
        report.report_data,
    )
    if report.tee_tcb_svn2 is None or report.mr_service_td is None:
        return _TD_1_0.pack(*fields)
    return _TD_1_5.pack(*fields, report.tee_tcb_svn2, report.mr_service_td)


def _encode_typed_body(quote: Quote) -> bytes:
    body = quote.body
    data = encode_enclave_report(body) if isinstance(body, EnclaveReport) else encode_td_report(body)
    return (_BODY_HEAD.pack(quote.body_type, len(data)) if quote.header.version == 5 else b"") + data


def encode_quote(quote: Quote) -> bytes:
    """The quote's own bytes, without the padding; inverse of `parse_quote`."""
    certification = quote.certification
    inner = (
        encode_enclave_report(quote.qe_report)
        + quote.qe_report_signature
        + len(quote.qe_auth_data).to_bytes(2, "little")
        + quote.qe_auth_data
        + _CERTIFICATION.pack(certification.kind, len(certification.data))
        + certification.data
    )
    if quote.header.version > 3:
        inner = _CERTIFICATION.pack(QE_REPORT, len(inner)) + inner
    signature_data = quote.signature + quote.attestation_key + inner
    return quote.signed + len(signature_data).to_bytes(4, "little") + signature_data
