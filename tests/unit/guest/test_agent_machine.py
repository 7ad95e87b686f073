"""What the agent finds of its machine: network requests, ports, disks, sysctls."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import HostError, InternalError
from kokon.guest.agent import boot, network, ports
from kokon.guest.agent.disks import find_disk, read_head, volume_serial
from kokon.guest.agent.kmsg import already_reported, corrupted_device, watch


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
def test_loopback_means_the_host(host: str) -> None:
    assert network.resolve(host, 5000) == ("10.0.2.2", 5000)


@pytest.mark.parametrize("host", ["registry.example", "10.0.0.1", "localhost.example", "128.0.0.1"])
def test_other_names_stay(host: str) -> None:
    assert network.resolve(host, 443) == (host, 443)


def test_structures_have_the_kernels_sizes() -> None:
    assert len(network.interface_request("eth0", b"")) == 40
    assert len(network.socket_address("10.0.2.15")) == 16
    route = network.route_request("10.0.2.2")
    assert len(route) == 120
    assert route[24:32] == struct.pack("=HH4s", 2, 0, bytes([10, 0, 2, 2]))
    assert struct.unpack_from("=H", route, 56) == (3,)


def test_the_one_interface_is_found(tmp_path: Path) -> None:
    for name in ("lo", "eth0"):
        (tmp_path / name).mkdir()
    assert network.find_interface(tmp_path) == "eth0"


@pytest.mark.parametrize("names", [["lo"], ["lo", "eth0", "eth1"], ["lo", "x" * 16]])
def test_no_network_or_too_many_are_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(HostError) as caught:
        network.find_interface(tmp_path)
    assert caught.value.code == "network-missing"


def test_ports_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "vport1p1").mkdir()
    (tmp_path / "vport1p1" / "name").write_text("kokon.status\n")
    (tmp_path / "vport0p0").mkdir()  # a port without a name
    assert ports.find_port("kokon.status", tmp_path) == Path("/dev/vport1p1")
    assert ports.find_port("kokon.stat", tmp_path) is None
    assert ports.find_port("kokon.status", tmp_path / "none") is None
    assert ports.open_port("kokon.no-such-port", 0) is None


def test_a_port_that_cannot_be_opened_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "find_port", lambda _: Path("/nonexistent/vport"))
    assert ports.open_port("kokon.status", 0) is None
    monkeypatch.setattr(ports, "find_port", lambda _: Path("/dev/null"))
    assert ports.open_port("kokon.status", 0) is not None


def disk(root: Path, name: str, serial: bytes | None) -> None:
    (root / name).mkdir()
    if serial is not None:
        (root / name / "serial").write_bytes(serial)


def test_disks_are_found_by_serial(tmp_path: Path) -> None:
    disk(tmp_path, "vda", b"root")
    disk(tmp_path, "vdb", b"scratch")
    disk(tmp_path, "dm-0", None)
    assert find_disk("scratch", tmp_path) == Path("/dev/vdb")
    with pytest.raises(HostError) as caught:
        find_disk("initdata", tmp_path)
    assert caught.value.code == "disk-missing"
    disk(tmp_path, "vdc", b"scratch\n")
    with pytest.raises(HostError) as caught:
        find_disk("scratch", tmp_path)
    assert caught.value.code == "disk-ambiguous"


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True))
def test_volume_serials_fit(name: str) -> None:
    assert volume_serial(name) == f"vol-{name}"[:20]


def test_heads_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"abc" * 100)
    assert read_head(path, 5) == b"abcab"
    assert len(read_head(path, 1000)) == 300


def test_sysctls_are_set_where_they_exist(tmp_path: Path) -> None:
    for name in ("kernel/modules_disabled", "kernel/printk", "user/max_user_namespaces"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    boot.lock_modules(tmp_path)
    assert (tmp_path / "kernel" / "modules_disabled").read_text() == "1"
    boot.harden(tmp_path)
    assert (tmp_path / "kernel" / "printk").read_text() == "1 4 1 1"
    assert (tmp_path / "user" / "max_user_namespaces").read_text() == "0"
    assert not boot.set_kernel("none/such", "1", tmp_path)


def test_a_sysctl_that_is_not_taken_stops_the_boot(tmp_path: Path) -> None:
    (tmp_path / "kernel" / "printk").mkdir(parents=True)  # there, and not writable
    with pytest.raises(OSError):
        boot.harden(tmp_path)


def test_every_console_is_detached(tmp_path: Path) -> None:
    for name in ("ttyS0", "ttyS1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "console").write_text("Y")
    (tmp_path / "tty0").mkdir()
    listing = tmp_path / "consoles"
    listing.write_text("")
    boot.detach_consoles(tmp_path, listing)
    assert {(tmp_path / name / "console").read_text() for name in ("ttyS0", "ttyS1")} == {"N"}


def test_a_console_that_stays_stops_the_boot(tmp_path: Path) -> None:
    listing = tmp_path / "consoles"
    listing.write_text("hvc0 -W- (EC p  ) 229:0\n")
    with pytest.raises(InternalError) as caught:
        boot.detach_consoles(tmp_path, listing)
    assert caught.value.code == "internal-error"


VERITY = b"3,383,1,-;device-mapper: verity: 253:2: data block 12 is corrupted\n"
REPORT = b"3,382,16886458,-;device-mapper: crypt: dm-2: INTEGRITY AEAD ERROR, sector 78304\n"


def test_only_the_kernels_own_word_counts() -> None:
    assert corrupted_device(REPORT) == "dm-2"
    assert corrupted_device(REPORT.replace(b";", b";trusted_key: ", 1)) == "dm-2"  # as Linux 6.12 has it
    assert corrupted_device(REPORT.replace(b"3,", b"12,", 1)) is None  # facility 1: a process wrote it
    assert corrupted_device(b"3,382,1,-;something else\n " + REPORT.partition(b";")[2]) is None
    assert corrupted_device(b"x;" + REPORT.partition(b";")[2]) is None
    assert corrupted_device(VERITY) == "253:2"
    assert corrupted_device(VERITY.replace(b"data", b"metadata")) == "253:2"
    assert corrupted_device(VERITY.replace(b"3,", b"12,", 1)) is None
    assert corrupted_device(b"3,382,1,-;something else\n " + VERITY.partition(b";")[2]) is None


@given(st.binary(max_size=200))
def test_no_record_crashes_the_watch(record: bytes) -> None:
    assert corrupted_device(record) is None or b"INTEGRITY AEAD ERROR" in record or b"verity" in record


def test_the_watch_reports_once(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    reports: list[object] = []
    log.write_bytes(REPORT)
    with log.open("rb") as file:
        watch(file.fileno(), reports.append)
        watch(file.fileno(), reports.append)  # at the end: returns
    assert reports == ["dm-2"]
    assert already_reported(log) == "dm-2"
    log.write_bytes(b"")
    assert already_reported(log) is None
    assert already_reported(tmp_path / "none") is None
    watch(-1, reports.append)
    assert reports == ["dm-2"]
