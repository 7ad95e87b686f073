"""Only command lines that are accounted for are launched."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.tee.simulated.argv import launch_inputs, parse_command

GOOD = [
    "/usr/bin/qemu-system-x86_64",
    *("-name", "guest=kokon-clinic", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
    *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
    *("-M", "q35", "-accel", "tcg", "-cpu", "max,-cx16", "-smp", "2", "-m", "512M"),
    *(
        "-bios",
        "/g/bios.bin",
        "-kernel",
        "/g/vmlinuz",
        "-initrd",
        "/g/initrd",
        "-append",
        "console=ttyS0 -kernel quiet",
    ),
    *("-blockdev", "driver=raw,node-name=d-root,file.driver=file,file.filename=/g/root,read-only=on"),
    *("-device", "virtio-blk-pci,drive=d-root,serial=root,werror=report,rerror=report,romfile="),
    *("-drive", "if=none,id=x,format=raw,file=/x"),
    *("-chardev", "file,id=console,path=/c/console.log", "-serial", "chardev:console"),
    *("-device", "virtio-serial-pci"),
    *("-chardev", "socket,id=psp,path=/c/a,,b/psp.sock", "-device", "virtserialport,chardev=psp,name=kokon.psp"),
    *("-chardev", "socket,id=qmp,path=/c/qmp.sock,server=on,wait=off", "-mon", "chardev=qmp,mode=control"),
    *("-netdev", "user,id=net0,hostfwd=tcp:127.0.0.1:1-10.0.2.15:8443,hostfwd=tcp:127.0.0.1:2-10.0.2.15:80"),
    *("-device", "virtio-net-pci,netdev=net0,romfile="),
    *("-object", "filter-dump,id=dump0,netdev=net0,file=/c/net.pcap", "-device", "virtio-rng-pci"),
]


def without(name: str) -> list[str]:
    place = GOOD.index(name)
    return GOOD[:place] + GOOD[place + (1 if name.startswith("-no") else 2) :]


def with_value(name: str, value: str) -> list[str]:
    place = GOOD.index(name)
    return [*GOOD[: place + 1], value, *GOOD[place + 2 :]]


def code(argv: list[str]) -> str:
    with pytest.raises(MalformedError) as caught:
        parse_command(argv)
    return caught.value.code


def test_inputs_of_the_hosts_command_line() -> None:
    inputs = launch_inputs(GOOD)
    assert inputs.firmware == Path("/g/bios.bin")
    assert inputs.kernel == Path("/g/vmlinuz")
    assert inputs.initrd == Path("/g/initrd")
    assert inputs.append == "console=ttyS0 -kernel quiet"
    assert inputs.vcpus == 2
    assert inputs.cpu == "max,-cx16"


def test_the_command_is_put_together_again() -> None:
    command = parse_command(GOOD)
    assert command.socket == "/c/a,b/psp.sock"
    assert command.argv({}) == GOOD
    replaced = command.argv({"-kernel": "/proc/self/fd/5"})
    assert replaced[replaced.index("-kernel") + 1] == "/proc/self/fd/5"
    assert "console=ttyS0 -kernel quiet" in replaced


@pytest.mark.parametrize("name", ["-bios", "-kernel", "-initrd", "-append", "-smp", "-cpu"])
def test_measured_options_are_there_exactly_once(name: str) -> None:
    assert code(without(name)) == "qemu-argument-missing"
    assert code([*GOOD, name, "1"]) == "qemu-argument-twice"


@pytest.mark.parametrize("name", ["-nodefaults", "-no-user-config"])
def test_required_flags(name: str) -> None:
    assert code(without(name)) == "qemu-argument-missing"


@pytest.mark.parametrize(
    "extra",
    [
        ["--kernel", "/evil"],
        ["-device", "loader,file=/evil,addr=0x100000"],
        ["-device", "driver=loader,file=/evil"],
        ["-device", '{"driver":"loader","file":"/evil"}'],
        ["-device", "virtio-blk-pci,drive=x,bootindex=0"],
        ["-device", "virtio-net-pci,netdev=net0"],
        ["-device", "virtio-net-pci,netdev=net0,romfile=/evil"],
        ["-device", "virtio-blk-pci,drive=x,romfile=/evil"],
        ["-device", "e1000,netdev=net0,romfile="],
        ["-drive", "if=pflash,file=/evil"],
        ["-drive", "file=/evil"],
        ["-pflash", "/evil"],
        ["-fw_cfg", "name=opt/x,string=y"],
        ["-option-rom", "/evil"],
        ["-acpitable", "file=/evil"],
        ["-global", "x.y=z"],
        ["-readconfig", "/evil"],
        ["-incoming", "tcp:0:1"],
        ["-loadvm", "evil"],
        ["-daemonize"],
        ["-plugin", "/evil"],
        ["-gdb", "tcp::1"],
        ["-object", "memory-backend-file,id=m,mem-path=/evil,size=1M"],
        ["-object", "qom-type=memory-backend-file,id=m"],
        ["-accel", "xen"],
        ["-M", "q35,kernel=/evil"],
        ["/evil/disk.img"],
        [""],
        ["-chardev", "socket,id=psp,path=/other"],
        ["-device", "virtserialport,chardev=qmp,name=kokon.psp"],
    ],
)
def test_what_is_not_accounted_for(extra: list[str]) -> None:
    assert code(GOOD + extra) == "qemu-argument-unaccounted"


@pytest.mark.parametrize("value", ["pc-q35-9.2", "q35,kernel=/evil", "type=isapc", "q35,firmware=/evil", "none"])
def test_machines(value: str) -> None:
    assert code(with_value("-M", value)) == "qemu-argument-unaccounted"


def test_machine_properties_that_do_no_harm() -> None:
    assert parse_command(with_value("-M", "q35,usb=off,vmport=off")).inputs.vcpus == 2
    assert parse_command(with_value("-M", "type=q35")).inputs.vcpus == 2


def test_a_record_of_what_the_guest_says_is_allowed() -> None:
    value = "socket,id=psp,path=/s,logfile=/s.said"
    assert parse_command([item if not item.startswith("socket,id=psp") else value for item in GOOD]).socket == "/s"


@pytest.mark.parametrize(
    "value", ["socket,id=psp,path=/s,reconnect=1", "socket,id=psp,path=/s,server=on", "pty,id=psp,path=/s"]
)
def test_the_channel_has_one_form(value: str) -> None:
    argv = [item if not item.startswith("socket,id=psp") else value for item in GOOD]
    assert code(argv) == "qemu-argument-unaccounted"


def test_members_are_there_once() -> None:
    assert code([*GOOD, "-device", "virtio-rng-pci,driver=loader"]) == "qemu-argument-twice"
    assert code(with_value("-M", "q35,usb=on,usb=off")) == "qemu-argument-twice"


@pytest.mark.parametrize("value", ["0", "65", "2,maxcpus=4", "cpus=2", "02", "+2", "²", "", "9" * 30])
def test_cpu_counts(value: str) -> None:
    assert code(with_value("-smp", value)) == "vcpus-range"


@pytest.mark.parametrize(
    "argv", [[], ["/bin/sh", *GOOD[1:]], GOOD * 40, [*GOOD, "-name", "x" * 20000], [*GOOD, "-name", "a\0b"]]
)
def test_shape(argv: list[str]) -> None:
    assert code(argv) == "qemu-argument-unaccounted"


def test_an_option_without_its_argument() -> None:
    assert code([*GOOD, "-name"]) == "qemu-argument-missing"


def test_no_port_to_the_processor() -> None:
    argv = [item for item in GOOD if item != "virtserialport,chardev=psp,name=kokon.psp"]
    argv.remove("-device")
    assert code(argv) == "qemu-argument-unaccounted"


@given(st.lists(st.sampled_from(GOOD) | st.text(max_size=20), max_size=30))
def test_any_arguments(argv: list[str]) -> None:
    try:
        parse_command([GOOD[0], *argv])
    except MalformedError:
        return
    raise AssertionError("a random command line was accepted")
