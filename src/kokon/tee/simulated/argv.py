"""QEMU's command line as the simulated processor reads it: what is measured, and that nothing else reaches the
guest's memory.

Only options on the lists below are accounted for. Everything else is refused, since an option that this code does not
know might load other code than what is measured (QEMU has many: loader devices, pflash drives, option ROMs, machine
properties).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kokon.errors import MalformedError

PROGRAM: Final = "qemu-system-x86_64"
ARGUMENTS_LIMIT: Final = 512
ARGUMENT_LIMIT: Final = 16 << 10
VCPUS_LIMIT: Final = 64
PORT_NAME: Final = "kokon.psp"

_MEASURED: Final = ("-bios", "-kernel", "-initrd", "-append", "-smp", "-cpu")
_FLAGS: Final = frozenset(
    {"-nodefaults", "-no-user-config", "-no-reboot", "-no-shutdown", "-nographic", "-no-hpet", "-S", "-enable-kvm"}
)
_REQUIRED_FLAGS: Final = ("-nodefaults", "-no-user-config")
_VALUES: Final = frozenset(
    {
        *_MEASURED,
        "-M",
        "-accel",
        "-blockdev",
        "-chardev",
        "-device",
        "-display",
        "-drive",
        "-m",
        "-machine",
        "-mon",
        "-monitor",
        "-name",
        "-netdev",
        "-object",
        "-parallel",
        "-pidfile",
        "-qmp",
        "-rtc",
        "-sandbox",
        "-serial",
        "-uuid",
        "-vga",
    }
)
_MACHINE_MEMBERS: Final = frozenset(
    {"type", "accel", "usb", "vmport", "smm", "hpet", "pit", "sata", "smbus", "i8042", "graphics", "kernel-irqchip"}
    | {"kernel_irqchip", "dump-guest-core", "mem-merge"}
)
_IMPLIED: Final = {
    "-M": "type",
    "-machine": "type",
    "-accel": "accel",
    "-chardev": "backend",
    "-device": "driver",
    "-drive": "file",
    "-object": "qom-type",
}
"""Options whose members are looked at, with the name that QEMU gives to a first member without one."""
_KINDS: Final = {
    "-M": frozenset({"q35", "pc"}),
    "-machine": frozenset({"q35", "pc"}),
    "-accel": frozenset({"tcg", "kvm"}),
    "-object": frozenset({"filter-dump", "rng-random", "rng-builtin", "iothread", "memory-backend-ram"}),
    "-device": frozenset(
        {"virtio-blk-pci", "virtio-net-pci", "virtio-rng-pci", "virtio-serial-pci", "virtserialport", "virtconsole"}
        | {"virtio-scsi-pci", "scsi-hd", "virtio-balloon-pci", "vhost-vsock-pci", "pcie-root-port"}
    ),
}


@dataclass(frozen=True, slots=True)
class LaunchInputs:
    """What of a launch is measured. `append` is the kernel command line, `cpu` QEMU's `-cpu` argument."""

    firmware: Path
    kernel: Path
    initrd: Path
    append: str
    vcpus: int
    cpu: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command line that is accounted for: `options` are pairs of option and argument (None for a flag), in
    order."""

    program: str
    options: tuple[tuple[str, str | None], ...]
    inputs: LaunchInputs
    socket: str

    def argv(self, replaced: Mapping[str, str]) -> list[str]:
        """The command line with the arguments of the options in `replaced` exchanged."""
        argv = [self.program]
        for name, value in self.options:
            argv.append(name)
            if value is not None:
                argv.append(replaced.get(name, value))
        return argv


def _refused(message: str, found: object, expected: object = None) -> MalformedError:
    return MalformedError(
        "qemu-argument-unaccounted",
        message,
        expected=expected,
        found=found,
        hint="the processor only launches what it can measure",
    )


def launch_inputs(argv: Sequence[str]) -> LaunchInputs:
    """What of this command line is measured. Raises `MalformedError` as `parse_command` does."""
    return parse_command(argv).inputs


def parse_command(argv: Sequence[str]) -> Command:
    """The command line, split and checked.

    Raises `MalformedError`: `qemu-argument-unaccounted` (something that is not known to leave the measured memory
    alone), `qemu-argument-missing`, `qemu-argument-twice`, `vcpus-range`.
    """
    if not 0 < len(argv) <= ARGUMENTS_LIMIT or any(len(item) > ARGUMENT_LIMIT or "\0" in item for item in argv):
        raise _refused("the command line of QEMU is empty, too long or not text", f"{len(argv)} arguments")
    if argv[0].rpartition("/")[2] != PROGRAM:
        raise _refused("this is not QEMU for x86-64", argv[0], PROGRAM)
    options = _split(argv[1:])
    sockets = [_check_option(name, value or "") for name, value in options]
    for name in _REQUIRED_FLAGS:
        _once(options, name)
    machines = [value for name, value in options if name in ("-M", "-machine")]
    if len(machines) != 1:
        raise _refused("exactly one machine is needed", len(machines), 1)
    psp = [path for path in sockets if path is not None]
    ports = [
        value for name, value in options if name == "-device" and _members(name, value or "").get("name") == PORT_NAME
    ]
    if len(psp) != 1 or len(ports) != 1 or _members("-device", ports[0] or "").get("chardev") != "psp":
        raise _refused("the guest needs exactly one port to the processor", len(psp), f"{PORT_NAME} on chardev psp")
    return Command(argv[0], options, _inputs(options), psp[0])


def _split(arguments: Sequence[str]) -> tuple[tuple[str, str | None], ...]:
    options: list[tuple[str, str | None]] = []
    rest = iter(arguments)
    for name in rest:
        if name in _FLAGS:
            options.append((name, None))
        elif name in _VALUES:
            value = next(rest, None)
            if value is None:
                raise MalformedError("qemu-argument-missing", f"{name} lacks its argument", expected="an argument")
            options.append((name, value))
        else:
            raise _refused("an option of QEMU that the processor cannot account for", name)
    return tuple(options)


def _once(options: Sequence[tuple[str, str | None]], name: str) -> str:
    values = [value for option, value in options if option == name]
    if not values:
        raise MalformedError("qemu-argument-missing", f"{name} is missing from the command line", expected=name)
    if len(values) > 1:
        raise MalformedError("qemu-argument-twice", f"{name} is there more than once", expected=1, found=len(values))
    return values[0] or ""


def _members(name: str, value: str) -> dict[str, str]:
    """`driver,a=b,c=d` as a dict; the first part gets its implied name. Doubled commas stand for one (QEMU's
    escape)."""
    members: dict[str, str] = {}
    for index, part in enumerate(value.replace(",,", "\0").split(",")):
        key, equals, text = part.replace("\0", ",").partition("=")
        if not equals:
            key, text = (_IMPLIED[name], key) if index == 0 else (key, "on")
        if key in members:
            raise MalformedError("qemu-argument-twice", "a member of an option is there more than once", found=key)
        members[key] = text
    return members


def _check_option(name: str, value: str) -> str | None:
    """Refuse arguments that could bring in unmeasured code; the socket's path if this is the processor's channel."""
    if name not in _IMPLIED:
        return None
    members = _members(name, value)
    kind = members.get(_IMPLIED[name], "")
    if name in _KINDS and kind not in _KINDS[name]:
        raise _refused(f"an argument of {name} that the processor cannot account for", value[:200])
    if name in ("-M", "-machine") and not set(members) <= _MACHINE_MEMBERS:
        raise _refused("a property of the machine that the processor cannot account for", value[:200])
    if name == "-drive" and members.get("if") not in ("none", "virtio"):
        raise _refused("a drive that may be firmware", value[:200], "if=none or if=virtio")
    if name == "-device":
        _check_device(value, members)
    if name == "-chardev" and members.get("id") == "psp":
        # QEMU keeps a copy of what the guest says in `logfile`: the host sees that anyway.
        if kind != "socket" or set(members) - {"logfile"} != {"backend", "id", "path"}:
            raise _refused("the channel to the processor has a wrong form", value[:200], "socket,id=psp,path=...")
        return members["path"]
    return None


def _check_device(value: str, members: Mapping[str, str]) -> None:
    if members.get("romfile", "") or ("netdev" in members and "romfile" not in members):
        raise _refused("a device with an option ROM, which is not measured", value[:200], "romfile=")
    if "bootindex" in members:
        raise _refused("a device that asks to be booted from", value[:200])


def _inputs(options: Sequence[tuple[str, str | None]]) -> LaunchInputs:
    values = {name: _once(options, name) for name in _MEASURED}
    smp = values["-smp"]
    if not smp.isascii() or not smp.isdecimal() or not 1 <= int(smp[:9]) <= VCPUS_LIMIT or smp != str(int(smp[:9])):
        raise MalformedError(
            "vcpus-range", "-smp must be a plain number of CPUs", expected=f"1 to {VCPUS_LIMIT}", found=smp[:40]
        )
    return LaunchInputs(
        firmware=Path(values["-bios"]),
        kernel=Path(values["-kernel"]),
        initrd=Path(values["-initrd"]),
        append=values["-append"],
        vcpus=int(smp),
        cpu=values["-cpu"],
    )
