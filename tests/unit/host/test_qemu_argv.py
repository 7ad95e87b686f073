import dataclasses
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import UsageError
from kokon.host.qemu import Channels, Disk, Machine, build_argv, option
from kokon.host.request import Publish

STATE = Path("/state/clinic")
CHANNELS = Channels(
    STATE / "console.log", STATE / "status.jsonl", STATE / "psp.sock", STATE / "c.sock", STATE / "q.sock"
)
MACHINE = Machine(
    name="clinic",
    firmware=Path("/guest/bios.bin"),
    kernel=Path("/guest/vmlinuz"),
    initrd=Path("/guest/initrd"),
    cmdline="console=ttyS0 verity.root=00",
    accelerator="tcg",
    memory=384,
    cpus=2,
    disks=(
        Disk("root", Path("/guest/root.img"), readonly=True),
        Disk("scratch", STATE / "scratch.img"),
        Disk("vol-data", Path("/srv/data.img"), precious=True),
    ),
    channels=CHANNELS,
    publish=Publish("127.0.0.1", 9443),
)


def split(text: str) -> dict[str, str]:
    """QEMU's own reading of an option: members at single commas, doubled ones are one comma."""
    parts = _split(text)
    return dict(part.split("=", 1) if "=" in part else (part, "") for part in parts)


def _split(text: str) -> list[str]:
    parts, at = [""], 0
    while at < len(text):
        if text[at] == "," and text[at + 1 : at + 2] == ",":
            parts[-1] += ","
            at += 1
        elif text[at] == ",":
            parts.append("")
        else:
            parts[-1] += text[at]
        at += 1
    return parts


def after(argv: list[str], flag: str) -> list[str]:
    return [argv[index + 1] for index, word in enumerate(argv) if word == flag]


def test_measured_inputs_come_as_given() -> None:
    argv = build_argv(MACHINE)
    assert after(argv, "-append") == ["console=ttyS0 verity.root=00"]
    assert after(argv, "-kernel") == ["/guest/vmlinuz"]
    assert after(argv, "-initrd") == ["/guest/initrd"]
    assert after(argv, "-bios") == ["/guest/bios.bin"]
    assert after(argv, "-cpu") == ["max,-cx16"]
    assert after(argv, "-smp") == ["2"]
    assert after(argv, "-m") == ["384M"]


def test_what_the_guest_says_on_sockets_is_recorded_with_its_packets() -> None:
    quiet = [split(text) for text in after(build_argv(MACHINE), "-chardev")]
    assert not any("logfile" in chardev for chardev in quiet)
    recorded = [
        split(text)
        for text in after(build_argv(dataclasses.replace(MACHINE, capture=Path("/state/net.pcap"))), "-chardev")
    ]
    files = {chardev["id"]: chardev["logfile"] for chardev in recorded if "logfile" in chardev}
    assert files == {"psp": "/state/clinic/psp.sock.said", "control": "/state/clinic/c.sock.said"}


def test_devices_have_the_names_that_the_guest_looks_for() -> None:
    argv = build_argv(MACHINE)
    devices = [split(text) for text in after(argv, "-device")]
    assert [d["serial"] for d in devices if "virtio-blk-pci" in d] == ["root", "scratch", "vol-data"]
    assert [d["name"] for d in devices if "virtserialport" in d] == ["kokon.psp", "kokon.status", "kokon.control"]
    disks = [split(text) for text in after(argv, "-blockdev")]
    assert [disk["read-only"] for disk in disks] == ["on", "off", "off"]
    assert ["cache.no-flush" in disk for disk in disks] == [False, True, False], "a volume must reach the disk"
    (network,) = after(argv, "-netdev")
    assert split(network)["hostfwd"] == "tcp:127.0.0.1:9443-10.0.2.15:8443"


def test_capture_only_when_asked() -> None:
    assert after(build_argv(MACHINE), "-object") == []
    argv = build_argv(dataclasses.replace(MACHINE, capture=Path("/tmp/net,work.pcap")))
    assert split(after(argv, "-object")[0])["file"] == "/tmp/net,work.pcap"


PATHS = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="/"), min_size=1, max_size=20).filter(
    lambda name: name.isprintable()
)


@given(PATHS)
def test_no_path_becomes_an_option(name: str) -> None:
    file = Path("/srv") / name
    argv = build_argv(dataclasses.replace(MACHINE, disks=(Disk("vol-data", file),), capture=file))
    plain = build_argv(dataclasses.replace(MACHINE, disks=(Disk("vol-data", Path("/srv/x")),), capture=Path("/srv/x")))
    assert len(argv) == len(plain)
    (disk,), (dump,) = after(argv, "-blockdev"), after(argv, "-object")
    assert split(disk) | {"file.filename": "/srv/x"} == split(after(plain, "-blockdev")[0])
    assert split(disk)["file.filename"] == split(dump)["file"] == str(file)


@pytest.mark.parametrize("text", ["a\nb", "a\0b", "a\x1b[2J", "\u202e"])
def test_control_characters_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        option("file", path=text)
    assert caught.value.code == "path-unsafe"
    with pytest.raises(UsageError) as caught:
        build_argv(dataclasses.replace(MACHINE, cmdline=text))
    assert caught.value.code == "path-unsafe"


def test_socket_paths_have_a_limit() -> None:
    deep = dataclasses.replace(CHANNELS, control=Path("/" + "d" * 110))
    with pytest.raises(UsageError) as caught:
        build_argv(dataclasses.replace(MACHINE, channels=deep))
    assert caught.value.code == "path-too-long"


def test_qemu_reads_commas_as_we_write_them(tmp_path: Path) -> None:
    """The real parser opens the file with the comma: it complains about the format of our choice, not about options."""
    image = tmp_path / "a,readonly=on,b.img"
    image.write_bytes(bytes(4096))
    argv = ["qemu-system-x86_64", "-M", "none", "-display", "none", "-nodefaults", "-monitor", "stdio"]
    disk = option("driver=raw", **{"node-name": "d0", "file.driver": "file", "file.filename": image})
    answer = subprocess.run(
        [*argv, "-blockdev", disk], input=b"info block -n\nquit\n", capture_output=True, timeout=30, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert image.name.encode() in answer.stdout
