"""Evidence from inside a TD: configfs-tsm for quotes, the ioctl of /dev/tdx_guest for a bare TDREPORT, and the event
log that firmware leaves in the CCEL area of ACPI. [machine's edge: devices]

Written from Linux's Documentation/ABI/testing/configfs-tsm-report, include/uapi/linux/tdx-guest.h and ACPI 6.5 (CCEL),
tested against a fake tree, UNTESTED ON HARDWARE. Standard library only, since guests use it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kokon.errors import HostError, MalformedError, UsageError
from kokon.tee import tsm
from kokon.tee.evidence import Evidence
from kokon.tee.intel.quote import TdReport, parse_quote

DEVICE: Final = Path("/dev/tdx_guest")
EVENT_LOG: Final = Path("/sys/firmware/acpi/tables/data/CCEL")
EVENT_LOG_LIMIT: Final = 1 << 20
TDREPORT_SIZE: Final = 1024
GET_REPORT0: Final = 0xC440_5401
"""TDX_CMD_GET_REPORT0: _IOWR('T', 1, struct tdx_report_req), which is 64 bytes of report data and the TDREPORT."""

Ioctl = Callable[[int, int, bytearray], int]


def attest(report_data: bytes, *, tree: tsm.Tree | None = None, event_log: Path = EVENT_LOG) -> Evidence:
    """A quote over 64 bytes of the caller's choice, with the event log in the part "event-log" if firmware left one.

    Raises `UsageError` (`report-data-size`), `HostError` (`tdx-device-provider`, and those of `tsm.read_report`),
    `MalformedError` (`tdx-device-answer`, and those of `parse_quote`).
    """
    report = tsm.read_report(report_data, tree=tree)
    if report.provider != tsm.PROVIDERS["tdx"]:
        raise HostError("tdx-device-provider", "this is no TD", expected=tsm.PROVIDERS["tdx"], found=report.provider)
    body = parse_quote(report.outblob).body
    if not isinstance(body, TdReport) or body.report_data != report_data:
        raise MalformedError("tdx-device-answer", "the quote is about something else")
    log = read_event_log(event_log)
    return Evidence("tdx", report.outblob, parts={} if log is None else {"event-log": log})


def read_event_log(path: Path = EVENT_LOG) -> bytes | None:
    """The event log of at most 1 MiB, None if there is none.

    Raises `HostError` (`event-log-unreadable`), `MalformedError` (`tdx-device-answer`) if it is larger.
    """
    try:
        with path.open("rb") as file:
            log = file.read(EVENT_LOG_LIMIT + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        hint = "reading it needs root"
        raise HostError("event-log-unreadable", "cannot read the event log", found=error.strerror, hint=hint) from error
    if len(log) > EVENT_LOG_LIMIT:
        raise MalformedError("tdx-device-answer", "the event log is too large", expected=f"<= {EVENT_LOG_LIMIT}")
    return log


def td_report(report_data: bytes, *, device: Path = DEVICE, ioctl: Ioctl = fcntl.ioctl) -> bytes:
    """The TDREPORT, 1024 bytes, over 64 bytes of the caller's choice. Only this machine's quoting enclave can tell
    whether it is genuine; for anybody else it must become a quote.

    Raises `UsageError` (`report-data-size`), `HostError` (`tdx-device-missing`, `tdx-device-failed`).
    """
    if len(report_data) != tsm.INBLOB_SIZE:
        raise UsageError("report-data-size", "report data have 64 bytes", expected=64, found=len(report_data))
    request = bytearray(report_data + bytes(TDREPORT_SIZE))
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        hint = "inside a TD: modprobe tdx-guest"
        raise HostError(
            "tdx-device-missing", "this machine gives no TDREPORT", expected=device, found=error.strerror, hint=hint
        ) from error
    try:
        ioctl(descriptor, GET_REPORT0, request)
    except OSError as error:
        raise HostError("tdx-device-failed", "the TDX module gave no TDREPORT", found=error.strerror) from error
    finally:
        os.close(descriptor)
    return bytes(request[len(report_data) :])
