"""SNP evidence as nearly all guests send it, read several times faster than `kokon.tee.snp.envelope` reads all of it.

That is a report of version 3 or later without certificates, with every member in its place. Whatever is otherwise is
not refused here but left to that reader, which takes it or says what is wrong with it; both make the same of what both
take. Pure.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from kokon.tee.evidence import Evidence
from kokon.tee.snp.report import TURIN_FAMILY, encode_fields, parse_report, tcb_bytes

_Byte = Annotated[int, Meta(ge=0, le=0xFF)]
_Word = Annotated[int, Meta(ge=0, le=0xFFFFFFFF)]
_Long = Annotated[int, Meta(ge=0)]
_LONGEST: Final = 2**64 - 1
"""Of the 64-bit numbers; msgspec's own bounds end at 63 bits."""
_Id = Annotated[list[_Byte], Meta(min_length=16, max_length=16)]
_Bytes32 = Annotated[list[_Byte], Meta(min_length=32, max_length=32)]
_Bytes48 = Annotated[list[_Byte], Meta(min_length=48, max_length=48)]
_Bytes64 = Annotated[list[_Byte], Meta(min_length=64, max_length=64)]
_Scalar = Annotated[list[_Byte], Meta(min_length=72, max_length=72)]


class _Tcb(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bootloader: _Byte
    tee: _Byte
    snp: _Byte
    microcode: _Byte
    fmc: _Byte | None = None


class _Firmware(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    build: _Byte
    minor: _Byte
    major: _Byte


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    r: _Scalar
    s: _Scalar


class _Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Members by their names in the attesters of Confidential Containers."""

    version: Annotated[int, Meta(ge=3, le=0xFFFFFFFF)]
    guest_svn: _Word
    policy: _Long
    family_id: _Id
    image_id: _Id
    vmpl: _Word
    sig_algo: _Word
    current_tcb: _Tcb
    plat_info: _Long
    key_info: _Word
    report_data: _Bytes64
    measurement: _Bytes48
    host_data: _Bytes32
    id_key_digest: _Bytes48
    author_key_digest: _Bytes48
    report_id: _Bytes32
    report_id_ma: _Bytes32
    reported_tcb: _Tcb
    cpuid_fam_id: _Byte
    cpuid_mod_id: _Byte
    cpuid_step: _Byte
    chip_id: _Bytes64
    committed_tcb: _Tcb
    current: _Firmware
    committed: _Firmware
    launch_tcb: _Tcb
    signature: _Signature
    launch_mit_vector: _Long | None = None
    current_mit_vector: _Long | None = None


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    attestation_report: _Report
    cert_chain: None = None


def read_plain(value: Any) -> Evidence | None:
    """The evidence in a JSON object; None for what another reader must look at. Raises as `parse_report`."""
    try:
        report = msgspec.convert(value, _Envelope).attestation_report
    except msgspec.ValidationError:
        return None
    if max(report.policy, report.plat_info, report.launch_mit_vector or 0, report.current_mit_vector or 0) > _LONGEST:
        return None
    turin = report.cpuid_fam_id == TURIN_FAMILY
    tcbs = [report.current_tcb, report.reported_tcb, report.committed_tcb, report.launch_tcb]
    if any((tcb.fmc is not None) != turin for tcb in tcbs):
        return None
    current, reported, committed, launch = (tcb_bytes(msgspec.structs.asdict(tcb), turin=turin) for tcb in tcbs)
    raw = encode_fields(
        report.version,
        report.guest_svn,
        report.policy,
        bytes(report.family_id),
        bytes(report.image_id),
        report.vmpl,
        report.sig_algo,
        current,
        report.plat_info,
        report.key_info,
        bytes(report.report_data),
        bytes(report.measurement),
        bytes(report.host_data),
        bytes(report.id_key_digest),
        bytes(report.author_key_digest),
        bytes(report.report_id),
        bytes(report.report_id_ma),
        reported,
        (report.cpuid_fam_id, report.cpuid_mod_id, report.cpuid_step),
        bytes(report.chip_id),
        committed,
        (report.current.build, report.current.minor, report.current.major),
        (report.committed.build, report.committed.minor, report.committed.major),
        launch,
        report.launch_mit_vector or 0,
        report.current_mit_vector or 0,
        signature=bytes(report.signature.r + report.signature.s),
    )
    parse_report(raw)
    return Evidence("snp", raw)


READERS: Final = {"snp": read_plain}
"""By TEE: what reads the evidence of most guests."""
