"""The command line of QEMU as a pure function of what a launch consists of.

Every text that comes from outside is doubled at its commas (QEMU's own escape) and refused with control characters, so
that a file name cannot become an option. The kernel command line comes from the guest image alone, since it is
measured. The guest's devices are found by name: block devices by their serial numbers `root`, `initdata`, `scratch`,
`image` and `vol-NAME`, virtio-serial ports by `kokon.psp`, `kokon.status` and `kokon.control`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kokon.errors import UsageError
from kokon.host.request import CPU, Publish

PROGRAM = "qemu-system-x86_64"
GUEST_ADDRESS = "10.0.2.15"
GUEST_PORT = 8443
SOCKET_PATH_LIMIT = 107
"""Bytes of a UNIX socket's path on Linux (unix(7): sun_path has 108 with the closing zero)."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A raw image behind a virtio block device; `precious` says that its content must survive a crash of the host."""

    serial: str
    file: Path
    readonly: bool = False
    precious: bool = False


@dataclass(frozen=True, slots=True)
class Channels:
    """Files and sockets between QEMU and the host, all inside one container's directory."""

    console: Path
    status: Path
    processor: Path
    control: Path
    monitor: Path


@dataclass(frozen=True, slots=True)
class Machine:
    """All that QEMU is given. `memory` in MiB."""

    name: str
    firmware: Path
    kernel: Path
    initrd: Path
    cmdline: str
    accelerator: str
    memory: int
    cpus: int
    disks: tuple[Disk, ...]
    channels: Channels
    publish: Publish
    capture: Path | None = None


def option(head: str, **members: object) -> str:
    """One QEMU option `head,name=value,...`; `_` in a name means `-`. Raises `UsageError` (`path-unsafe`)."""
    parts = [head] if head else []
    for name, value in members.items():
        parts.append(f"{name.replace('_', '-')}={_escaped(str(value))}")
    return ",".join(parts)


def _escaped(value: str) -> str:
    if not value.isprintable():
        raise UsageError("path-unsafe", "a path or name contains control characters", found=repr(value)[:200])
    return value.replace(",", ",,")


def build_argv(machine: Machine) -> list[str]:
    """The command line that starts `machine`. Raises `UsageError` (`path-unsafe`, `path-too-long`)."""
    return [
        PROGRAM,
        *("-name", option("", guest=f"kokon-{machine.name}")),
        *base_arguments(machine.accelerator, machine.memory, machine.cpus),
        *boot_arguments(machine.firmware, machine.kernel, machine.initrd, machine.cmdline),
        *_disk_arguments(machine.disks),
        *_channel_arguments(machine.channels, recorded=machine.capture is not None),
        *_network_arguments(machine.publish, machine.capture),
        *("-device", "virtio-rng-pci"),
    ]


def base_arguments(accelerator: str, memory: int, cpus: int) -> list[str]:
    """The bare machine: no default devices, no user configuration, system calls of QEMU itself restricted."""
    return [
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-M", "q35", "-accel", accelerator, "-cpu", CPU, "-smp", str(cpus), "-m", f"{memory}M"),
    ]


def boot_arguments(firmware: Path, kernel: Path, initrd: Path, cmdline: str) -> list[str]:
    """What the launch measurement covers."""
    if not cmdline.isprintable():
        raise UsageError(
            "path-unsafe", "the kernel command line contains control characters", found=repr(cmdline)[:200]
        )
    return ["-bios", str(firmware), "-kernel", str(kernel), "-initrd", str(initrd), "-append", cmdline]


def _disk_arguments(disks: tuple[Disk, ...]) -> list[str]:
    argv = []
    for disk in disks:
        argv += disk_arguments(disk)
    return argv


def disk_arguments(disk: Disk) -> list[str]:
    """One disk. A full host file system becomes an I/O error in the guest instead of a stopped guest."""
    members = {"file.driver": "file", "file.filename": disk.file, "read-only": "on" if disk.readonly else "off"}
    if not (disk.readonly or disk.precious):
        members["cache.no-flush"] = "on"
    blockdev = option("driver=raw", **{"node-name": f"d-{disk.serial}"}, **members)
    device = option(
        "virtio-blk-pci", drive=f"d-{disk.serial}", serial=disk.serial, werror="report", rerror="report", romfile=""
    )
    return ["-blockdev", blockdev, "-device", device]


def _channel_arguments(channels: Channels, *, recorded: bool) -> list[str]:
    """The guest's channels; if `recorded`, what the guest says on its sockets is also kept in a file beside each."""
    for path in (channels.processor, channels.control, channels.monitor):
        if len(str(path).encode()) > SOCKET_PATH_LIMIT:
            raise UsageError(
                "path-too-long",
                f"{path} is too long for a socket",
                expected=f"<= {SOCKET_PATH_LIMIT} bytes",
                found=len(str(path).encode()),
                hint="set KOKON_HOME to a shorter path or choose a shorter --name",
            )
    listening = {"server": "on", "wait": "off"}
    said = {path: {"logfile": f"{path}.said"} if recorded else {} for path in (channels.processor, channels.control)}
    return [
        *("-chardev", option("file", id="console", path=channels.console), "-serial", "chardev:console"),
        *("-device", "virtio-serial-pci"),
        *("-chardev", option("socket", id="psp", path=channels.processor, **said[channels.processor])),
        *("-device", option("virtserialport", chardev="psp", name="kokon.psp")),
        *("-chardev", option("file", id="status", path=channels.status)),
        *("-device", option("virtserialport", chardev="status", name="kokon.status")),
        *("-chardev", option("socket", id="control", path=channels.control, **listening, **said[channels.control])),
        *("-device", option("virtserialport", chardev="control", name="kokon.control")),
        *("-chardev", option("socket", id="qmp", path=channels.monitor, **listening)),
        *("-mon", "chardev=qmp,mode=control"),
    ]


def _network_arguments(publish: Publish, capture: Path | None) -> list[str]:
    forward = f"tcp:{publish.address}:{publish.port}-{GUEST_ADDRESS}:{GUEST_PORT}"
    argv = ["-netdev", option("user", id="net0", restrict="off", hostfwd=forward)]
    argv += ["-device", option("virtio-net-pci", netdev="net0", romfile="")]
    if capture is not None:
        argv += ["-object", option("filter-dump", id="dump0", netdev="net0", file=capture)]
    return argv
