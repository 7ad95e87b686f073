"""Whether KVM really boots a guest here. That the device opens does not show it: on some nested machines it does not.

So the guest image is booted with `kokon.probe` on its command line, which makes its init print a line and power off.
The answer is kept for this boot of the machine, this QEMU and this guest kernel.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from kokon.errors import HostError, KokonError
from kokon.host.processes import boot_id
from kokon.host.qemu import PROGRAM, Disk, base_arguments, boot_arguments, disk_arguments
from kokon.host.state import write_whole
from kokon.launch.image import GuestImage
from kokon.wire import Fields, parse_json

DEVICE = Path("/dev/kvm")
PROBE_WORD = "kokon.probe"
PROBE_ANSWER = b"kokon: probe ok"
KVM_BROKEN = b"KVM internal error"
"""What QEMU says when KVM gives up on a guest; QEMU then waits for a debugger that will not come."""

PROBE_TIMEOUT = 20.0
PROBE_MEMORY = 384
_OUTPUT_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class KvmProbe:
    """Whether a guest booted under KVM, and what was seen."""

    usable: bool
    reason: str


def require_qemu() -> str:
    """Path of QEMU. Raises `HostError` (`qemu-missing`)."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise HostError(
            "qemu-missing",
            f"{PROGRAM} is not installed",
            hint="install it: sudo apt-get install qemu-system-x86",
        )
    return program


def qemu_version() -> str:
    """First line of what QEMU says about itself; empty if it cannot be run."""
    try:
        answer = subprocess.run(
            [PROGRAM, "--version"], capture_output=True, timeout=20, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.decode("utf-8", "replace").partition("\n")[0][:200]


def probe_kvm(home: Path, guest: GuestImage, timeout: float = PROBE_TIMEOUT) -> KvmProbe:
    """Boot `guest` under KVM once per boot of this machine, up to `timeout` seconds; later calls read the answer."""
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        there = DEVICE.exists()
        return KvmProbe(False, f"{DEVICE} may not be opened by this user" if there else f"there is no {DEVICE}")
    key = f"{boot_id()} | {qemu_version()} | {guest.kernel_release}"
    cache = home / "kvm.json"
    probe = _read_cache(cache, key)
    if probe is None:
        probe = boot_once(probe_argv(guest, "kvm"), timeout)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        answer = {"key": key, "usable": probe.usable, "reason": probe.reason}
        write_whole(cache, json.dumps(answer).encode())
    return probe


def _read_cache(cache: Path, key: str) -> KvmProbe | None:
    try:
        fields = Fields(parse_json(cache.read_bytes(), limit=4096, what="kvm.json"), "kvm.json")
        if fields.text("key") != key:
            return None
        return KvmProbe(fields.flag("usable"), fields.text("reason"))
    except (OSError, KokonError):
        return None


def probe_argv(guest: GuestImage, accelerator: str) -> list[str]:
    """QEMU with nothing but the guest image and a console on its standard output."""
    return [
        PROGRAM,
        *base_arguments(accelerator, PROBE_MEMORY, 1),
        *boot_arguments(guest.firmware, guest.kernel, guest.initrd, f"{guest.cmdline} {PROBE_WORD}"),
        *disk_arguments(Disk("root", guest.root, readonly=True)),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
    ]


def boot_once(argv: list[str], timeout: float) -> KvmProbe:
    """Run `argv` until its console shows the answer, it ends, or `timeout` seconds are over."""
    try:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as error:
        return KvmProbe(False, f"QEMU could not be started: {error.strerror}")
    with child:
        try:
            output, ended = _read_console(child, timeout)
        finally:
            child.kill()
    if PROBE_ANSWER in output:
        return KvmProbe(True, "a guest booted under KVM")
    if KVM_BROKEN in output:
        return KvmProbe(False, "KVM gave up on the guest: KVM internal error")
    last = output.decode("utf-8", "replace").strip().rpartition("\n")[2].strip()[:120]
    why = "QEMU ended" if ended else f"no guest booted within {timeout:.0f} s"
    return KvmProbe(False, f"{why}; last words: {last or 'none'}")


def _read_console(child: subprocess.Popen[bytes], timeout: float) -> tuple[bytes, bool]:
    output, deadline = b"", time.monotonic() + timeout
    if child.stdout is None:
        return output, True
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while not (PROBE_ANSWER in output or KVM_BROKEN in output or len(output) >= _OUTPUT_LIMIT):
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return output, False
            chunk = os.read(child.stdout.fileno(), 4096)
            if not chunk:
                return output, True
            output += chunk
    return output, False
