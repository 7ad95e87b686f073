"""Orders, measured copies and starting: what was measured is what runs."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from fake_machine import Machine
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import HostError, MalformedError
from kokon.tee.simulated import launch
from kokon.tee.simulated.launch import measure_order, open_log, parse_order, start_qemu


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_an_order(machine: Machine) -> None:
    order = parse_order(machine.order(policy=0xB0000))
    assert order.host_data == b"\x5a" * 32
    assert order.policy == 0xB0000
    assert order.socket == machine.socket
    assert parse_order(machine.order()).policy == 0x30000


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"extra": 1}, "field-unknown"),
        ({"host_data": "00" * 31}, "size-mismatch"),
        ({"host_data": "zz" * 32}, "hex-malformed"),
        ({"policy": -1}, "field-range"),
        ({"policy": 2**32}, "field-range"),
        ({"argv": "qemu"}, "field-type"),
        ({"argv": [1]}, "field-type"),
        ({"argv": []}, "qemu-argument-unaccounted"),
        ({"socket": "/other"}, "order-socket"),
        ({"exit": "relative"}, "path-relative"),
        ({"log": "/x\0y"}, "path-relative"),
    ],
)
def test_malformed_orders(machine: Machine, changed: dict[str, Any], code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_order(machine.order(**changed))
    assert caught.value.code == code


@pytest.mark.parametrize(("data", "code"), [(b"", "json-malformed"), (b" " * (2 << 20), "json-too-large")])
def test_orders_that_are_no_json(data: bytes, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_order(data)
    assert caught.value.code == code


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
def test_any_order(data: bytes | str) -> None:
    with pytest.raises(MalformedError):
        parse_order(data if isinstance(data, bytes) else data.encode())


def test_copies_cannot_be_changed_afterwards(machine: Machine) -> None:
    measured = measure_order(parse_order(machine.order()))
    for option, name in (("-bios", "firmware"), ("-kernel", "kernel"), ("-initrd", "initrd")):
        descriptor = measured.descriptors[option]
        assert os.pread(descriptor, 10000, 0) == machine.files[name]
        with pytest.raises(PermissionError):
            os.write(descriptor, b"x")
        with pytest.raises(PermissionError):
            os.truncate(descriptor, 1)
    measured.close()


def test_files_of_several_chunks(machine: Machine) -> None:
    (machine.directory / "kernel").write_bytes(bytes(launch._CHUNK * 2 + 5))
    measured = measure_order(parse_order(machine.order()))
    assert os.fstat(measured.descriptors["-kernel"]).st_size == launch._CHUNK * 2 + 5
    measured.close()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("name", ["firmware", "kernel", "initrd"])
def test_missing_files(machine: Machine, name: str) -> None:
    before = descriptors()
    (machine.directory / name).unlink()
    with pytest.raises(HostError) as caught:
        measure_order(parse_order(machine.order()))
    assert caught.value.code == "launch-file-unreadable"
    assert name in str(caught.value)
    assert descriptors() == before


def test_too_large_files(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    monkeypatch.setattr(launch, "IMAGE_LIMIT", 5)
    with pytest.raises(MalformedError) as caught:
        measure_order(parse_order(machine.order()))
    assert caught.value.code == "launch-file-too-large"
    assert descriptors() == before


def test_unmeasurable_firmware_leaves_nothing_open(machine: Machine) -> None:
    before = descriptors()
    (machine.directory / "firmware").write_bytes(b"x")
    with pytest.raises(MalformedError) as caught:
        measure_order(parse_order(machine.order()))
    assert caught.value.code == "firmware-size"
    assert descriptors() == before


def test_missing_qemu(machine: Machine) -> None:
    machine.program.unlink()
    order = parse_order(machine.order())
    measured = measure_order(order)
    with pytest.raises(HostError) as caught, open_log(order.log) as log:
        start_qemu(order, measured, log)
    measured.close()
    assert caught.value.code == "qemu-missing"


def test_log_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "no" / "log", tmp_path / "link"):
        with pytest.raises(HostError) as caught, open_log(path):
            pass
        assert caught.value.code == "processor-log"
