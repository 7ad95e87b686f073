"""What a TD will measure to, computed without the hardware. Pure: contents are arguments.

MRTD (Intel TDX Module Base Architecture, "MRTD: Build-Time Measurement Register") covers the firmware file and nothing
else. RTMR1 and RTMR2 are extended by the firmware and by Linux: at a direct boot RTMR1 by the kernel, RTMR2 by its
command line and initrd. RTMR0 also depends on ACPI tables and the memory map, which QEMU makes at launch, and is not
computed here. What was checked against what: docs/MEASURING.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from kokon.errors import MalformedError
from kokon.tee.snp.pages import PAGE
from kokon.tee.tdx.authenticode import authenticode_digest
from kokon.tee.tdx.bzimage import as_loaded_by_qemu
from kokon.tee.tdx.tdvf import MR_EXTEND, PAGE_AUG, TdvfSection

CHUNK: Final = 256
"""Bytes that one TDH.MR.EXTEND measures."""
CMDLINE_LIMIT: Final = 4096

PageOrder = Literal["page", "section"]
"""Whether a section's contents are measured page by page as the pages are added (KVM as merged into Linux, Google) or
after all pages of the section (earlier KVM for TDX, as in Canonical's and Intel's kernels)."""

CALLING: Final = b"Calling EFI Application from Boot Option"
SEPARATOR: Final = bytes(4)
LEAVING: Final = b"Exit Boot Services Invocation"
LEFT: Final = b"Exit Boot Services Returned with Success"


@dataclass(frozen=True, slots=True)
class ExpectedEvent:
    """One extension of a register: what it stands for ("kernel", "cmdline"...) and the 48 bytes that go in."""

    what: str
    digest: bytes


def _announce(name: bytes, address: int) -> bytes:
    return name.ljust(16, b"\0") + address.to_bytes(8, "little") + bytes(104)


def mrtd(sections: Iterable[TdvfSection], order: PageOrder = "page") -> bytes:
    """The 48-byte MRTD of a guest launched with a firmware of these sections."""
    digest = hashlib.sha384()
    for section in sections:
        measured = bool(section.attributes & MR_EXTEND)
        if section.attributes & PAGE_AUG:
            continue
        for start in range(0, section.size, PAGE):
            digest.update(_announce(b"MEM.PAGE.ADD", section.address + start))
            if measured and order == "page":
                digest.update(_contents(section, start, PAGE))
        if measured and order == "section":
            digest.update(_contents(section, 0, section.size))
    return digest.digest()


def _contents(section: TdvfSection, start: int, size: int) -> bytes:
    return b"".join(
        _announce(b"MR.EXTEND", section.address + at) + section.data[at : at + CHUNK]
        for at in range(start, start + size, CHUNK)
    )


def replayed(events: Iterable[ExpectedEvent]) -> bytes:
    """The 48-byte RTMR that these extensions lead to (SHA-384, starting at zero)."""
    value = bytes(48)
    for event in events:
        value = hashlib.sha384(value + event.digest).digest()
    return value


def _hashed(what: str, data: bytes) -> ExpectedEvent:
    return ExpectedEvent(what, hashlib.sha384(data).digest())


def rtmr1_events(kernel: bytes, *, separator: bool = True) -> tuple[ExpectedEvent, ...]:
    """What is extended into RTMR1 when firmware boots a kernel directly; `kernel` as the firmware gets it.

    `separator`: the firmware extends its last separator here and not into RTMR0; builds of OVMF do either. Raises
    `MalformedError` (`pe-malformed`).
    """
    events = [ExpectedEvent("kernel", authenticode_digest(kernel)), _hashed("calling the boot option", CALLING)]
    if separator:
        events.append(_hashed("separator", SEPARATOR))
    return (*events, _hashed("leaving boot services", LEAVING), _hashed("boot services left", LEFT))


def cmdline_event(cmdline: str, suffix: str = " initrd=initrd") -> ExpectedEvent:
    """The extension by Linux's EFI stub for a command line: UTF-16LE with a NUL, behind it what OVMF adds.

    Raises `MalformedError` (`cmdline-malformed`).
    """
    text = cmdline + suffix
    if "\0" in text or len(text) > CMDLINE_LIMIT:
        raise MalformedError("cmdline-malformed", "the kernel command line holds a NUL or is too long", found=len(text))
    try:
        return _hashed("cmdline", (text + "\0").encode("utf-16-le"))
    except UnicodeEncodeError as error:
        raise MalformedError("cmdline-malformed", "the kernel command line is not text") from error


def rtmr2_events(cmdline: str, initrd: bytes | None) -> tuple[ExpectedEvent, ...]:
    """What is extended into RTMR2 at a direct boot. Raises `MalformedError` (`cmdline-malformed`)."""
    if initrd is None:
        return (cmdline_event(cmdline, ""),)
    return (cmdline_event(cmdline), _hashed("initrd", initrd))


@dataclass(frozen=True, slots=True)
class DirectBoot:
    """A kernel that QEMU hands to the firmware. `memory` is the guest's in bytes: given, the kernel's header is taken
    as QEMU changes it for that much memory; None: as it is in the file (OVMF since 2025.05)."""

    kernel: bytes
    initrd: bytes | None
    cmdline: str
    memory: int | None = None
    separator: bool = True


def measure_boot(boot: DirectBoot) -> dict[str, tuple[ExpectedEvent, ...]]:
    """The extensions of "rtmr1" and "rtmr2"; `replayed` makes the values of them.

    Raises `MalformedError`: `pe-malformed`, `kernel-malformed`, `memory-range`, `cmdline-malformed`,
    `cmdline-changes-kernel`.
    """
    kernel = boot.kernel
    if boot.memory is not None:
        if "vga=" in boot.cmdline:
            raise MalformedError(
                "cmdline-changes-kernel",
                "QEMU writes the vga= option into the kernel's header, which is not reproduced here",
                hint="leave vga= out, or measure the kernel as it is in the file",
            )
        kernel = as_loaded_by_qemu(kernel, len(boot.initrd or b""), boot.memory)
    return {
        "rtmr1": rtmr1_events(kernel, separator=boot.separator),
        "rtmr2": rtmr2_events(boot.cmdline, boot.initrd),
    }
