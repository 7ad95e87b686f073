"""The processor's process, with a scripted guest behind the port."""

import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_machine import Machine, connect, key_request, report_request, request
from hypothesis import given
from hypothesis import strategies as st
from tee_kit import NOW, Chip

from kokon.errors import HostError, MalformedError
from kokon.tee.registry import verify
from kokon.tee.simulated import service as module
from kokon.tee.simulated import wire
from kokon.tee.simulated.launch import parse_order
from kokon.tee.simulated.processor import FIELD_MEASUREMENT
from kokon.tee.simulated.service import Requests, Service, answer, write_exit
from kokon.tee.snp.certtable import decode_extended

DATA = bytes(range(64))


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(chip: Chip, machine: Machine) -> Service:
    service = Service(chip.processor, parse_order(machine.order()))
    service.start()
    service.serve()
    return service


def status_of(machine: Machine) -> object:
    return json.loads(machine.exit.read_text())


def test_a_whole_life(chip: Chip, tmp_path: Path) -> None:
    machine = Machine(
        tmp_path,
        requests=[
            report_request(DATA),
            key_request(FIELD_MEASUREMENT),
            request(9, b""),
            report_request(DATA, vmpl=4),
            report_request(DATA, vmpl=1),
        ],
        status=7,
    )
    service = run(chip, machine)
    report, key, unknown, refused, vmpl = machine.answers()
    assert report is not None
    assert key is not None
    assert vmpl is not None
    claims = verify(decode_extended(report[1:]), chip.endorsements, NOW)
    assert claims.ok
    assert claims.measurement == service.measurement
    assert claims.host_data == b"\x5a" * 32
    assert claims.report_data == DATA
    assert key[0] == 0
    assert len(key) == 33
    assert unknown == refused == bytes([wire.STATUS_INVALID])
    assert decode_extended(vmpl[1:]).report[0x30] == 1
    assert status_of(machine) == {"status": 7, "signal": None}
    assert machine.exit.stat().st_mode & 0o777 == 0o600
    assert not machine.socket.exists()
    assert "fake qemu is here" in machine.log.read_text()


def test_the_measured_copies_are_what_runs(chip: Chip, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    service = Service(chip.processor, parse_order(machine.order()))
    (tmp_path / "kernel").write_bytes(b"another kernel, exchanged after measuring")
    service.start()
    service.serve()
    assert bytes.fromhex(machine.seen["files"]["-kernel"]) == b"kernel"
    assert bytes.fromhex(machine.seen["files"]["-bios"]) == machine.files["firmware"]
    assert machine.seen["argv"][machine.seen["argv"].index("-append") + 1] == "console=ttyS0 quiet"


def test_no_answer_for_another_process(chip: Chip, tmp_path: Path) -> None:
    machine = Machine(tmp_path, requests=[report_request(DATA)])
    service = Service(chip.processor, parse_order(machine.order()))
    strangers: list[socket.socket] = []
    real_accept = module.Service._accept

    def accept(self: Service, listener: socket.socket, qemu: object) -> socket.socket:
        strangers.append(connect(machine.socket))
        return real_accept(self, listener, qemu)  # type: ignore[arg-type]

    module.Service._accept = accept  # type: ignore[method-assign, assignment]
    try:
        service.start()
    finally:
        module.Service._accept = real_accept  # type: ignore[method-assign]
    service.serve()
    (stranger,) = strangers
    assert stranger.recv(1) == b""
    stranger.close()
    assert "refused a connection from process" in machine.log.read_text()
    assert machine.answers()[0] is not None


def test_no_second_connection(chip: Chip, tmp_path: Path) -> None:
    machine = Machine(tmp_path, wait=True)
    service = Service(chip.processor, parse_order(machine.order()))
    service.start()
    with pytest.raises(FileNotFoundError):
        connect(machine.socket)
    service.stop()
    service.serve()
    assert status_of(machine) == {"status": 143, "signal": 15}


def test_a_guest_that_talks_nonsense_is_cut_off(chip: Chip, tmp_path: Path) -> None:
    machine = Machine(tmp_path, requests=["ffffffff"])
    run(chip, machine)
    assert machine.answers() == [None]
    assert "the guest's port is closed" in machine.log.read_text()


def test_a_guest_that_hangs_up_goes_on_running(chip: Chip, tmp_path: Path) -> None:
    machine = Machine(tmp_path, close=True, signal=9)
    run(chip, machine)
    assert status_of(machine) == {"status": 137, "signal": 9}


def test_qemu_that_does_not_start(chip: Chip, tmp_path: Path) -> None:
    machine = Machine(tmp_path, die=3)
    service = Service(chip.processor, parse_order(machine.order()))
    with pytest.raises(HostError) as caught:
        service.start()
    assert caught.value.code == "qemu-failed"
    assert "status 3" in (caught.value.found or "")
    assert "fake qemu is here" in (caught.value.found or "")
    assert not machine.socket.exists()


def test_qemu_that_never_connects(chip: Chip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path)
    machine.program.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(module, "CONNECT_TIMEOUT", 0.3)
    service = Service(chip.processor, parse_order(machine.order()))
    with pytest.raises(HostError) as caught:
        service.start()
    assert caught.value.code == "qemu-failed"


def test_qemu_that_is_missing(chip: Chip, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.program.unlink()
    service = Service(chip.processor, parse_order(machine.order()))
    with pytest.raises(HostError) as caught:
        service.start()
    assert caught.value.code == "qemu-missing"
    service.stop()
    with pytest.raises(HostError):
        service.serve()


def test_socket_that_cannot_be_made(chip: Chip, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.socket.write_text("a file, not a socket")
    service = Service(chip.processor, parse_order(machine.order()))
    with pytest.raises(HostError) as caught:
        service.start()
    assert caught.value.code == "processor-socket"


def test_a_stale_socket_is_replaced(chip: Chip, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(machine.socket))
    stale.close()
    run(chip, machine)
    assert status_of(machine) == {"status": 0, "signal": None}


def test_sigterm_ends_qemu_too(chip: Chip, tmp_path: Path) -> None:
    machine = Machine(tmp_path, wait=True)
    service = Service(chip.processor, parse_order(machine.order()))
    service.start()
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    service.serve()
    timer.join()
    assert status_of(machine) == {"status": 143, "signal": 15}


def test_a_processor_that_fails_takes_its_guest_with_it(
    chip: Chip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, requests=[report_request(DATA)], wait=True)
    service = Service(chip.processor, parse_order(machine.order()))
    service.start()

    def broken(*_: object) -> bool:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Service, "_serve_once", broken)
    start = time.monotonic()
    with pytest.raises(RuntimeError):
        service.serve()
    assert time.monotonic() - start < 10
    assert status_of(machine) == {"status": 143, "signal": 15}


def test_exit_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "exit.json"
    for code in (0, 3, -9):
        write_exit(path, code)
        assert json.loads(path.read_text())["status"] == (137 if code < 0 else code)
    assert [entry.name for entry in tmp_path.iterdir()] == ["exit.json"]


def test_requests_in_any_pieces() -> None:
    stream = bytes.fromhex(request(1, b"abc") + request(2, b"") + request(7, bytes(100)))
    for size in (1, 2, 3, 7, 200):
        requests = Requests()
        found = [r for i in range(0, len(stream), size) for r in requests.feed(stream[i : i + size])]
        assert found == [b"\1abc", b"\2", b"\7" + bytes(100)]


@pytest.mark.parametrize("length", [0, wire.REQUEST_LIMIT + 1, 2**32 - 1])
def test_lengths_are_bounded(length: int) -> None:
    with pytest.raises(MalformedError) as caught:
        Requests().feed(struct.pack("<I", length))
    assert caught.value.code == "guest-request"


@given(st.binary(min_size=1, max_size=200))
def test_any_request_gets_an_answer(chip: Chip, data: bytes) -> None:
    found = answer(chip.guest(), data)
    (length,) = struct.unpack_from("<I", found)
    assert length == len(found) - 4
    assert found[4] in (wire.STATUS_OK, wire.STATUS_INVALID)


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_any_stream_is_cut_or_malformed(pieces: list[bytes]) -> None:
    requests = Requests()
    try:
        for piece in pieces:
            requests.feed(piece)
    except MalformedError:
        return


def test_reserved_bytes_are_refused(chip: Chip) -> None:
    good = wire.REPORT_BODY.pack(DATA, 0, bytes(28))
    assert answer(chip.guest(), b"\1" + good)[4] == wire.STATUS_OK
    assert answer(chip.guest(), b"\1" + good[:-1] + b"\1")[4] == wire.STATUS_INVALID
    bad = wire.KEY_BODY.pack(0, 1, 0, 0, 0, bytes(8))
    assert answer(chip.guest(), b"\2" + bad)[4] == wire.STATUS_INVALID
