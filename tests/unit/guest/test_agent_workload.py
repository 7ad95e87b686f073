"""From the launch document to the container, and what the front door asks of the agent."""

import os
import socket
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from test_agent_container import CONFIG, DOCUMENT, ME
from test_agent_kbs import BLANK, evidence

from kokon.channel.serve import Limits
from kokon.errors import HostError, InternalError, MalformedError, UntrustedError
from kokon.guest.agent import boot, power, reap, work, workload
from kokon.guest.agent import container as containers
from kokon.guest.agent.blockimage import Places
from kokon.guest.agent.logs import LogRing
from kokon.guest.agent.presence import Presence
from kokon.guest.agent.volume import Owner
from kokon.guest.agent.work import Door, Launch
from kokon.guest.agent.workload import Workload
from kokon.image.block.format import BlockInfo
from kokon.launch.document import VolumeUse, build_document, document_digest, write_disk
from kokon.tee.evidence import Evidence
from kokon.tee.snp.report import encode_report

PEM = "-----BEGIN {0}-----\nAAAA\n-----END {0}-----\n"
REAL = replace(
    DOCUMENT,
    image=replace(DOCUMENT.image, author=PEM.format("PUBLIC KEY")),
    provisioning=replace(DOCUMENT.provisioning, certificate=PEM.format("CERTIFICATE")),
)
DATA = build_document(REAL)


class Device:
    """Hardware that was told of this or another launch document."""

    def __init__(self, host_data: bytes = document_digest(DATA)) -> None:
        self.host_data = host_data

    def report(self, report_data: bytes) -> Evidence:
        return Evidence("snp", encode_report(replace(BLANK, report_data=report_data, host_data=self.host_data)))


class ScriptedBroker:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def resource(self, uri: str) -> bytes:
        self.asked.append(uri)
        return b"0123456789abcdef" * 2


class ScriptedNetwork:
    descriptor = 99

    def __init__(self) -> None:
        self.refusals = 2

    def connect(self, _port: int) -> socket.socket:
        if self.refusals:
            self.refusals -= 1
            raise OSError("not yet")
        return socket.socket()


def test_the_document_is_read_from_its_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(write_disk(DATA))
    monkeypatch.setattr(work, "open_device", Device)
    launch = Launch.read(disk)
    assert launch.document == REAL
    assert launch.evidence(bytes(64)).tee == "snp"


def test_a_machine_without_a_processor() -> None:
    with pytest.raises(HostError) as caught:
        work.open_device()
    assert caught.value.code == "processor-missing"


def test_another_launch_document_is_noticed() -> None:
    with pytest.raises(UntrustedError) as caught:
        Launch(DATA, Device(bytes(32))).evidence(bytes(64))
    assert caught.value.code == "launch-document-mismatch"


def test_the_door_is_made_inside() -> None:
    door = Launch(DATA, Device()).door()
    assert door.certificate[:1] == b"\x30"
    assert isinstance(door.key.curve, ec.SECP384R1)


def test_the_scratch_disk_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(work.disks, "find_disk", lambda serial: Path("/dev") / serial)
    monkeypatch.setattr("kokon.guest.agent.scratch.prepare_scratch", lambda *a: seen.append(a[1:]) or {"dm-1"})
    assert Launch(DATA, Device()).scratch(None) == {"dm-1"}  # type: ignore[arg-type]
    assert seen == [(Path("/dev/scratch"), work.SCRATCH)]


def test_the_broker_is_for_this_document(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr("kokon.guest.agent.kbs.Connection", lambda *a: made.append(a))
    broker = Launch(DATA, Device()).broker()
    assert not broker.attested
    assert made[0][0] == REAL.provisioning


def make(tmp_path: Path, *, volumes: tuple[VolumeUse, ...] = ()) -> tuple[Workload, ScriptedBroker]:
    document = replace(REAL, volumes=volumes)
    launch = Launch(build_document(document), Device(document_digest(build_document(document))))
    broker = ScriptedBroker()
    made = launch.workload(None, broker)  # type: ignore[arg-type]
    assert isinstance(made, Workload)
    made._scratch, made._rootfs, made._work = tmp_path, tmp_path / "rootfs", tmp_path / "work"
    made._rootfs.mkdir()
    made._work.mkdir()
    return made, broker


def test_steps_out_of_order_are_bugs(tmp_path: Path) -> None:
    made, _ = make(tmp_path)
    for step in (made.unseal, made.provision, made.start, lambda: made.serve(None, lambda: None)):  # type: ignore[arg-type]
        with pytest.raises(InternalError) as caught:
            step()
        assert caught.value.code == "internal-error"


def test_secrets_are_asked_for_after_the_pull(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, broker = make(tmp_path)
    pulled = SimpleNamespace(config=CONFIG, kek_ids=lambda: ("kbs:///default/kek/1",), envelope=b"{}", block=None)

    def pull(image: object, fetcher: object, directory: Path, now: object) -> object:
        assert broker.asked == []
        assert (image, directory) == (REAL.image, tmp_path)
        return pulled

    unsealed: list[Any] = []
    monkeypatch.setattr("kokon.image.open.pull_image", pull)
    monkeypatch.setattr("kokon.image.open.unseal_layers", lambda *a: unsealed.append(a))
    made.pull()
    made.unseal()
    assert broker.asked == ["kbs:///default/kek/1"]
    assert unsealed == [(pulled, {"kbs:///default/kek/1": b"0123456789abcdef" * 2}, made._rootfs)]


def test_a_block_image_is_opened_and_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = make(tmp_path)
    info = BlockInfo(bytes(32), 1)
    pulled = SimpleNamespace(config=CONFIG, kek_ids=lambda: ("kbs:///default/kek/1",), block=SimpleNamespace(info=info))
    made._pulled = pulled  # type: ignore[assignment]
    assert made.is_block
    mounted: list[Any] = []
    monkeypatch.setattr("kokon.image.open.block_key", lambda image, keys: (image, keys))
    monkeypatch.setattr("kokon.guest.agent.disks.find_disk", lambda serial: Path("/dev") / serial)
    monkeypatch.setattr("kokon.guest.agent.blockimage.mount_block", lambda *a: mounted.append(a))
    made.unseal()
    keys = {"kbs:///default/kek/1": b"0123456789abcdef" * 2}
    places = Places(tmp_path / "work" / "image", tmp_path, tmp_path / "rootfs")
    assert mounted == [(Path("/dev/image"), info, (pulled, keys), places)]


def provisioned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Workload, ScriptedBroker]:
    made, broker = make(tmp_path, **options)
    made._pulled = SimpleNamespace(config=CONFIG, envelope=b'{"payload":"x"}')  # type: ignore[assignment]
    monkeypatch.setattr(containers, "container_user", lambda *_: ME)
    monkeypatch.setattr("kokon.guest.agent.netns.AppNetwork", ScriptedNetwork)
    monkeypatch.setattr(containers, "memory_limit", lambda _: 1 << 27)
    made.provision()
    return made, broker


def test_provisioning_asks_for_all_and_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, broker = provisioned(tmp_path, monkeypatch)
    assert broker.asked == ["kbs:///clinic/secret/db", "kbs:///clinic/secret/token", "kbs:///clinic/log/token"]
    spec = made._spec
    assert spec is not None
    assert spec.network == f"/proc/{os.getpid()}/fd/99"
    assert {bind.target for bind in spec.binds} >= {"/run/secrets/db", "/etc/hosts"}


def test_volumes_are_mounted_and_owned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted: list[Any] = []

    class Volume:
        def __init__(self, *arguments: object) -> None:
            mounted.append(arguments[1:3])

        def mount(self, key: bytes, target: Path) -> bool:
            target.mkdir(parents=True)
            return len(key) == 32

    monkeypatch.setattr("kokon.guest.agent.volume.Volume", Volume)
    monkeypatch.setattr(workload.disks, "find_disk", lambda serial: Path("/dev") / serial)
    made, broker = provisioned(
        tmp_path, monkeypatch, volumes=(VolumeUse("data", "/data", "kbs:///clinic/volume/data"),)
    )
    assert made.has_volumes
    assert mounted == [(Owner("clinic", "data"), Path("/dev/vol-data"))]
    assert "kbs:///clinic/volume/data" in broker.asked
    assert made._spec is not None
    assert made._spec.binds[0].target == "/data"
    assert "rw" in made._spec.binds[0].options
    unmounted: list[str] = []

    def umount(target: str) -> None:
        unmounted.append(target)
        raise OSError(16, "busy")

    monkeypatch.setattr(workload.kernel, "umount", umount)
    made.close()
    assert unmounted == [str(tmp_path / "work" / "volumes" / "data")]


def test_output_goes_to_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = provisioned(tmp_path, monkeypatch)

    def start(_children: object, _spec: object, stdout: int, stderr: int, _work: Path) -> str:
        os.write(stdout, b"out")
        os.write(stderr, b"err")
        return "container"

    monkeypatch.setattr(containers.Container, "start", start)
    assert made.start() == "container"  # type: ignore[comparison-overlap]
    made.close()
    assert sorted(b"".join(made._log.read())) == sorted(b"outerr")


def test_serving_is_announced_once_the_port_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = provisioned(tmp_path, monkeypatch)
    monkeypatch.setattr(workload, "_LOOK_FOR_PORT", 0.01)
    served: list[Any] = []

    class Server:
        def __init__(self, *arguments: object, limits: Limits) -> None:
            served.extend(arguments)
            assert limits.connections <= 64

        def start(self) -> None:
            served.append("started")

    monkeypatch.setattr("kokon.channel.serve.AttestedServer", Server)
    ready = threading.Event()
    made.serve(Door(ec.generate_private_key(ec.SECP384R1()), b"der"), ready.set)
    assert ready.wait(5)
    presence, _, certificate, connect, last = served
    assert (certificate, last) == (b"der", "started")
    assert presence.released() == ["db", "token"]
    assert presence.started().endswith("Z")
    connect().close()


def test_an_application_that_never_listens_is_not_waited_for(tmp_path: Path) -> None:
    made, _ = make(tmp_path)
    made._ended.set()
    made._await_port(ScriptedNetwork(), 1, lambda: None)  # type: ignore[arg-type]


def presence(token: bytes = b"0123456789abcdef\n") -> Presence:
    ring = LogRing()
    ring.append(b"hello")
    return Presence(b"document", b'{"payload":"x"}', evidence, ring, token, ("db",))


def test_the_front_door_sees_what_it_needs() -> None:
    made = presence()
    assert made.document == b"document"
    assert made.statement == {"payload": "x"}
    assert made.evidence(bytes(64)).tee == "snp"
    assert (made.released(), made.started(), made.log_token()) == (["db"], None, "0123456789abcdef")
    assert b"".join(made.logs(follow=False)) == b"hello"
    assert made.status()["running"] is False
    made.mark_started("2026-11-23T06:00:00Z")
    assert made.status()["running"] is True


@pytest.mark.parametrize("token", [b"short", b"x" * 1025, b"\xff" * 32])
def test_the_logs_token_is_checked(token: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        presence(token)
    assert caught.value.code == "log-token-malformed"


def test_power_off_syncs_first(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Off(BaseException):
        pass

    def sleep(_: float) -> None:
        raise Off

    monkeypatch.setattr(os, "sync", lambda: events.append("sync"))
    monkeypatch.setattr(power.kernel, "power_off", lambda: events.append("off"))
    monkeypatch.setattr(power.time, "sleep", sleep)
    with pytest.raises(Off):
        power.power_off()
    assert events == ["sync", "off"]


def test_what_is_mounted_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    mounted: list[tuple[object, ...]] = []

    def mount(*arguments: object) -> None:
        mounted.append(arguments)
        if arguments[2] == "cgroup2":
            raise OSError(16, "busy")

    written: list[str] = []
    monkeypatch.setattr(boot.kernel, "mount", mount)
    monkeypatch.setattr(boot.os.path, "ismount", lambda path: path in ("/proc", "/dev"))
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    monkeypatch.setattr(Path, "write_text", lambda _, text: written.append(text))
    boot.mount_all()
    assert [entry[1] for entry in mounted] == ["/sys", "/dev/pts", "/run", "/tmp", "/sys/fs/cgroup", "/"]
    assert written == ["nameserver 10.0.2.3\n"]
    monkeypatch.setattr(boot.kernel, "mount", lambda *_: (_ for _ in ()).throw(OSError(1, "no")))
    with pytest.raises(OSError, match="no"):
        boot.mount_all()


def test_strangers_are_remembered_for_a_while() -> None:
    children = reap.Children.__new__(reap.Children)
    children._known, children._statuses = set(), {}
    children._strangers = reap.OrderedDict()
    for pid in range(300):
        children._record(pid, 0)
    assert len(children._strangers) == 256
