"""Following and stopping containers whose guest is a stand-in that plays a script."""

import json
import signal
import socket
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from host_kit import eventually, make_request, no_leftovers

from kokon.errors import HostError
from kokon.host import lifecycle
from kokon.host.attend import Stopper, attend
from kokon.host.control import connected, listener_pid, quit_machine, stop_request
from kokon.host.launch import start
from kokon.host.lifecycle import failure, follow, remove, settle, stop
from kokon.host.processes import is_running
from kokon.host.state import Directory, Record, inspect_container
from kokon.host.status import Status

SERVING = [{"phase": "agent-ready"}, {"phase": "serving"}]


def begin(home: Path, **script: object) -> Record:
    request = make_request(home, "guest", json.dumps({"say": SERVING, "stop": [{"phase": "exited"}]} | script))
    return start(home, request, datetime(2026, 1, 1, tzinfo=UTC))


def attended(home: Path, record: Record, stopper: Stopper | None = None, **options: bool) -> tuple[list[str], object]:
    seen: list[Status] = []
    container = attend(home, record, stopper or Stopper(home, record.name), seen.append, **options)
    return [status.phase for status in seen], container


def test_stays_until_it_serves_then_stops_politely(tmp_path: Path) -> None:
    record = begin(tmp_path)
    phases, container = attended(tmp_path, record, until_serving=True)
    assert phases == ["agent-ready", "serving"]
    assert container.state == "running"  # type: ignore[attr-defined]
    ended = stop(tmp_path, "clinic", grace=5, signal_number=signal.SIGINT)
    assert (ended.state, ended.exit, ended.code) == ("exited", 130, None)
    assert not is_running(record.machine)
    remove(tmp_path, "clinic")


def test_stays_until_it_ends(tmp_path: Path) -> None:
    record = begin(tmp_path, say=[*SERVING, {"phase": "exited", "exit": 7}], **{"power-off": True})
    phases, container = attended(tmp_path, record)
    assert phases[-1] == "exited"
    assert (container.exit, container.alive) == (7, False)  # type: ignore[attr-defined]


def test_a_guest_that_does_not_power_off_is_ended(tmp_path: Path) -> None:
    record = begin(tmp_path, say=[{"phase": "failed", "code": "image-unsigned", "kind": "untrusted"}])
    eventually(lambda: inspect_container(Directory(tmp_path, "clinic")).ended)
    assert settle(tmp_path, "clinic", patience=0.1).code == "image-unsigned"
    assert not is_running(record.machine)
    error = failure(Directory(tmp_path, "clinic"), inspect_container(Directory(tmp_path, "clinic")))
    assert (error.code, error.exit_status) == ("image-unsigned", 4)


def test_a_guest_that_vanishes(tmp_path: Path) -> None:
    record = begin(tmp_path, say=[{"phase": "agent-ready"}], **{"power-off": True})
    _, container = attended(tmp_path, record)
    error = failure(Directory(tmp_path, "clinic"), container)  # type: ignore[arg-type]
    assert (error.code, error.found) == ("guest-vanished", "last step: agent-ready")


def test_a_silent_guest_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = begin(tmp_path, say=[])
    monkeypatch.setattr(lifecycle.follow, "__kwdefaults__", {**(follow.__kwdefaults__ or {}), "first": 0.3})
    with pytest.raises(HostError) as caught:
        attended(tmp_path, record)
    assert caught.value.code == "guest-silent"
    assert not is_running(record.machine)
    assert inspect_container(Directory(tmp_path, "clinic")).state == "failed"


def test_a_guest_that_ignores_everything_is_killed(tmp_path: Path) -> None:
    record = begin(tmp_path, linger=True)
    ended = stop(tmp_path, "clinic", grace=0.1)
    assert ended.code == "stopped-by-force"
    assert not is_running(record.machine)
    assert inspect_container(Directory(tmp_path, "clinic")).exit == 137


def test_what_cannot_be_killed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path, linger=True)
    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "kill", lambda *_: True)
        patch.setattr(lifecycle, "wait_gone", lambda *_: False)
        with pytest.raises(HostError) as caught:
            stop(tmp_path, "clinic", grace=0)
    assert caught.value.code == "container-not-stopped"
    remove(tmp_path, "clinic", force=True)
    eventually(lambda: no_leftovers(tmp_path))


def test_signals_stop_the_container(tmp_path: Path) -> None:
    record = begin(tmp_path)
    stopper = Stopper(tmp_path, "clinic")
    threading.Timer(0.3, stopper.request, [signal.SIGTERM]).start()
    phases, container = attended(tmp_path, record, stopper)
    assert phases[-1] == "exited"
    assert container.exit == 143  # type: ignore[attr-defined]


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    record = begin(tmp_path, stop=[{"phase": "exited", "after": 60}])
    stopper = Stopper(tmp_path, "clinic", grace=60)
    for delay in (0.2, 0.6):
        threading.Timer(delay, stopper.request, [signal.SIGINT]).start()
    _, container = attended(tmp_path, record, stopper)
    assert container.code == "stopped-by-force"  # type: ignore[attr-defined]


def test_an_error_of_a_stop_is_not_lost(tmp_path: Path) -> None:
    record = begin(tmp_path)
    stopper = Stopper(tmp_path, "clinic")
    stopper._error = HostError("container-not-stopped", "x")
    remove(tmp_path, "clinic", force=True)
    Directory(tmp_path, "clinic").path.mkdir()
    with pytest.raises(HostError):
        attended(tmp_path, record, stopper)


def test_stopping_somebody_unknown_keeps_the_error(tmp_path: Path) -> None:
    stopper = Stopper(tmp_path, "nobody")
    stopper.request(15)
    stopper.tick()
    with pytest.raises(Exception, match="there is no container"):
        stopper.finish()


@pytest.mark.parametrize(
    "answers",
    [
        b"",
        b"junk\n",
        b"[]\n",
        b'{"QMP":{}}\n',
        b'{"QMP":{}}\n{"error":{}}\n',
        b'{"QMP":{}}\n{"return":{}}\n{"error":{}}\n',
    ],
)
def test_monitors_that_talk_nonsense(tmp_path: Path, answers: bytes) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            peer, _ = listener.accept()
            peer.sendall(answers)
            peer.shutdown(socket.SHUT_WR)
            peer.close()

        thread = threading.Thread(target=serve)
        thread.start()
        assert quit_machine(path) is False
        thread.join()


def test_nobody_listens(tmp_path: Path) -> None:
    assert listener_pid(tmp_path / "none") is None
    with stop_request(tmp_path / "none", 15) as asked:
        assert not asked
    with connected(tmp_path / "none") as peer:
        assert peer is None
