"""Event logs of measured boot that replay to the registers: TCG's crypto-agile form and the CCEL. Pure.

TCG PC Client Platform Firmware Profile, sections 10.2 and 10.4.5; for the CCEL, UEFI 2.10, section 38.4: the same, with
registers counted from 1 for RTMR0. Integers are little-endian.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

ALGORITHMS: Final[dict[str, int]] = {"sha1": 0x04, "sha256": 0x0B, "sha384": 0x0C, "sha512": 0x0D}
NO_ACTION: Final = 0x03
SEPARATOR: Final = 0x04
ACTION: Final = 0x05
EVENT_TAG: Final = 0x06
IPL: Final = 0x0D
S_CRTM_VERSION: Final = 0x08
EFI_VARIABLE: Final = 0x80000001
EFI_APPLICATION: Final = 0x80000003
EFI_ACTION: Final = 0x80000007
EFI_PLATFORM_FIRMWARE_BLOB: Final = 0x80000008


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One event. What is extended is the digest of `measured`, or of `data` if that is None."""

    register: int
    type: int
    data: bytes
    measured: bytes | None = None

    def digest(self, algorithm: str) -> bytes:
        """What goes into the register; zeros for a remark that is not extended."""
        if self.type == NO_ACTION:
            return bytes(hashlib.new(algorithm).digest_size)
        return hashlib.new(algorithm, self.data if self.measured is None else self.measured).digest()


BOOT: Final = (
    LogEvent(0, S_CRTM_VERSION, "Kokon simulated firmware 1\0".encode("utf-16-le")),
    LogEvent(0, EFI_PLATFORM_FIRMWARE_BLOB, bytes(16), b"firmware volume"),
    LogEvent(7, SEPARATOR, bytes(4)),
    LogEvent(4, EFI_ACTION, b"Calling EFI Application from Boot Option"),
    LogEvent(4, EFI_APPLICATION, b"path of the boot loader", b"Authenticode of the boot loader"),
    LogEvent(8, IPL, b"grub_cmd: linux /vmlinuz\0"),
    LogEvent(9, IPL, b"/vmlinuz\0", b"the kernel"),
    *(LogEvent(register, SEPARATOR, bytes(4)) for register in range(7)),
)
"""A short measured boot into the PCRs of a TPM."""

CC_BOOT: Final = (
    LogEvent(1, EFI_PLATFORM_FIRMWARE_BLOB, bytes(16), b"TD hand-off block"),
    LogEvent(1, EFI_VARIABLE, b"SecureBoot", b"\0"),
    LogEvent(1, SEPARATOR, bytes(4)),
    LogEvent(2, EFI_APPLICATION, b"path of the boot loader", b"Authenticode of the boot loader"),
    LogEvent(2, SEPARATOR, bytes(4)),
    LogEvent(3, IPL, b"/vmlinuz\0", b"the kernel"),
    LogEvent(3, EVENT_TAG, b"kernel command line\0", b"console=hvc0"),
)
"""A short measured boot into the registers of a trust domain: 1 to 4 stand for RTMR0 to RTMR3."""


def startup_locality(locality: int) -> LogEvent:
    """The remark from which locality the TPM was started, which changes how PCR 0 begins."""
    return LogEvent(0, NO_ACTION, b"StartupLocality\0" + bytes([locality]))


def encode_log(events: tuple[LogEvent, ...], algorithms: tuple[str, ...] = ("sha1", "sha256")) -> bytes:
    """A crypto-agile log with a digest of each algorithm for every event."""
    announced = b"".join(struct.pack("<HH", ALGORITHMS[name], hashlib.new(name).digest_size) for name in algorithms)
    header = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(algorithms)) + announced + b"\0"
    log = struct.pack("<II20sI", 0, NO_ACTION, bytes(20), len(header)) + header
    for event in events:
        digests = b"".join(struct.pack("<H", ALGORITHMS[name]) + event.digest(name) for name in algorithms)
        head = struct.pack("<III", event.register, event.type, len(algorithms))
        log += head + digests + struct.pack("<I", len(event.data)) + event.data
    return log


def encode_old_log(events: tuple[LogEvent, ...]) -> bytes:
    """A log in the older form, SHA-1 only."""
    log = b""
    for event in events:
        log += struct.pack("<II20sI", event.register, event.type, event.digest("sha1"), len(event.data)) + event.data
    return log


def replayed(events: tuple[LogEvent, ...], algorithm: str) -> dict[int, bytes]:
    """The final value of each register that was extended."""
    registers: dict[int, bytes] = {}
    start = bytes(hashlib.new(algorithm).digest_size)
    for event in events:
        if event.type == NO_ACTION:
            if event.data.startswith(b"StartupLocality\0"):
                registers[0] = start[:-1] + event.data[16:17]
            continue
        value = registers.get(event.register, start) + event.digest(algorithm)
        registers[event.register] = hashlib.new(algorithm, value).digest()
    return registers


def pcr_bank(events: tuple[LogEvent, ...], algorithm: str = "sha256") -> tuple[bytes, ...]:
    """All 24 PCRs after those events: 17 to 22 begin with ones, as a TPM resets them (TCG PTP, section 4.6)."""
    size = hashlib.new(algorithm).digest_size
    found = replayed(events, algorithm)
    return tuple(found.get(index, (b"\xff" if 17 <= index <= 22 else b"\0") * size) for index in range(24))


def rtmrs(events: tuple[LogEvent, ...]) -> tuple[bytes, bytes, bytes, bytes]:
    """RTMR0 to RTMR3 after those events of a CCEL."""
    found = replayed(events, "sha384")
    first, second, third, fourth = (found.get(index, bytes(48)) for index in (1, 2, 3, 4))
    return first, second, third, fourth
