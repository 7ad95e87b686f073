"""The guest image under a real QEMU: init hands over to Python, and stops the machine on everything else."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kokon.guest.build import image
from kokon.guest.build.verity import BLOCK
from kokon.launch.image import GuestImage

pytestmark = pytest.mark.vm

AGENT = """
import os


def main():
    import ctypes

    console = os.open("/dev/console", os.O_WRONLY | os.O_NOCTTY)
    with open("/proc/mounts") as mounts:
        root = next(line for line in mounts if " / " in line)
    with open("/proc/self/environ") as environ:
        names = environ.read()
    os.write(console, f"agent: pid {os.getpid()} root {root.split()[:4]} env {names!r}\\n".encode())
    ctypes.CDLL(None).reboot(0x4321FEDC)
"""
SECONDS = 120


@pytest.fixture(scope="module")
def guest() -> Iterator[GuestImage]:
    with tempfile.TemporaryDirectory(prefix="kokon-boot-") as name:
        root = Path(name) / "kokon"
        (root / "guest" / "agent").mkdir(parents=True)
        for part in ("__init__.py", "guest/__init__.py", "guest/agent/__init__.py"):
            (root / part).write_text("")
        (root / "guest" / "agent" / "main.py").write_text(AGENT)
        yield image.build(Path(name) / "image", image.default_home() / "cache", package_root=root)


def boot(guest: GuestImage, cmdline: str | None = None, disk: Path | None = None) -> str:
    """What the console says until the machine is off; a machine that stays on fails the test."""
    command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    command += ["-M", "q35", "-accel", "tcg", "-cpu", "max,-cx16", "-smp", "1", "-m", "256", "-serial", "stdio"]
    command += ["-bios", str(guest.firmware), "-kernel", str(guest.kernel), "-initrd", str(guest.initrd)]
    command += ["-append", guest.cmdline if cmdline is None else cmdline]
    command += ["-drive", f"if=none,id=root,format=raw,readonly=on,file={disk or guest.root}"]
    command += ["-device", "virtio-blk-pci,drive=root,serial=root"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=True)
    return done.stdout.decode("utf-8", "replace")


def test_the_agent_is_process_one_on_a_verified_root(guest: GuestImage) -> None:
    console = boot(guest)
    assert "agent: pid 1 root ['/dev/dm-0', '/', 'erofs', 'ro,nodev," in console
    assert "env 'PATH=/usr/sbin:/usr/bin\\x00LANG=C.UTF-8\\x00'" in console


def test_a_probe_only_says_that_it_booted(guest: GuestImage) -> None:
    console = boot(guest, "console=ttyS0 panic=-1 quiet kokon.probe")
    assert "kokon: probe ok" in console
    assert "agent" not in console


def test_a_changed_block_of_the_root_stops_the_machine(guest: GuestImage, tmp_path: Path) -> None:
    disk = tmp_path / "root.img"
    shutil.copyfile(guest.root, disk)
    blocks = int(guest.cmdline.rpartition("verity.blocks=")[2])
    with disk.open("r+b") as file:
        for block in range(0, blocks, 2):
            file.seek(block * BLOCK + 100)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
    console = boot(guest, disk=disk)
    assert "agent" not in console
    assert "corrupt" in console


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("verity.root=", "verity.root=0", "not 64 hexadecimal digits: verity.root"),
        ("verity.salt=", "verity.other=", "missing on the command line"),
        ("verity.blocks=", "verity.blocks=x", "not a number of blocks: verity.blocks"),
        ("verity.blocks=", "verity.blocks=9", "device mapper: cannot load verity table"),
        ("verity.blocks=", "verity.blocks=1 verity.blocks=", "given twice on the command line: verity.blocks"),
    ],
)
def test_a_changed_command_line_stops_the_machine(guest: GuestImage, old: str, new: str, said: str) -> None:
    console = boot(guest, guest.cmdline.replace(old, new))
    assert f"kokon: init: {said}" in console
    assert "agent" not in console


def test_another_root_digest_stops_the_machine(guest: GuestImage) -> None:
    digest = guest.cmdline.partition("verity.root=")[2][:64]
    console = boot(guest, guest.cmdline.replace(digest, "0" * 64))
    assert "agent" not in console
    assert "corrupt" in console
