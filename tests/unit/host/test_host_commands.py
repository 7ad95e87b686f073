"""The commands of this room, run in process with a stand-in for the security processor."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from host_kit import eventually, make_document, make_guest, no_leftovers, processor

from kokon.cli.main import main
from kokon.cli.stop import parse_signal
from kokon.errors import UsageError
from kokon.host import launch
from kokon.host.kvm import KvmProbe
from kokon.host.state import Directory, inspect_container
from kokon.launch.image import GuestImage, read_guest_image

SERVING = [{"phase": "agent-ready"}, {"phase": "serving"}]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KOKON_HOME", str(tmp_path))
    make_guest(tmp_path / "guest" / "current")
    (tmp_path / "launch.toml").write_bytes(make_document())
    return tmp_path


def play(monkeypatch: pytest.MonkeyPatch, **script: object) -> None:
    command = processor("guest", json.dumps({"stop": [{"phase": "exited"}], "say": SERVING} | script))
    monkeypatch.setattr(launch, "default_command", lambda _: command)


def run(home: Path, *options: str) -> int:
    words = ["run", str(home / "launch.toml"), "--publish", "0", "--accel", "tcg", "--memory", "128", *options]
    return main(words)


def test_detached_life(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    play(monkeypatch)
    assert run(home, "--detach", "--json") == 0
    out, err = capsys.readouterr()
    shown = json.loads(out)
    assert (shown["name"], shown["state"], shown["simulated"]) == ("clinic", "running", True)
    assert "agent is ready" in err
    assert "can read its memory" in err, "simulation says what it is"
    assert main(["ps"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["clinic", "running", "serving"]
    assert main(["rm", "clinic"]) == 2
    assert "[container-running]" in capsys.readouterr().err
    assert main(["stop", "clinic", "--signal", "INT"]) == 0
    assert capsys.readouterr().out == "clinic is stopped (exited, status 130)\n"
    assert main(["ps", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"containers": []}
    assert main(["ps", "-a"]) == 0
    assert "status 130" in capsys.readouterr().out
    assert main(["rm", "clinic", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": "clinic", "removed": True}
    assert main(["stop", "clinic"]) == 2
    assert "[container-unknown]" in capsys.readouterr().err


def test_detached_text(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    play(monkeypatch)
    assert run(home, "-d") == 0
    assert capsys.readouterr().out.startswith("clinic serves attested TLS on https://127.0.0.1:")
    assert main(["rm", "clinic", "--force"]) == 0


def test_foreground_ends_with_the_containers_status(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play(monkeypatch, say=[*SERVING, {"phase": "exited", "exit": 42}], **{"power-off": True})
    assert run(home, "--name", "other") == 42
    assert capsys.readouterr().out == "other ended with status 42\n"


def test_a_refusal_is_told_with_the_guests_code(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = {"phase": "failed", "kind": "denied", "code": "measurement-unknown", "hint": "kokon explain 1"}
    play(monkeypatch, say=[{"phase": "agent-ready"}, refusal])
    assert run(home, "--detach", "--json") == 5
    error = json.loads(capsys.readouterr().err.strip().splitlines()[-1])["error"]
    assert (error["code"], error["hint"]) == ("measurement-unknown", "kokon explain 1")
    assert main(["ps", "-a"]) == 0
    assert "measurement-unknown" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_forwarded(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    play(monkeypatch)
    before = signal.getsignal(number)
    threading.Timer(1.5, os.kill, [os.getpid(), number]).start()
    assert run(home) == 128 + number
    assert signal.getsignal(number) is before


def test_stopped_before_it_served(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play(monkeypatch, say=[{"phase": "agent-ready"}], stop=[{"phase": "failed"}])
    threading.Timer(1.5, os.kill, [os.getpid(), signal.SIGINT]).start()
    assert run(home) == 130
    assert "stopped before it served" in capsys.readouterr().err


def test_interrupted_while_starting(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "default_command", lambda _: processor("silent"))
    threading.Timer(0.8, os.kill, [os.getpid(), signal.SIGTERM]).start()
    assert run(home) == 130
    assert main(["ps", "-a", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"containers": []}


def test_bad_input(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "bad.toml").write_text("x")
    cases = {
        ("run", str(home / "none.toml")): ("launch-document-unreadable", 2),
        ("run", str(home / "bad.toml")): ("document-malformed", 3),
        ("run", str(home / "launch.toml"), "--guest", str(home / "none")): ("guest-image-missing", 8),
        ("run", str(home / "launch.toml"), "--name", "A"): ("container-name-malformed", 2),
        ("run", str(home / "launch.toml"), "--scratch", "lots"): ("size-malformed", 2),
        ("stop", "x", "--grace", "-1"): ("grace-range", 2),
        ("stop", "x", "--signal", "NONE"): ("signal-unknown", 2),
    }
    for words, (code, status) in cases.items():
        assert (main([*words, "--json"]), words) == (status, words)
        assert json.loads(capsys.readouterr().err)["error"]["code"] == code


def test_signal_names() -> None:
    assert [parse_signal(text) for text in ("TERM", "sigint", "9")] == [15, 2, 9]
    for text in ("", "99", "SIGSIG", "٣", "STOP", "19"):
        with pytest.raises(UsageError):
            parse_signal(text)


def test_doctor(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("kokon.cli.doctor.probe_kvm", lambda *_: KvmProbe(False, "stuck"))
    assert main(["doctor", "--json", "--probe"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["ready"] is True
    kvm = next(finding for finding in shown["findings"] if finding["name"] == "KVM")
    assert (kvm["state"], kvm["seen"]) == ("missing", "stuck")
    (home / "guest" / "current" / "guest.json").unlink()
    assert main(["doctor", "--probe"]) == 8
    out = capsys.readouterr().out
    assert "kokon guest build" in out
    assert "not probed" in out


def test_guest_show(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["guest", "show", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert len(shown["reference"][0]["measurement"]) == 96
    assert main(["guest", "show"]) == 0
    assert shown["digest"] in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--output", "OUT"], ["--update", "--json"]])
def test_guest_build(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    def build(*arguments: object, update: bool = False) -> GuestImage:
        asked.append((arguments[0], update))
        arguments[-1]("working", 0.5)  # type: ignore[operator]
        return read_guest_image(home / "guest" / "current")

    asked: list[tuple[object, bool]] = []
    monkeypatch.setattr("kokon.guest.build.image.build", build)
    monkeypatch.setattr("kokon.guest.build.image.build_default", build)
    assert main(["guest", "build", *[option.replace("OUT", str(home / "out")) for option in options]]) == 0
    out, err = capsys.readouterr()
    assert read_guest_image(home / "guest" / "current").digest in out
    assert "working" in err
    assert asked == [(home / "out" if "--output" in options else home, "--update" in options)]


def test_a_container_survives_the_death_of_kokon_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = processor("guest", json.dumps({"say": SERVING, "stop": [{"phase": "exited"}]}))
    code = (
        "import sys; from kokon.host import launch; from kokon.cli.main import main;"
        f"launch.default_command = lambda _: {command!r};"
        f"main(['run', {str(home / 'launch.toml')!r}, '--publish', '0', '--accel', 'tcg', '--memory', '128'])"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    directory = Directory(home, "clinic")
    eventually(lambda: directory.path.is_dir() and inspect_container(directory).state == "running", 30)
    child.kill()
    child.wait()
    assert inspect_container(directory).state == "running"
    assert main(["stop", "clinic"]) == 0
    assert main(["rm", "clinic"]) == 0
    capsys.readouterr()
    eventually(lambda: no_leftovers(home))
