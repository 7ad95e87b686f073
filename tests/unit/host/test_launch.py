"""Launches with the real QEMU, paused: what it is given, what stays when a launch fails, what ps says after kill -9."""

import dataclasses
import hashlib
import json
import socket
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from host_kit import eventually, make_document, make_launchable, make_request, no_leftovers, processor, say

from kokon.errors import HostError, KokonError, MalformedError, UsageError
from kokon.host import launch
from kokon.host.control import quit_machine
from kokon.host.lifecycle import remove, stop
from kokon.host.processes import is_running, kill, wait_gone
from kokon.host.request import Overrides, Publish, Volume
from kokon.host.state import Directory, Record, inspect_container, list_containers, read_record
from kokon.launch.document import read_disk
from kokon.tee.simulated.measure import measure_guest

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def failing(home: Path, mode: str = "qemu", **changes: object) -> KokonError:
    """The error of a launch that leaves nothing."""
    with pytest.raises(KokonError) as caught:
        launch.start(home, make_request(home, mode, **changes), NOW)
    eventually(lambda: no_leftovers(home))
    assert list_containers(home) == []
    return caught.value


def command_line(record: Record) -> list[str]:
    assert record.machine is not None
    return Path(f"/proc/{record.machine.pid}/cmdline").read_text().split("\0")


def test_launch_and_kill(tmp_path: Path) -> None:
    record = launch.start(tmp_path, make_request(tmp_path, capture=tmp_path / "net.pcap"), NOW)
    directory = Directory(tmp_path, "clinic")
    assert read_record(directory) == record
    assert (record.created, record.measurement, record.root) == ("2026-01-02T03:04:05+00:00", "ab" * 48, "cd" * 32)
    assert read_disk((directory / "initdata.img").read_bytes()) == make_document()
    assert (directory / "launch.toml").read_bytes() == make_document()
    assert (tmp_path / "net.pcap").exists()
    address, _, port = record.publish.partition(":")
    with socket.create_connection((address, int(port)), timeout=5):
        pass
    assert inspect_container(directory).state == "starting"
    say(directory, phase="serving")
    assert inspect_container(directory).state == "running"
    assert record.machine is not None
    assert record.processor is not None
    kill(record.processor)
    assert wait_gone(record.processor, 5)
    container = inspect_container(directory)
    assert (container.state, container.as_dict()["processor"]) == ("running", False)
    with pytest.raises(UsageError) as caught:
        remove(tmp_path, "clinic")
    assert caught.value.code == "container-running"
    kill(record.machine)
    assert wait_gone(record.machine, 5)
    assert inspect_container(directory).code == "guest-vanished"
    remove(tmp_path, "clinic")
    assert list_containers(tmp_path) == []
    eventually(lambda: no_leftovers(tmp_path))


def test_stop_ends_qemu_and_the_processor(tmp_path: Path) -> None:
    record = launch.start(tmp_path, make_request(tmp_path), NOW)
    container = stop(tmp_path, "clinic", grace=0.2)
    assert (container.state, container.exit, container.code) == ("exited", 137, "stopped-by-force")
    assert not is_running(record.machine)
    assert not is_running(record.processor)
    assert json.loads((Directory(tmp_path, "clinic") / "exit.json").read_text())["status"] == 0, "QMP quit was enough"
    assert stop(tmp_path, "clinic", grace=0).state == "exited"
    assert not quit_machine(Directory(tmp_path, "clinic") / "qmp.sock")


def test_volumes_and_their_use(tmp_path: Path) -> None:
    volume = Volume("data", tmp_path / "data.img", 64 << 20)
    asked = {"document": make_document("data"), "volumes": (volume,)}
    record = launch.start(tmp_path, make_request(tmp_path, **asked), NOW)
    assert record.volumes == {"data": str(volume.file)}
    assert volume.file.stat().st_size == 64 << 20
    with pytest.raises(HostError) as caught:
        launch.start(tmp_path, make_request(tmp_path, name="second", **asked), NOW)
    assert caught.value.code == "volume-in-use"
    remove(tmp_path, "clinic", force=True)
    assert volume.file.exists(), "files of volumes stay"
    both = (volume, Volume("copy", tmp_path / "data.img"))
    error = failing(tmp_path, document=make_document("data", "copy"), volumes=both)
    assert error.code == "volume-in-use"


def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        error = failing(tmp_path, publish=Publish(port=other.getsockname()[1]))
    assert error.code == "port-taken"
    assert error.exit_status == 8


def test_a_port_taken_meanwhile_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "claim_port", lambda publish: publish)
    with socket.create_server(("127.0.0.1", 0)) as other:
        error = failing(tmp_path, publish=Publish(port=other.getsockname()[1]))
    assert error.code == "port-taken"


def test_addresses_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failing(tmp_path, publish=Publish("203.0.113.7", 0)).code == "address-unusable"

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(launch.socket.socket, "bind", refuse)
    assert failing(tmp_path).code == "address-unusable"


def test_nothing_stays_of_a_launch_that_fails(tmp_path: Path) -> None:
    error = failing(tmp_path, "refuse")
    assert isinstance(error, MalformedError)
    assert error.code == "kernel-unreadable"
    error = failing(tmp_path, "garbage")
    assert error.code == "processor-failed"
    error = failing(tmp_path, "die")
    assert (error.code, error.found) == ("processor-failed", "no keys for you")
    error = failing(tmp_path, "unlaunchable")
    assert error.code == "qemu-failed"
    assert "-bogus" in str(error.found)


def test_a_processor_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kokon.host.processor.ANSWER_TIMEOUT", 0.3)
    assert failing(tmp_path, "silent").code == "processor-failed"


def test_bad_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failing(tmp_path, memory=64).code == "machine-size"
    assert failing(tmp_path, cpus=0).code == "machine-size"
    assert failing(tmp_path, name="../x").code == "container-name-malformed"
    assert failing(tmp_path, document=b"").exit_status == 3
    assert failing(tmp_path, name="n", volumes=(Volume("x", tmp_path / "x"),)).code == "volume-unknown"
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable: 65536 kB\n")
    monkeypatch.setattr(launch, "MEMINFO", meminfo)
    assert failing(tmp_path).code == "memory-short"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert failing(tmp_path).code == "qemu-missing"


def test_available_memory(tmp_path: Path) -> None:
    file = tmp_path / "meminfo"
    assert launch.available_memory(file) is None
    for text in ("", "MemAvailable:", "MemAvailable: x kB"):
        file.write_text(text)
        assert launch.available_memory(file) is None


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    launch.start(tmp_path, make_request(tmp_path), NOW)
    with pytest.raises(UsageError) as caught:
        launch.start(tmp_path, make_request(tmp_path), NOW)
    assert caught.value.code == "container-exists"
    assert inspect_container(Directory(tmp_path, "clinic")).alive, "the first one is not touched"
    remove(tmp_path, "clinic", force=True)


def test_two_launches_of_one_name_at_a_time(tmp_path: Path) -> None:
    results: list[object] = []
    request = make_request(tmp_path)

    def attempt() -> None:
        try:
            results.append(launch.start(tmp_path, request, NOW))
        except KokonError as error:
            results.append(error.code)

    threads = [threading.Thread(target=attempt) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("container-exists") == 2
    assert [type(result) for result in results if result != "container-exists"] == [Record]
    remove(tmp_path, "clinic", force=True)


def test_the_host_environment_does_not_reach_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOKON_ADMIN_TOKEN", "canary-7261")
    record = launch.start(tmp_path, make_request(tmp_path), NOW)
    assert record.machine is not None
    assert b"canary-7261" not in Path(f"/proc/{record.machine.pid}/environ").read_bytes()
    remove(tmp_path, "clinic", force=True)


def test_a_block_image_is_one_more_disk_that_nobody_writes(tmp_path: Path) -> None:
    directory = Directory(tmp_path, "clinic")
    plain = launch.plan_machine(directory, make_request(tmp_path))
    assert [disk.serial for disk in plain.disks if disk.readonly] == ["root", "initdata"]
    machine = launch.plan_machine(directory, make_request(tmp_path, image=tmp_path / "block"))
    (disk,) = [disk for disk in machine.disks if disk not in plain.disks]
    assert (disk.serial, disk.file, disk.readonly) == ("image", tmp_path / "block", True)


def test_what_a_hostile_host_changes(tmp_path: Path) -> None:
    """Every override ends where it would on a hostile host: in QEMU's command line, on the disk or in the order."""
    request = make_request(tmp_path)
    other = make_document("other")
    changes = Overrides(kernel=tmp_path / "evil", cmdline="init=/bin/sh", document=other, keys=tmp_path / "keys")
    request = dataclasses.replace(request, overrides=changes)
    machine = launch.plan_machine(Directory(tmp_path, "clinic"), request)
    assert (machine.kernel, machine.cmdline) == (tmp_path / "evil", "init=/bin/sh")
    record = launch.start(tmp_path, dataclasses.replace(request, processor=processor("qemu")), NOW)
    assert record.document == hashlib.sha256(other).hexdigest()
    assert read_disk((Directory(tmp_path, "clinic") / "initdata.img").read_bytes()) == other
    assert any("kokon.psp" in word for word in command_line(record))
    remove(tmp_path, "clinic", force=True)


def test_accelerator_is_probed_only_when_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kokon.host.kvm import KvmProbe

    monkeypatch.setattr(launch, "probe_kvm", lambda *_: KvmProbe(True, "seen"))
    request = make_request(tmp_path)
    assert launch.choose_accelerator(tmp_path, request) == "tcg"
    assert launch.choose_accelerator(tmp_path, dataclasses.replace(request, accelerator="auto")) == "kvm"
    monkeypatch.setattr(launch, "probe_kvm", lambda *_: KvmProbe(False, "seen"))
    assert launch.choose_accelerator(tmp_path, dataclasses.replace(request, accelerator="auto")) == "tcg"


def test_the_real_processor_measures_what_qemu_is_given(tmp_path: Path) -> None:
    request = make_request(tmp_path, processor=None)
    request = dataclasses.replace(request, guest=make_launchable(request.guest))
    record = launch.start(tmp_path, request, NOW)
    assert record.measurement == measure_guest(request.guest, 1).hex()
    assert len(record.root) == 64
    assert (tmp_path / "processor").stat().st_mode & 0o777 == 0o700
    remove(tmp_path, "clinic", force=True)
    changed = dataclasses.replace(request, overrides=Overrides(cmdline=request.guest.cmdline + " debug"))
    assert launch.start(tmp_path, changed, NOW).measurement != record.measurement
    remove(tmp_path, "clinic", force=True)
    eventually(lambda: no_leftovers(tmp_path))


def test_a_machine_that_qemu_cannot_complete_was_not_started(tmp_path: Path) -> None:
    request = make_request(tmp_path, processor=None)  # its firmware is none: noticed after the monitor listens
    with pytest.raises(HostError) as caught:
        launch.start(tmp_path, request, NOW)
    assert caught.value.code == "qemu-failed"
    assert "could not load PC BIOS" in str(caught.value.found)
    assert not (tmp_path / "containers" / "clinic").exists()
