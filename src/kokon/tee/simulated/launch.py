"""A launch by the simulated processor: the order, the measured copies of its files, and QEMU started from those
copies.

What is measured is what runs: firmware, kernel and initrd are copied into sealed memory files, measured there, and
QEMU is started with these instead of the paths, so that nobody can exchange a file between measuring and starting.
[machine's edge: files, processes]
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kokon.errors import HostError, MalformedError
from kokon.tee.simulated.argv import Command, parse_command
from kokon.tee.simulated.measure import FIRMWARE_LIMIT, measure_simulated
from kokon.tee.snp.hashes import KernelHashes, cmdline_digest
from kokon.wire import Fields, parse_json, unhex

ORDER_LIMIT: Final = 1 << 20
IMAGE_LIMIT: Final = 512 << 20
DEFAULT_POLICY: Final = 0x30000
_CHUNK: Final = 1 << 18
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True, slots=True)
class Order:
    """What the host asks for. `policy` is the SNP guest policy; paths are absolute."""

    command: Command
    host_data: bytes
    policy: int
    socket: Path
    exit: Path
    log: Path


@dataclass(frozen=True, slots=True)
class Measured:
    """The measured files as descriptors by QEMU option, and the digest."""

    descriptors: dict[str, int]
    measurement: bytes

    def close(self) -> None:
        """Let go of the files; a running QEMU keeps its own."""
        for descriptor in self.descriptors.values():
            os.close(descriptor)


def parse_order(data: bytes) -> Order:
    """The host's request. Raises `MalformedError`: `json-...`, `field-...`, `hex-malformed`, `path-relative`,
    `order-socket`, and those of `parse_command`.
    """
    fields = Fields(parse_json(data, limit=ORDER_LIMIT, what="order to the processor"), "order to the processor")
    argv = fields.array("argv", limit=1024)
    if not all(isinstance(item, str) for item in argv):
        raise MalformedError("field-type", "argv must be an array of texts", expected="texts")
    command = parse_command(argv)
    host_data = unhex(fields.text("host_data", limit=64), what="host_data", size=32)
    policy = fields.integer("policy", default=DEFAULT_POLICY, high=2**32 - 1)
    paths = {name: Path(fields.text(name)) for name in ("socket", "exit", "log")}
    fields.finish()
    for name, path in paths.items():
        if not path.is_absolute() or "\0" in str(path):
            raise MalformedError("path-relative", f"{name} must be an absolute path", found=path)
    if command.socket != str(paths["socket"]):
        raise MalformedError(
            "order-socket",
            "QEMU would talk to another processor",
            expected=paths["socket"],
            found=command.socket,
        )
    return Order(command, host_data, policy, paths["socket"], paths["exit"], paths["log"])


def _sealed_copy(path: Path, name: str, limit: int, update: Callable[[bytes], object]) -> int:
    """A descriptor of an unchangeable copy of a file, whose content was handed to `update` on the way."""
    copy = os.memfd_create(f"kokon-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with path.open("rb") as source:
            size = 0
            while chunk := source.read(_CHUNK):
                size += len(chunk)
                if size > limit:
                    raise MalformedError(
                        "launch-file-too-large", f"the {name} is too large", expected=f"<= {limit} bytes", found=path
                    )
                update(chunk)
                while chunk:
                    chunk = chunk[os.write(copy, chunk) :]
        os.lseek(copy, 0, os.SEEK_SET)
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        os.close(copy)
        raise HostError("launch-file-unreadable", f"the {name} {path} cannot be read", found=error.strerror) from error
    except MalformedError:
        os.close(copy)
        raise
    return copy


def measure_order(order: Order) -> Measured:
    """Copy and measure what the order launches.

    Raises `HostError` (`launch-file-unreadable`), `MalformedError` (`launch-file-too-large` and those of
    `measure_simulated`).
    """
    inputs = order.command.inputs
    firmware = bytearray()
    kernel, initrd = hashlib.sha256(), hashlib.sha256()
    files = (
        ("-bios", inputs.firmware, "firmware", FIRMWARE_LIMIT, firmware.extend),
        ("-kernel", inputs.kernel, "kernel", IMAGE_LIMIT, kernel.update),
        ("-initrd", inputs.initrd, "initrd", IMAGE_LIMIT, initrd.update),
    )
    measured = Measured({}, b"")
    try:
        for option, path, name, limit, update in files:
            measured.descriptors[option] = _sealed_copy(path, name, limit, update)
        hashes = KernelHashes(kernel.digest(), initrd.digest(), cmdline_digest(inputs.append))
        digest = measure_simulated(bytes(firmware), hashes, vcpus=inputs.vcpus, cpu=inputs.cpu)
    except (HostError, MalformedError):
        measured.close()
        raise
    return Measured(measured.descriptors, digest)


@contextmanager
def open_log(path: Path) -> Iterator[int]:
    """The log, opened to append, mode 0600. Raises `HostError` (`processor-log`)."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HostError("processor-log", f"the log {path} cannot be written", found=error.strerror) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def start_qemu(order: Order, measured: Measured, log: int) -> subprocess.Popen[bytes]:
    """QEMU, running on the measured copies. Raises `HostError` (`qemu-missing`)."""
    replaced = {option: f"/proc/self/fd/{number}" for option, number in measured.descriptors.items()}
    try:
        return subprocess.Popen(
            order.command.argv(replaced),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            pass_fds=tuple(measured.descriptors.values()),
        )
    except OSError as error:
        raise HostError(
            "qemu-missing",
            f"{order.command.program} cannot be started",
            found=error.strerror,
            hint="install the package qemu-system-x86",
        ) from error
