"""The yardstick for cold starts: the same kernel under the same QEMU with nothing but busybox."""

from __future__ import annotations

import stat
import subprocess
import tempfile
import time
from pathlib import Path

from bench.images import busybox_program
from kokon.errors import HostError
from kokon.guest.build.initrd import Entry, write_archive
from kokon.host.qemu import PROGRAM, base_arguments
from kokon.launch.image import GuestImage

MARK = "busybox is up"
INIT = f"#!/bin/sh\nmount -t devtmpfs dev /dev\necho {MARK} > /dev/ttyS0\npoweroff -f\n"
SECONDS = 120


def tuned_options(guest: GuestImage) -> str:
    """The guest's kernel options without those of its root file system."""
    return guest.cmdline.partition(" verity.")[0]


def boot_busybox(guest: GuestImage, accelerator: str, options: str) -> float:
    """Seconds from starting QEMU to the first word of a bare busybox initrd, with the guest's kernel and `options`.

    Raises `HostError` (`bench-tool-missing`, `bench-no-boot`).
    """
    with tempfile.TemporaryDirectory() as scratch:
        area = Path(scratch)
        (area / "initrd").write_bytes(_initrd(busybox_program()))
        return _boot(guest, area, accelerator, options)


def _initrd(busybox: bytes) -> bytes:
    directory, program = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755
    link = stat.S_IFLNK | 0o777
    entries = [Entry(name, directory) for name in ("bin", "dev")]
    entries += [Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)), Entry("bin/busybox", program, busybox)]
    entries += [Entry(f"bin/{name}", link, b"busybox") for name in ("sh", "mount", "echo", "poweroff")]
    return write_archive([*entries, Entry("init", program, INIT.encode())])


def _boot(guest: GuestImage, area: Path, accelerator: str, options: str) -> float:
    console = area / "console"
    console.write_bytes(b"")
    argv = [
        PROGRAM, *base_arguments(accelerator, 384, 1), "-bios", str(guest.firmware), "-kernel", str(guest.kernel),
        "-initrd", str(area / "initrd"), "-append", options,
        "-chardev", f"file,id=console,path={console}", "-serial", "chardev:console",
    ]  # fmt: skip
    begin = time.monotonic()
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        while MARK.encode() not in console.read_bytes():
            if process.poll() is not None or time.monotonic() - begin > SECONDS:
                raise HostError("bench-no-boot", "the bare busybox initrd did not come up", found=console.read_bytes())
            time.sleep(0.01)
        return time.monotonic() - begin
    finally:
        process.kill()
        process.wait()
