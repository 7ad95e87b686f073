"""The story tells what was observed: also when a server does not start, podman is missing, or an attack succeeds."""

import subprocess
from pathlib import Path

import pytest

from kokon.demo import plain, services, story
from kokon.demo.attacks import Outcome
from kokon.demo.canaries import Finding, plant
from kokon.demo.capture import Capture
from kokon.demo.cloud import PLACES, descendants, describe, leaks, size
from kokon.demo.plain import Podman
from kokon.demo.services import start_provisioning, start_registry, wait_for_port
from kokon.demo.stage import Stage, relayed, run_kokon
from kokon.demo.story import Scene, play_attacks, verdict, what_the_cloud_saw
from kokon.errors import HostError, InternalError, KokonError, UntrustedError
from kokon.launch.image import GuestImage

HELD = Outcome("a", "some-code", "because", ("agent-ready",), (), True)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(Stage(), tmp_path, tmp_path, GuestImage(tmp_path, "6.12", "", {}, ""))


def test_a_leak_is_the_verdict(scene: Scene) -> None:
    scene.confidential = {"logs": Finding(10, {"log"}), PLACES[-1]: Finding(10, {"data"})}
    with pytest.raises(UntrustedError) as caught:
        verdict(scene)
    assert caught.value.code == "demo-leak"
    assert caught.value.found == "logs"


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("b", None, "", ("serving",), (), False),
        Outcome("b", "some-code", "", (), ("clinic/secret/token",), True),
        Outcome("b", "some-code", "", ("started",), (), True),
        Outcome("b", "some-code", "", (), (), False),
    ],
)
def test_an_attack_that_is_not_held_is_the_verdict(scene: Scene, outcome: Outcome) -> None:
    scene.outcomes = [HELD, outcome]
    with pytest.raises(UntrustedError) as caught:
        verdict(scene)
    assert caught.value.code == "demo-attack-succeeded"
    assert caught.value.found == "b"


def test_a_good_end(scene: Scene) -> None:
    scene.confidential = {"logs": Finding(10), PLACES[-1]: Finding(10, {"data"})}
    scene.outcomes = [HELD]
    assert verdict(scene)["attacks"] == [{"name": "a", "code": "some-code", "held": True}]


def test_acts_need_what_went_before(scene: Scene, tmp_path: Path) -> None:
    for act in (lambda: play_attacks(scene), lambda: what_the_cloud_saw(scene, Capture(tmp_path / "lo"), None)):
        with pytest.raises(HostError) as caught:
            act()
        assert caught.value.code == "demo-not-running"


def test_a_wrong_answer_is_noticed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stage, "run", lambda *_a, **_k: {"steps": []})
    monkeypatch.setattr(story, "fingerprint", lambda _keys: "00")
    monkeypatch.setattr(story, "visit", lambda *_a: {"name": "", "born": "", "finding": "other"})
    with pytest.raises(UntrustedError) as caught:
        story.user(scene)
    assert caught.value.code == "demo-wrong-answer"


def test_a_failed_command_keeps_its_code(tmp_path: Path) -> None:
    _, error = run_kokon(["inspect", "not a reference"], home=tmp_path)
    assert error is not None
    assert error.code not in ("demo-command-failed", "internal-error")
    with pytest.raises(KokonError) as caught:
        Stage().run("trust", "simulated", "nonsense", home=tmp_path)
    assert caught.value.code == "hex-malformed"


def test_a_command_that_dies_without_words() -> None:
    error = relayed(None, 1, b"Traceback")
    assert isinstance(error, InternalError)
    assert error.code == "demo-command-failed"


def test_servers_that_do_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    log.write_text("no space")
    with pytest.raises(HostError) as caught:
        wait_for_port(1, subprocess.Popen(["/bin/false"]), log)
    assert caught.value.code == "demo-server-failed"
    with pytest.raises(HostError) as caught:
        start_provisioning(tmp_path / "owner", "not a fingerprint")
    assert caught.value.code == "demo-server-failed"
    monkeypatch.setattr(services.shutil, "which", lambda _name: None)
    with pytest.raises(HostError) as caught:
        start_registry(tmp_path / "registry")
    assert caught.value.code == "registry-missing"


def test_podman_that_cannot_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostError) as caught:
        plain._run(["/bin/false"])
    assert caught.value.code == "podman-unusable"
    monkeypatch.setattr(plain.shutil, "which", lambda _name: None)
    with pytest.raises(HostError) as caught:
        Podman(tmp_path / "podman")
    assert caught.value.code == "podman-unusable"


def test_an_ordinary_container_that_cannot_run_is_told(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unusable(*_arguments: object) -> object:
        raise HostError("podman-unusable", "podman is not installed")

    monkeypatch.setattr(plain, "running", unusable)
    story.the_same_without(scene)
    assert scene.ordinary is None
    assert "podman is not installed" in capsys.readouterr().out


def test_cells_say_what_was_seen() -> None:
    everything = set(plant().texts)
    assert describe(None) == "not run"
    assert describe(Finding(0, set(), ["x"])) == "could not be read here"
    assert describe(Finding(2048)) == "nothing (2 KiB searched)"
    assert describe(Finding(1, {"log"}, ["x"])) == "log (1 B searched; 1 unreadable)"
    assert describe(Finding(5 << 30, everything)) == "everything (5 GiB searched)"
    assert leaks({"logs": Finding(1, {"log"}), PLACES[-1]: Finding(1, {"log"})}) == {"logs"}
    assert size(3 << 20) == "3 MiB"


def test_descendants_are_found() -> None:
    parent = subprocess.Popen(["/bin/sh", "-c", "sleep 30; true"])
    try:
        for _ in range(100):
            if len(descendants([parent.pid])) == 2:
                break
        assert len(descendants([parent.pid])) == 2
        assert descendants([2**22 + 1]) == []
    finally:
        for pid in descendants([parent.pid]):
            subprocess.run(["/bin/kill", str(pid)], check=False)
        parent.wait()
