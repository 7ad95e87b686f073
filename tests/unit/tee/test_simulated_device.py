"""The guest's side, over a pseudo-terminal-free stand-in: a socket pair whose one end has a path."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tee_kit import NOW, REPORT_DATA, Chip

from kokon.errors import HostError, MalformedError, UnreachableError
from kokon.tee.registry import verify
from kokon.tee.simulated import wire
from kokon.tee.simulated.device import SimulatedDevice, find_port
from kokon.tee.simulated.service import Requests, answer


class Port:
    """Two FIFOs joined under one path would need a driver; so the device gets a duplicate of a socket instead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host, guest = socket.socketpair()
        guest.setblocking(False)
        self.guest = guest.detach()
        monkeypatch.setattr(os, "open", lambda *_: self.guest)
        self.thread: threading.Thread | None = None

    def serve(self, *answers: bytes) -> None:
        def run() -> None:
            requests = Requests()
            for content in answers:
                while not requests.feed(self.host.recv(4096)):
                    pass
                self.host.sendall(content)

        self.thread = threading.Thread(target=run)
        self.thread.start()


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[Port]:
    port = Port(monkeypatch)
    yield port
    if port.thread:
        port.thread.join(5)
    port.host.close()


def ok(chip: Chip, data: bytes = REPORT_DATA) -> bytes:
    return answer(chip.guest(), b"\1" + wire.REPORT_BODY.pack(data, 0, bytes(28)))


def test_evidence_and_key(chip: Chip, port: Port) -> None:
    device = SimulatedDevice(Path("/dev/vport0p1"))
    key = answer(chip.guest(), b"\2" + wire.KEY_BODY.pack(0, 0, 8, 0, 0, bytes(8)))
    port.serve(ok(chip), key)
    assert verify(device.report(REPORT_DATA), chip.endorsements, NOW).ok
    assert device.derived_key(fields=8) == key[5:]
    device.close()
    device.close()
    with pytest.raises(UnreachableError):
        device.report(REPORT_DATA)


def test_an_answer_about_something_else(chip: Chip, port: Port) -> None:
    device = SimulatedDevice(Path("/dev/vport0p1"))
    port.serve(ok(chip, bytes(64)))
    with pytest.raises(MalformedError) as caught:
        device.report(REPORT_DATA)
    assert caught.value.code == "processor-answer"
    device.close()


def test_a_refusal_leaves_the_port_usable(chip: Chip, port: Port) -> None:
    device = SimulatedDevice(Path("/dev/vport0p1"))
    port.serve(wire.frame(wire.STATUS_INVALID, b""), ok(chip), wire.frame(wire.STATUS_OK, b"short"))
    with pytest.raises(MalformedError) as caught:
        device.report(REPORT_DATA)
    assert caught.value.code == "processor-answer"
    assert device.report(REPORT_DATA).report
    with pytest.raises(MalformedError) as caught:
        device.derived_key(fields=0)
    assert caught.value.code == "processor-answer"
    device.close()


@pytest.mark.parametrize("content", [b"\0\0\0\0", b"\xff\xff\xff\xff"])
def test_impossible_lengths_break_the_port(port: Port, content: bytes) -> None:
    device = SimulatedDevice(Path("/dev/vport0p1"))
    port.serve(content)
    with pytest.raises(MalformedError) as caught:
        device.report(REPORT_DATA)
    assert caught.value.code == "processor-answer"
    with pytest.raises(UnreachableError) as broken:
        device.report(REPORT_DATA)
    assert broken.value.code == "processor-unreachable"


def test_a_processor_that_hangs_up(port: Port) -> None:
    device = SimulatedDevice(Path("/dev/vport0p1"))
    port.host.shutdown(socket.SHUT_WR)
    with pytest.raises(UnreachableError) as caught:
        device.report(REPORT_DATA)
    assert caught.value.code == "processor-unreachable"


def test_a_processor_that_is_silent(port: Port) -> None:
    device = SimulatedDevice(Path("/dev/vport0p1"), timeout=0.1)
    with pytest.raises(UnreachableError) as caught:
        device.report(REPORT_DATA)
    assert caught.value.code == "processor-unreachable"


def test_a_processor_that_went_away(port: Port) -> None:
    device = SimulatedDevice(Path("/dev/vport0p1"))
    port.host.close()
    with pytest.raises(UnreachableError) as caught:
        device.report(REPORT_DATA)
    assert caught.value.code == "processor-unreachable"


def test_a_port_that_does_not_open(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError) as caught:
        SimulatedDevice(tmp_path / "none")
    assert caught.value.code == "processor-unreachable"


def test_finding_the_port(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        find_port(ports=tmp_path / "none")
    assert caught.value.code == "processor-missing"
    for entry, name in (("vport1p1", "kokon.status\n"), ("vport1p2", "kokon.psp\n")):
        (tmp_path / entry).mkdir()
        (tmp_path / entry / "name").write_text(name)
    assert find_port(ports=tmp_path) == Path("/dev/vport1p2")
    with pytest.raises(HostError):
        find_port("other", ports=tmp_path)
