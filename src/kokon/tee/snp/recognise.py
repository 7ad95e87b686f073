"""Bytes that are SNP evidence, in the forms in which guests and their tools write it. Pure.

The bare report of 1184 bytes (configfs-tsm's outblob, `snpguest report`); the same with zeros behind it up to a page;
the firmware's answer MSG_REPORT_RSP, which the ioctl SNP_GET_REPORT leaves in its buffer of 4000 bytes (32 bytes of
status, size and zeros, then the report; document 56860, "Attestation Report"); and the extended report, a report
followed by the GHCB certificate table. All give the same evidence.
"""

from __future__ import annotations

import struct
from typing import Final

from kokon.errors import MalformedError
from kokon.tee.evidence import Evidence
from kokon.tee.snp.certtable import decode_extended
from kokon.tee.snp.report import POLICY_RESERVED_ONE, REPORT_SIZE

PADDED_LIMIT: Final = 4096
_RESPONSE: Final = struct.Struct("<II24s")
_MARKS: Final = struct.Struct("<I4xQ36xI20xI")
_PLAUSIBLE: Final = 64


def recognise(data: bytes) -> Evidence | None:
    """The evidence in `data`, or None for what does not begin like a report.

    Raises `MalformedError` for what does: `report-version`, `report-reserved`, `report-padding`, `certificate-table`,
    `evidence-too-large`.
    """
    report = _without_header(data)
    if not _begins_like_a_report(report):
        return None
    if len(data) <= PADDED_LIMIT and not any(report[REPORT_SIZE:]):
        return decode_extended(report[:REPORT_SIZE])
    if report is not data:
        raise MalformedError("report-padding", "bytes after the report in the firmware's answer", found=len(data))
    found = decode_extended(data)
    if not found.certificates and not found.parts:
        raise MalformedError(
            "report-padding", "too many zeros after the report", expected=f"<= {PADDED_LIMIT} bytes", found=len(data)
        )
    return found


def _without_header(data: bytes) -> bytes:
    if len(data) < _RESPONSE.size + REPORT_SIZE:
        return data
    status, size, reserved = _RESPONSE.unpack_from(data)
    return data[_RESPONSE.size :] if (status, size) == (0, REPORT_SIZE) and not any(reserved) else data


def _begins_like_a_report(data: bytes) -> bool:
    """By what every report has: a small version and algorithm, bit 17 of the policy, zeros in a reserved field."""
    if len(data) < REPORT_SIZE:
        return False
    version, policy, algorithm, reserved = _MARKS.unpack_from(data)
    return 0 < version < _PLAUSIBLE and algorithm < _PLAUSIBLE and bool(policy & POLICY_RESERVED_ONE) and not reserved
