"""The agent's run: one word at the end, whatever happens, and the steps in their order."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kokon.errors import DeniedError, KokonError, UntrustedError
from kokon.guest.agent import boot, main, ports
from kokon.guest.agent.container import Ending
from kokon.guest.agent.control import Stop
from kokon.guest.agent.main import Agent
from kokon.guest.agent.status import StatusPort, denial_hint


class Off(BaseException):
    """The machine is off."""


class Port(StatusPort):
    def __init__(self) -> None:
        super().__init__(None)
        self.lines: list[dict[str, Any]] = []

    def write(self, line: bytes) -> None:
        self.lines.append(json.loads(line))


class ScriptedBroker:
    """The server, which lets in whom the test says."""

    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.attested = False
        self.reports: list[tuple[str, str]] = []

    def attest(self) -> None:
        self.events.append("attest")
        self.attested = True

    def report(self, code: str, text: str) -> bool:
        self.reports.append((code, text))
        return True


class ScriptedContainer:
    def __init__(self, ending: Ending) -> None:
        self.signals: list[int] = []
        self.ending = ending

    def signal(self, number: int) -> None:
        self.signals.append(number)

    def wait(self) -> Ending:
        return self.ending


class ScriptedWorkload:
    def __init__(self, events: list[str], container: ScriptedContainer) -> None:
        self.events, self.container = events, container
        self.has_volumes = False
        self.is_block = False

    def __getattr__(self, name: str) -> Callable[[], None]:
        return lambda: self.events.append(name)

    def start(self) -> ScriptedContainer:
        self.events.append("start")
        return self.container

    def serve(self, door: str, ready: Callable[[], None]) -> None:
        self.events.append(f"serve with {door}")
        ready()


class ScriptedLaunch:
    def __init__(self, events: list[str], broker: ScriptedBroker, workload: ScriptedWorkload) -> None:
        self.events, self._broker, self._workload = events, broker, workload

    def scratch(self, _children: object) -> frozenset[str]:
        return frozenset(("dm-1", "dm-2"))

    def broker(self) -> ScriptedBroker:
        return self._broker

    def door(self) -> str:
        return "the door"

    def workload(self, _children: object, _broker: object) -> ScriptedWorkload:
        return self._workload


class Guest:
    """An agent whose machine is made of scripts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ending: Ending) -> None:
        self.events: list[str] = []
        self.port = Port()
        self.broker = ScriptedBroker(self.events)
        self.container = ScriptedContainer(ending)
        self.workload = ScriptedWorkload(self.events, self.container)
        self.launch = ScriptedLaunch(self.events, self.broker, self.workload)
        self.agent = Agent()
        self.agent._status = self.port
        monkeypatch.setattr(Agent, "_boot", lambda _: {})
        monkeypatch.setattr(Agent, "_launch", lambda _: self.launch)
        monkeypatch.setattr(main, "Children", lambda: None)
        monkeypatch.setattr(main, "Agent", lambda: self.agent)
        monkeypatch.setattr(main, "power_off", self.off)
        self.corrupted: str | None = None
        monkeypatch.setattr(main.kmsg, "already_reported", lambda: self.corrupted)
        monkeypatch.setattr(Agent, "_watch", lambda _: None)
        monkeypatch.setattr(boot, "lock_modules", lambda: self.events.append("lock"))

    def off(self) -> None:
        raise Off

    def run(self) -> list[dict[str, Any]]:
        with pytest.raises(Off):
            main.main()
        return self.port.lines


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Guest:
    return Guest(monkeypatch, Ending(7, None, out_of_memory=False))


def test_the_steps_in_their_order(guest: Guest) -> None:
    lines = guest.run()
    assert [line["phase"] for line in lines] == [
        *("agent-ready", "attested", "pulled", "unsealed", "provisioned", "started", "serving", "exited")
    ]
    assert lines[-1]["exit"] == 7
    assert guest.events == [*("attest", "pull", "unseal", "provision", "lock", "start", "serve with the door", "close")]
    assert [code for code, _ in guest.broker.reports] == ["application-started", "application-exited"]


def test_an_application_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(monkeypatch, Ending(137, 9, out_of_memory=True))
    last = guest.run()[-1]
    assert (last["phase"], last["exit"], last["code"]) == ("exited", 137, "guest-out-of-memory")
    assert guest.broker.reports[-1][0] == "guest-out-of-memory"


@pytest.mark.parametrize("step", ["pull", "unseal", "provision"])
def test_a_failure_ends_everything(guest: Guest, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail() -> None:
        raise UntrustedError("image-unsigned", "patient data", found="patient 7")

    setattr(guest.workload, step, fail)
    last = guest.run()[-1]
    assert {k: v for k, v in last.items() if k != "t"} == {
        "phase": "failed",
        "kind": "untrusted",
        "code": "image-unsigned",
    }
    assert "start" not in guest.events
    assert guest.broker.reports == [
        ("image-unsigned", "patient data [image-unsigned] (expected None, found patient 7)")
    ]


def test_an_unknown_exception_says_nothing(guest: Guest) -> None:
    def fail() -> None:
        raise ZeroDivisionError("patient 7")

    guest.workload.pull = fail
    with pytest.raises(Off) as caught:
        main.main()
    assert isinstance(caught.value.__context__, ZeroDivisionError)
    last = guest.port.lines[-1]
    assert {k: v for k, v in last.items() if k != "t"} == {
        "phase": "failed",
        "kind": "internal",
        "code": "internal-error",
    }
    assert guest.broker.reports == [("internal-error", "")]


def test_the_machine_goes_off_even_if_the_last_word_cannot_be_said(guest: Guest) -> None:
    def fail(_: bytes) -> None:
        raise ZeroDivisionError

    guest.port.write = fail  # type: ignore[method-assign]
    with pytest.raises(Off):
        guest.agent.end()


def test_a_refusal_tells_the_host_its_code_and_id(guest: Guest) -> None:
    def refuse() -> None:
        raise DeniedError("provisioning-denied", "no", found="debug-enabled", hint=denial_hint("00ff"))

    guest.broker.attest = refuse  # type: ignore[method-assign]
    last = guest.run()[-1]
    assert last["found"] == "debug-enabled"
    assert last["hint"].endswith("explain 00ff")


def test_before_the_server_is_known_only_the_host_is_told(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise KokonError("disk-missing", "x")

    monkeypatch.setattr(Agent, "_launch", fail)
    assert guest.run()[-1]["code"] == "disk-missing"
    assert guest.broker.reports == []


def test_a_stop_before_the_start_ends_the_guest(guest: Guest) -> None:
    with pytest.raises(Off):
        guest.agent._stop(Stop(15))
    last = guest.port.lines[-1]
    assert (last["phase"], last["exit"], last["signal"]) == ("exited", 143, 15)


def test_a_stop_after_the_start_is_for_the_application(guest: Guest) -> None:
    guest.agent._container = guest.container  # type: ignore[assignment]
    guest.agent._stop(Stop(10))
    assert guest.container.signals == [10]
    assert guest.port.lines == []


@pytest.mark.parametrize(
    ("device", "code"), [("dm-2", "scratch-corrupted"), ("dm-4", "volume-corrupted"), ("253:2", "image-corrupted")]
)
def test_a_corrupted_disk_kills_the_application(guest: Guest, device: str, code: str) -> None:
    guest.workload.serve = lambda *_: guest.agent._on_corruption(device)  # type: ignore[method-assign]
    last = guest.run()[-1]
    assert guest.container.signals == [9]
    assert (last["phase"], last["code"]) == ("failed", code)
    assert guest.broker.reports[-1][0] == code


def test_a_volume_corrupted_early_prevents_the_start(guest: Guest) -> None:
    guest.agent._on_corruption("dm-4")
    assert guest.run()[-1]["code"] == "volume-corrupted"
    assert "start" not in guest.events


@pytest.mark.parametrize("error", [KokonError("disk-failed", "x"), OSError(5, "Input/output error")])
def test_a_failure_that_a_corrupted_disk_led_to_is_named_so(guest: Guest, error: Exception) -> None:
    def fail() -> None:
        guest.corrupted = "dm-2"
        raise error

    guest.workload.unseal = fail
    with pytest.raises(Off):
        main.main()
    assert guest.port.lines[-1]["code"] == "scratch-corrupted"


def test_volumes_bring_their_modules(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    guest.workload.has_volumes = True
    wanted: list[object] = []
    monkeypatch.setattr(main.modules, "load_order", lambda _, names: wanted.append(names) or ())
    guest.run()
    assert wanted == [main.modules.VOLUME]
    assert guest.events.index("provision") < guest.events.index("start")


def test_a_block_image_brings_its_modules(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    guest.workload.is_block = True
    wanted: list[object] = []
    monkeypatch.setattr(main.modules, "load_order", lambda _, names: wanted.append(names) or ())
    guest.run()
    assert wanted == [main.modules.BLOCK]


def test_the_kernels_log_is_watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_bytes(b"3,382,16886458,-;device-mapper: crypt: dm-2: INTEGRITY AEAD ERROR, sector 78304\n")
    monkeypatch.setattr(main.kmsg, "open_log", lambda: os.open(log, os.O_RDONLY))
    agent = Agent()
    agent._watch()
    while agent._corrupted is None:
        time.sleep(0.01)
    assert agent._corrupted == "dm-2"


def test_the_machine_is_prepared_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    for name in ("mount_all", "silence", "detach_consoles", "harden"):
        monkeypatch.setattr(boot, name, lambda name=name: events.append(name))
    monkeypatch.setattr(main.modules, "read_index", lambda: events.append("index") or {})
    monkeypatch.setattr(main.modules, "load", lambda _: events.append("load"))
    opened = os.open("/dev/null", os.O_RDONLY)
    monkeypatch.setattr(ports, "open_port", lambda name, _: opened if name == ports.CONTROL else None)
    monkeypatch.setattr("kokon.guest.agent.control.follow", lambda *_: events.append("follow"))
    assert Agent()._boot() == {}
    assert [event for event in events if event != "follow"] == [
        *("mount_all", "silence", "detach_consoles", "harden", "index", "load")
    ]
    monkeypatch.setattr(main.network, "configure", lambda: events.append("network"))
    monkeypatch.setattr(main.disks, "find_disk", lambda name: events.append(name))
    monkeypatch.setattr(main.Launch, "read", lambda _: "launch")
    assert Agent()._launch() == "launch"
    assert events[-2:] == ["network", "initdata"]
