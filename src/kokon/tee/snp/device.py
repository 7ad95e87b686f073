"""Evidence from inside an SEV-SNP guest: configfs-tsm, else the ioctls of /dev/sev-guest. [machine's edge: a device]

Written from Linux's Documentation/virt/coco/sev-guest.rst and include/uapi/linux/sev-guest.h, tested against a fake
device, UNTESTED ON HARDWARE. Standard library only, since guests use it.
"""

from __future__ import annotations

import array
import fcntl
import os
import struct
from collections.abc import Callable
from typing import Final

from kokon.errors import HostError, MalformedError, UsageError
from kokon.tee import tsm
from kokon.tee.evidence import Evidence
from kokon.tee.snp.certtable import EXTENDED_LIMIT, decode_extended
from kokon.tee.snp.report import REPORT_SIZE, parse_report

DEVICE: Final = "/dev/sev-guest"
SNP_GET_REPORT: Final = 0xC020_5300
SNP_GET_DERIVED_KEY: Final = 0xC020_5301
SNP_GET_EXT_REPORT: Final = 0xC020_5302
"""_IOWR('S', 0 to 2, struct snp_guest_request_ioctl), which has 32 bytes."""
KEY_SIZE: Final = 32
RESPONSE_SIZE: Final = 4000
VMPL_LIMIT: Final = 3
_MESSAGE_VERSION: Final = 1
_CALL: Final = struct.Struct("=B7xQQQ")
_REQUEST: Final = struct.Struct("=64sI28s")
_EXTENDED: Final = struct.Struct("=96sQI4x")
_KEY_REQUEST: Final = struct.Struct("=IIQIIQ")
"""struct snp_derived_key_req: root key (0: VCEK), reserved, guest fields, VMPL, guest SVN, TCB version."""
_HEADER: Final = struct.Struct("<II24s")
_INVALID_LENGTH: Final = 1
"""SNP_GUEST_VMM_ERR_INVALID_LEN in the upper half of exitinfo2: the buffer for certificates is too small."""

Ioctl = Callable[[int, int, bytearray], int]
Location = str | os.PathLike[str]


def attest(
    report_data: bytes,
    *,
    vmpl: int = 0,
    tree: tsm.Tree | None = None,
    device: Location = DEVICE,
    ioctl: Ioctl = fcntl.ioctl,
) -> Evidence:
    """Evidence over 64 bytes of the caller's choice, with the certificates that the host keeps for its guests, if any.

    Raises `UsageError` (`report-data-size`, `vmpl-range`), `HostError` (`snp-device-missing`, `snp-device-failed`,
    `snp-device-provider`, and those of `tsm.read_report`), `MalformedError` (`snp-device-answer`, and those of the
    parsers).
    """
    if len(report_data) != tsm.INBLOB_SIZE:
        raise UsageError("report-data-size", "report data have 64 bytes", expected=64, found=len(report_data))
    if not 0 <= vmpl <= VMPL_LIMIT:
        raise UsageError("vmpl-range", "no such privilege level", expected=f"0 to {VMPL_LIMIT}", found=vmpl)
    tree = tree or tsm.Tree()
    if tsm.available(tree.root):
        evidence = _from_tsm(report_data, vmpl, tree)
    else:
        evidence = _from_ioctl(report_data, vmpl, device, ioctl)
    if parse_report(evidence.report).report_data != report_data:
        raise MalformedError("snp-device-answer", "the processor reported on something else")
    return evidence


def derived_key(*, fields: int, device: Location = DEVICE, ioctl: Ioctl = fcntl.ioctl) -> bytes:
    """A 32-byte key of this chip that is the same for guests which are alike in `fields` (guest field select of
    MSG_KEY_REQ, 56860: bit 0 policy, 3 measurement, 5 TCB).

    Raises `HostError` (`snp-device-missing`, `snp-device-failed`), `MalformedError` (`snp-device-answer`).
    """
    descriptor = _open(device)
    try:
        data = _exchange(descriptor, SNP_GET_DERIVED_KEY, _KEY_REQUEST.pack(0, 0, fields, 0, 0, 0), ioctl)
    finally:
        os.close(descriptor)
    status, _, _ = _HEADER.unpack_from(data)
    key = data[_HEADER.size : _HEADER.size + KEY_SIZE]
    if status != 0 or not any(key):
        raise MalformedError(
            "snp-device-answer", "the security processor gave no key", expected="status 0", found=f"status {status:#x}"
        )
    return key


def _from_tsm(report_data: bytes, vmpl: int, tree: tsm.Tree) -> Evidence:
    report = tsm.read_report(report_data, privilege=vmpl, tree=tree)
    if report.provider != tsm.PROVIDERS["snp"]:
        raise HostError(
            "snp-device-provider", "this is no SEV-SNP guest", expected=tsm.PROVIDERS["snp"], found=report.provider
        )
    if len(report.outblob) != REPORT_SIZE:
        raise MalformedError(
            "snp-device-answer", "the report has a wrong size", expected=REPORT_SIZE, found=len(report.outblob)
        )
    return decode_extended(report.outblob + report.auxblob)


def _from_ioctl(report_data: bytes, vmpl: int, device: Location, ioctl: Ioctl) -> Evidence:
    descriptor = _open(device)
    try:
        request = _REQUEST.pack(report_data, vmpl, bytes(28))
        report, table = _extended(descriptor, request, ioctl)
    finally:
        os.close(descriptor)
    return decode_extended(report + table)


def _open(device: Location) -> int:
    try:
        return os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            "snp-device-missing",
            "this machine offers no SEV-SNP reports",
            expected=f"{tsm.ROOT} or {device}",
            found=error.strerror,
            hint="inside an SNP guest: modprobe sev-guest",
        ) from error


def _extended(descriptor: int, request: bytes, ioctl: Ioctl) -> tuple[bytes, bytes]:
    """The report and the host's certificate table; without the table if that fits into no buffer."""
    table = array.array("B", bytes(EXTENDED_LIMIT - REPORT_SIZE - (EXTENDED_LIMIT - REPORT_SIZE) % 4096))
    address, _count = table.buffer_info()
    body = _EXTENDED.pack(request, address, len(table))
    try:
        return _call(descriptor, SNP_GET_EXT_REPORT, body, ioctl), table.tobytes()
    except _TableTooLargeError:
        return _call(descriptor, SNP_GET_REPORT, request, ioctl), b""


class _TableTooLargeError(Exception):
    pass


def _call(descriptor: int, code: int, body: bytes, ioctl: Ioctl) -> bytes:
    """One guest message; the report out of the firmware's answer MSG_REPORT_RSP (56860)."""
    data = _exchange(descriptor, code, body, ioctl)
    status, size, _reserved = _HEADER.unpack_from(data)
    if status != 0 or size != REPORT_SIZE:
        raise MalformedError(
            "snp-device-answer",
            "the security processor refused the request",
            expected=f"status 0, {REPORT_SIZE} bytes",
            found=f"status {status:#x}, {size} bytes",
        )
    return data[_HEADER.size : _HEADER.size + REPORT_SIZE]


def _exchange(descriptor: int, code: int, body: bytes, ioctl: Ioctl) -> bytes:
    """One guest message; the firmware's answer."""
    sent, answer = array.array("B", body), array.array("B", bytes(RESPONSE_SIZE))
    call = bytearray(_CALL.pack(_MESSAGE_VERSION, sent.buffer_info()[0], answer.buffer_info()[0], 0))
    try:
        ioctl(descriptor, code, call)
    except OSError as error:
        *_sent, errors = _CALL.unpack(call)
        if errors >> 32 == _INVALID_LENGTH and code == SNP_GET_EXT_REPORT:
            raise _TableTooLargeError from error
        raise HostError(
            "snp-device-failed",
            "the security processor does not answer",
            found=f"{error.strerror}, firmware error {errors & 0xFFFF_FFFF:#x}, hypervisor error {errors >> 32:#x}",
        ) from error
    return answer.tobytes()
