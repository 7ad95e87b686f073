"""Status lines: a closed vocabulary, and a port that never blocks."""

import json
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import InternalError
from kokon.guest.agent.status import KINDS, PHASES, StatusPort, denial_hint, status_line, uptime

CODES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?", fullmatch=True)


def test_a_line_has_only_what_is_set() -> None:
    assert status_line(1.23456, "agent-ready") == b'{"t":1.235,"phase":"agent-ready"}\n'
    line = status_line(2, "failed", kind="denied", code="provisioning-denied", found="debug-enabled")
    assert json.loads(line) == {
        "t": 2,
        "phase": "failed",
        "kind": "denied",
        "code": "provisioning-denied",
        "found": "debug-enabled",
    }
    assert json.loads(status_line(3, "exited", status=143, signal=15)) == {
        "t": 3,
        "phase": "exited",
        "exit": 143,
        "signal": 15,
    }


def test_the_hint_names_a_denial_and_nothing_else() -> None:
    assert denial_hint(None) is None
    line = status_line(1, "failed", kind="denied", code="provisioning-denied", hint=denial_hint("abc-1"))
    assert json.loads(line)["hint"].endswith("kokon explain abc-1")


@pytest.mark.parametrize(
    "members",
    [
        {"phase": "secret"},
        {"phase": "failed", "kind": "patient"},
        {"phase": "failed", "code": "Patient X"},
        {"phase": "failed", "code": ""},
        {"phase": "failed", "code": "a" * 65},
        {"phase": "failed", "found": "/srv/patients"},
        {"phase": "failed", "hint": "patient 7"},
        {"phase": "failed", "hint": "the owner learns why from: kokon explain a b"},
        {"phase": "exited", "status": 256},
        {"phase": "exited", "signal": 65},
    ],
)
def test_nothing_else_is_told(members: dict[str, object]) -> None:
    with pytest.raises(InternalError) as caught:
        status_line(1.0, **members)  # type: ignore[arg-type]
    assert caught.value.code == "status-not-allowed"


@given(
    st.sampled_from(PHASES),
    st.sampled_from(sorted(KINDS)),
    CODES,
    st.none() | CODES,
    st.none() | st.integers(0, 255),
)
def test_every_line_is_one_short_json_object(
    phase: str, kind: str, code: str, found: str | None, status: int | None
) -> None:
    line = status_line(5.0, phase, kind=kind, code=code, found=found, status=status)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert len(line) < 512
    assert json.loads(line)["phase"] == phase


def test_the_clock_runs() -> None:
    assert 0 < uptime() <= uptime()


def test_without_a_port_lines_go_nowhere() -> None:
    port = StatusPort(None)
    port.write(b"x\n")
    port.drain(0.01)
    assert not port.flush()


def test_lines_arrive_in_order(tmp_path: Path) -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    port = StatusPort(writing)
    port.write(b"one\n")
    port.write(b"two\n")
    assert os.read(reading, 100) == b"one\ntwo\n"
    port.drain()
    os.close(reading)
    os.close(writing)


def test_a_host_that_does_not_read_blocks_nothing() -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    os.set_blocking(reading, False)
    port = StatusPort(writing)
    big = b"x" * 40_000 + b"\n"
    for _ in range(100):
        port.write(big)
    port.drain(0.02)
    received = b""
    while not port.flush() or received.count(b"\n") < 3:
        received += os.read(reading, 1 << 20)
    assert set(received.split(b"\n")) <= {big[:-1], b""}
    os.close(reading)
    port.write(b"gone\n")
    assert not port.flush()
    os.close(writing)


def test_lines_of_several_threads_are_sent_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []

    def write(_descriptor: int, data: bytes) -> int:
        sent.append(data)
        time.sleep(0.002)  # here another thread would send the same line again, and both take one off
        return len(data)

    monkeypatch.setattr(os, "write", write)
    port = StatusPort(0)
    lines = [b"%d\n" % number for number in range(8)]
    threads = [threading.Thread(target=port.write, args=(line,)) for line in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sent) == lines
    assert port.flush()
