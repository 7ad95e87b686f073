"""What commands about measurements read: files with bounds, the inputs of a launch, numbers as people write them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cyclopts import Parameter

from kokon.cli.output import kokon_home
from kokon.errors import HostError, KokonError, UsageError
from kokon.launch.image import GuestImage, current_guest, read_guest_image

FILE_LIMIT = 1 << 30
CPUS_LIMIT = 512
"""How many numbers of CPUs one command measures."""
_SCALES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def read_input(path: Path, limit: int = FILE_LIMIT) -> bytes:
    """The content of a file of at most `limit` bytes. Raises `UsageError` (`input-unreadable`, `input-too-large`)."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UsageError("input-unreadable", f"cannot read {path}", found=error.strerror) from error
    if len(data) > limit:
        raise UsageError("input-too-large", f"{path} is too large", expected=f"<= {limit} bytes")
    return data


def write_output(path: Path, data: bytes) -> None:
    """Write a file that is not there yet. Raises `UsageError` (`output-exists`), `HostError` (`output-not-written`)."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except FileExistsError as error:
        raise UsageError("output-exists", f"{path} exists already, nothing is overwritten") from error
    except OSError as error:
        raise HostError("output-not-written", f"cannot write {path}", found=error.strerror) from error


def number(text: str, what: str) -> int:
    """A number in decimal or, after 0x, hexadecimal. Raises `UsageError` (`number-malformed`)."""
    try:
        return int(text, 0)
    except ValueError as error:
        raise UsageError("number-malformed", f"{what} is no number", expected="as 33 or 0x21", found=text) from error


def cpu_counts(text: str) -> tuple[int, ...]:
    """Numbers of CPUs as "4", "1-8" or "1,2,4". Raises `UsageError` (`cpus-malformed`)."""
    counts: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise _bad_cpus(text)
        low, high = int(first), int(last or first)
        if not 1 <= low <= high or high - low >= CPUS_LIMIT:
            raise _bad_cpus(text)
        counts += range(low, high + 1)
    if len(counts) > CPUS_LIMIT:
        raise _bad_cpus(text)
    return tuple(dict.fromkeys(counts))


def _bad_cpus(text: str) -> UsageError:
    return UsageError("cpus-malformed", "not a number of CPUs", expected="as 4, 1-8 or 1,2,4", found=text)


def memory_size(text: str) -> int:
    """Bytes of memory as QEMU's -m has it: "2G", "512M", or MiB without a unit. Raises `UsageError`
    (`memory-malformed`)."""
    digits, scale = (text[:-1], _SCALES[text[-1:].upper()]) if text[-1:].upper() in _SCALES else (text, 1 << 20)
    if not digits.isdecimal() or len(digits) > 12:
        raise UsageError("memory-malformed", "not a size of memory", expected="as 2G or 512M", found=text)
    return int(digits) * scale


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchFiles:
    """What a virtual machine is launched with.

    Parameters
    ----------
    firmware
        The firmware file (OVMF.fd).
    kernel
        The kernel; default: kernel, initrd and command line of the guest image.
    initrd
        The initial RAM disk that goes with --kernel.
    append
        The kernel command line; default: that of the guest image, or empty with --kernel.
    no_kernel
        The firmware boots from a disk: no kernel is measured.
    guest
        Directory of the guest image; default: the one built last.
    """

    firmware: Path | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    append: str | None = None
    no_kernel: bool = False
    guest: Path | None = None


@dataclass(frozen=True, slots=True)
class Boot:
    """What is booted directly, and the name of each file for people."""

    kernel: bytes
    kernel_name: str
    initrd: bytes | None
    initrd_name: str
    cmdline: str


def guest_image(files: LaunchFiles) -> GuestImage:
    """The guest image that is meant. Raises as `read_guest_image`."""
    return read_guest_image((files.guest or current_guest(kokon_home())).absolute())


def guest_images() -> Iterator[GuestImage]:
    """All guest images below Kokon's home that are whole."""
    folder = current_guest(kokon_home()).parent
    for directory in sorted(folder.iterdir()) if folder.is_dir() else ():
        if directory.is_symlink() or not directory.is_dir():
            continue
        try:
            yield read_guest_image(directory)
        except KokonError:
            continue


def direct_boot(files: LaunchFiles) -> Boot | None:
    """What is booted, None with --no-kernel. Raises `UsageError` (`boot-options`, `input-...`), and what
    `read_guest_image` raises."""
    if files.no_kernel:
        if files.kernel or files.initrd or files.append is not None:
            raise UsageError("boot-options", "--no-kernel excludes --kernel, --initrd and --append")
        return None
    if files.kernel is not None:
        initrd = None if files.initrd is None else read_input(files.initrd)
        initrd_name = "none" if files.initrd is None else files.initrd.name
        return Boot(read_input(files.kernel), files.kernel.name, initrd, initrd_name, files.append or "")
    if files.initrd is not None:
        raise UsageError("boot-options", "--initrd needs --kernel")
    image = guest_image(files)
    cmdline = image.cmdline if files.append is None else files.append
    return boot_of(image, cmdline)


def boot_of(image: GuestImage, cmdline: str) -> Boot:
    """A guest image with a command line. Raises `UsageError` (`input-...`)."""
    return Boot(read_input(image.kernel), "kernel", read_input(image.initrd), "initrd", cmdline)


def firmware(files: LaunchFiles) -> tuple[str, bytes]:
    """Name and content of the firmware. Raises `UsageError` (`firmware-needed`: none was named; `input-...`)."""
    if files.firmware is None:
        raise UsageError(
            "firmware-needed",
            "which firmware? That of the guest image serves simulation only",
            hint="name an OVMF build: --firmware OVMF.fd",
        )
    return files.firmware.name, read_input(files.firmware, 64 << 20)


@contextlib.contextmanager
def opened_input(path: Path) -> Iterator[BinaryIO]:
    """The file to read, or standard input for `-`. Raises `UsageError` (`input-unreadable`)."""
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError("input-unreadable", f"cannot read {path}", found=error.strerror) from error
    with file:
        yield file
