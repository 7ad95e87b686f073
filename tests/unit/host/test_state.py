import fcntl
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from host_kit import eventually, say
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import HostError, KokonError, UsageError
from kokon.host.processes import Process, boot_id, find_process, is_running, kill, wait_gone
from kokon.host.state import (
    Directory,
    Record,
    create_directory,
    delete_directory,
    inspect_container,
    list_containers,
    locked,
    parse_record,
    read_record,
    write_record,
)

RECORD = Record(
    name="clinic",
    created="2026-01-01T00:00:00+00:00",
    boot=boot_id(),
    workload="clinic",
    document="00" * 32,
    guest="11" * 32,
    publish="127.0.0.1:9443",
    accelerator="tcg",
    memory=384,
    cpus=1,
    volumes={"data": "/srv/data.img"},
    measurement="22" * 48,
    root="33" * 32,
)


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    made = Directory(tmp_path, "clinic")
    with locked(made):
        create_directory(made)
    return made


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def process_of(child: subprocess.Popen[bytes]) -> Process:
    found = find_process(child.pid)
    assert found is not None
    return found


def test_process_identity_survives_a_reused_id() -> None:
    child = sleeper()
    process = process_of(child)
    assert is_running(process)
    other = replace(process, started=process.started - 1)
    assert not is_running(other)
    assert not kill(other)
    assert wait_gone(other, 1)
    assert not wait_gone(process, 0.01)
    assert kill(process)
    assert wait_gone(process, 5), "a zombie is gone"
    assert find_process(child.pid) is None
    child.wait()
    assert not kill(process)
    assert wait_gone(process, 1)
    assert not is_running(None)
    assert find_process(-1) is None


def test_record_survives_writing_and_reading(directory: Directory) -> None:
    record = replace(RECORD, machine=Process(7, 8), processor=Process(9, 10))
    write_record(directory, record)
    assert read_record(directory) == record
    write_record(directory, RECORD)
    assert read_record(directory) == RECORD
    assert (directory / "state.json").stat().st_mode & 0o777 == 0o600
    assert directory.path.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in directory.path.iterdir()] == ["state.json"]


@given(st.binary(max_size=300))
def test_any_bytes_are_a_record_or_refused(data: bytes) -> None:
    with pytest.raises(KokonError):
        parse_record(data)


def test_an_unreadable_record_is_no_record(directory: Directory) -> None:
    assert read_record(directory) is None
    (directory / "state.json").write_bytes(b"{")
    assert read_record(directory) is None
    assert inspect_container(directory).code == "launch-interrupted"


def test_unknown_and_existing(directory: Directory, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        inspect_container(Directory(tmp_path, "other"))
    assert caught.value.code == "container-unknown"
    with pytest.raises(UsageError) as caught:
        create_directory(directory)
    assert caught.value.code == "container-exists"


def test_state_follows_the_process_and_the_guests_word(directory: Directory) -> None:
    child = sleeper()
    machine = process_of(child)
    write_record(directory, replace(RECORD, machine=machine, processor=machine))
    assert inspect_container(directory).state == "starting"
    say(directory, phase="serving")
    container = inspect_container(directory)
    assert (container.state, container.alive, container.ended) == ("running", True, False)
    shown = container.as_dict()
    assert (shown["pid"], shown["processor"], shown["simulated"]) == (child.pid, True, True)
    child.kill()
    child.wait()
    container = inspect_container(directory)
    assert (container.state, container.code) == ("failed", "guest-vanished")
    (directory / "exit.json").write_text('{"status": null, "signal": 9}')
    assert inspect_container(directory).message == "the virtual machine was ended by signal 9"
    (directory / "exit.json").write_text('{"status": 1}')
    assert inspect_container(directory).message == "the virtual machine ended with status 1"
    say(directory, phase="exited", exit=3)
    container = inspect_container(directory)
    assert (container.state, container.exit, container.code) == ("exited", 3, None)
    assert not container.as_dict()["processor"]


def test_a_guests_reason_for_failing(directory: Directory) -> None:
    write_record(directory, RECORD)
    say(directory, phase="failed", code="image-unsigned", kind="untrusted")
    assert inspect_container(directory).code == "image-unsigned"
    assert inspect_container(directory).as_dict()["phase"] == "failed"


def test_nothing_of_another_boot_runs(directory: Directory) -> None:
    child = sleeper()
    write_record(directory, replace(RECORD, boot="another", machine=process_of(child)))
    assert inspect_container(directory).state == "failed"
    child.kill()
    child.wait()


def test_starting_while_the_launch_holds_the_lock(directory: Directory) -> None:
    write_record(directory, RECORD)
    with locked(directory):
        assert inspect_container(directory).state == "starting"
    assert inspect_container(directory).code == "launch-interrupted"
    directory.lock.unlink()
    assert inspect_container(directory).code == "launch-interrupted"


def test_lock_waits_and_gives_up(directory: Directory) -> None:
    with locked(directory):
        with pytest.raises(HostError) as caught, locked(directory, timeout=0.1):
            pass
        assert caught.value.code == "container-busy"
    with locked(directory, timeout=0):
        pass


def test_lock_dies_with_its_holder(directory: Directory) -> None:
    code = (
        f"import fcntl, time; f = open({str(directory.lock)!r}); fcntl.flock(f, 2); print(flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    with pytest.raises(HostError), locked(directory, timeout=0.1):
        pass
    child.kill()
    child.wait()
    child.stdout.close()
    with locked(directory, timeout=1):
        pass


def test_lock_of_a_removed_container_protects_nothing(directory: Directory) -> None:
    handle = os.open(directory.lock, os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    delete_directory(directory)
    with locked(directory, timeout=0.5):
        create_directory(directory)
    os.close(handle)


def test_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "containers").write_bytes(b"")
    with pytest.raises(HostError) as caught, locked(Directory(tmp_path, "a")):
        pass
    assert caught.value.code == "home-unusable"


def test_list_and_delete(directory: Directory, tmp_path: Path) -> None:
    assert list_containers(tmp_path / "nowhere") == []
    (tmp_path / "containers" / ".old.removed").mkdir()
    assert [container.name for container in list_containers(tmp_path)] == ["clinic"]
    delete_directory(directory)
    assert list_containers(tmp_path) == []
    with pytest.raises(HostError) as caught:
        delete_directory(directory)
    assert caught.value.code == "container-not-removed"


def test_a_launch_cut_short_after_qemu_started_is_found_by_its_socket(directory: Directory) -> None:
    write_record(directory, RECORD)
    path = str(directory / "qmp.sock")
    code = f"import socket, time; s = socket.socket(1); s.bind({path!r}); s.listen(); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code])
    eventually(lambda: inspect_container(directory).alive)
    container = inspect_container(directory)
    assert container.machine == process_of(child)
    assert container.state == "starting"
    child.kill()
    child.wait()
    time.sleep(0.01)
    assert inspect_container(directory).state == "failed"
