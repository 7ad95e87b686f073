"""What the kernel needs before anything else runs: file systems, and no console, since that belongs to the host.

The initial RAM disk may have mounted some of these already; those are left alone.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from kokon.errors import InternalError
from kokon.guest.agent import kernel
from kokon.guest.agent.network import RESOLVER

_SAFE = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
# target, type, source, flags, options
_MOUNTS = (
    ("/proc", "proc", "proc", _SAFE, ""),
    ("/sys", "sysfs", "sysfs", _SAFE, ""),
    ("/dev", "devtmpfs", "devtmpfs", kernel.MS_NOSUID, "mode=755"),
    ("/dev/pts", "devpts", "devpts", kernel.MS_NOSUID | kernel.MS_NOEXEC, "mode=620,gid=5,ptmxmode=666"),
    ("/run", "tmpfs", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=700,size=64m"),
    ("/tmp", "tmpfs", "tmpfs", _SAFE, "mode=1777,size=16m"),  # noqa: S108
    ("/sys/fs/cgroup", "cgroup2", "cgroup2", _SAFE, ""),
)
_SETTINGS = (
    ("kernel/printk", "1 4 1 1"),
    ("kernel/dmesg_restrict", "1"),
    ("kernel/kptr_restrict", "2"),
    ("kernel/core_pattern", "|/nonexistent"),
    ("kernel/modprobe", "/nonexistent"),
    ("kernel/sysrq", "0"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/kexec_load_disabled", "1"),
    # A host that passes for Hyper-V would be handed the kernel's log at a panic.
    ("kernel/hyperv_record_panic_msg", "0"),
    # Without user namespaces, no process of the application gets capabilities that it was not given.
    ("user/max_user_namespaces", "0"),
)


def silence() -> None:
    """Point standard input, output and error at /dev/null: the console belongs to the host.

    Without a usable /dev/null the descriptors are closed instead.
    """
    try:
        null = os.open("/dev/null", os.O_RDWR)
    except OSError:
        os.closerange(0, 3)
        return
    for descriptor in range(3):
        os.dup2(null, descriptor)
    if null > 2:
        os.close(null)


def detach_consoles(root: Path = Path("/sys/class/tty"), listing: Path = Path("/proc/consoles")) -> None:
    """Take the kernel's messages off every console, for good.

    A log level does not do that: a host that stops the processor for a while gets the name of the running process (soft
    lockup, an emergency), and a panic prints registers whatever the level. Raises `InternalError` if a console is left.
    """
    for switch in sorted(root.glob("*/console")):
        with switch.open("w") as file:
            file.write("N")
    if listing.read_text():
        raise InternalError("internal-error", "a console of the kernel cannot be detached")


def mount_all() -> None:
    """Mount what a running system needs. Raises `OSError`."""
    for target, kind, source, flags, options in _MOUNTS:
        if kind == "devpts":
            Path(target).mkdir(exist_ok=True)
        if os.path.ismount(target):
            continue
        try:
            kernel.mount(source, target, kind, flags, options)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
    kernel.mount("none", "/", "none", kernel.MS_REC | kernel.MS_PRIVATE)
    Path("/run/resolv.conf").write_text(f"nameserver {RESOLVER}\n")


def harden(root: Path = Path("/proc/sys")) -> None:
    """Set what keeps the kernel quiet and closed. A setting that this kernel lacks is passed over. Raises `OSError`."""
    for name, value in _SETTINGS:
        set_kernel(name, value, root)


def lock_modules(root: Path = Path("/proc/sys")) -> None:
    """From now on no kernel module can be loaded, by nobody. Raises `OSError`."""
    set_kernel("kernel/modules_disabled", "1", root)


def set_kernel(name: str, value: str, root: Path = Path("/proc/sys")) -> bool:
    """Write one sysctl; False if the kernel does not have it. Raises `OSError` if it does not take the value."""
    try:
        with (root / name).open("r+") as file:
            file.write(value)
    except FileNotFoundError:
        return False
    return True
