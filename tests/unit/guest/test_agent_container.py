"""The container's files, limits, start and end."""

import itertools
import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import HostError, MalformedError
from kokon.guest.agent import container
from kokon.guest.agent.container import (
    Container,
    Ending,
    container_user,
    leaves_to_default,
    make_directory,
    memory_limit,
    oom_kills,
    own_like,
    plan,
    read_in_root,
    write_names,
    write_secrets,
)
from kokon.guest.agent.oci import Bind, ContainerSpec
from kokon.guest.agent.users import User
from kokon.image.manifest import ImageConfig
from kokon.launch.document import ImageRef, LaunchDocument, Provisioning, SecretUse

DOCUMENT = LaunchDocument(
    workload="clinic",
    image=ImageRef("http://127.0.0.1:5000", "clinic", "sha256:" + "0" * 64, "PEM"),
    provisioning=Provisioning("https://127.0.0.1", "PEM"),
    port=8080,
    log_key="kbs:///clinic/log/token",
    env=(("MODE", "live"),),
    secrets=(
        SecretUse("db", "kbs:///clinic/secret/db", file="/run/secrets/db"),
        SecretUse("token", "kbs:///clinic/secret/token", env="TOKEN"),
    ),
)
CONFIG = ImageConfig("amd64", "linux", (), entrypoint=("/app",), command=("-v",), user="app")
ME = User(os.getuid(), os.getgid())


def test_links_cannot_lead_out_of_the_image(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("host")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "real").write_text("image")
    (root / "etc" / "passwd").symlink_to("/real")
    (root / "etc" / "group").symlink_to("../../outside")
    assert read_in_root(root, "etc/passwd") == b"image"
    assert read_in_root(root, "etc/group") == b""
    assert read_in_root(root, "/etc/passwd", 2) == b"im"


def test_a_fifo_for_passwd_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc" / "passwd")
    assert read_in_root(tmp_path, "etc/passwd") == b""


def test_the_working_directory_is_made_inside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "var").mkdir(parents=True)
    (root / "link").symlink_to("/var")
    make_directory(root, "/link/a/b")
    assert (root / "var" / "a" / "b").is_dir()
    make_directory(root, "/")
    (root / "file").touch()
    with pytest.raises(MalformedError) as caught:
        make_directory(root, "/file/x")
    assert caught.value.code == "directory-unusable"
    (root / "up").symlink_to("../..")
    make_directory(root, "/up/escaped")
    assert (root / "escaped").is_dir()
    assert not (tmp_path / "escaped").exists()


def test_a_new_volume_looks_like_the_images_directory(tmp_path: Path) -> None:
    root, target = tmp_path / "root", tmp_path / "volume"
    (root / "data").mkdir(parents=True)
    (root / "data").chmod(0o2750)
    target.mkdir()
    own_like(root, "/data", target, ME)
    assert stat.S_IMODE(target.stat().st_mode) == 0o2750
    own_like(root, "/none", target, ME)
    assert stat.S_IMODE(target.stat().st_mode) == 0o755
    assert target.stat().st_uid == ME.uid


def test_memory_is_what_is_left() -> None:
    assert memory_limit("MemTotal: 400000 kB\nMemAvailable:   262144 kB\n") == (256 << 20) - container.RESERVE
    for text in ("MemAvailable: 60000 kB\n", ""):
        with pytest.raises(HostError) as caught:
            memory_limit(text)
        assert caught.value.code == "guest-memory-small"


@pytest.mark.parametrize(
    ("text", "count"), [("low 0\noom 3\noom_kill 2\n", 2), ("oom_kill x\n", 0), ("", 0), ("oom_kill_group 4\n", 0)]
)
def test_oom_kills_are_counted(text: str, count: int) -> None:
    assert oom_kills(text) == count


@pytest.mark.parametrize(
    ("status", "left"),
    [
        ("SigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n", True),
        ("SigIgn:\t0000000000004000\nSigCgt:\t0000000000000000\n", False),
        ("SigIgn:\t0000000000000000\nSigCgt:\t0000000000004000\n", False),
        ("SigIgn:\t0000000000000000\nSigCgt:\t0000000000000002\n", True),
    ],
)
def test_unhandled_signals_are_known(status: str, left: bool) -> None:
    assert leaves_to_default(status, 15) is left


@pytest.mark.parametrize(("user", "expected"), [("", User(home="/r")), ("app", User(7, 8, (9,), "/h"))])
def test_the_user_comes_from_the_image(tmp_path: Path, user: str, expected: User) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("root:x:0:0::/r:\napp:x:7:8::/h:\n")
    (tmp_path / "etc" / "group").write_text("more:x:9:app\n")
    config = ImageConfig("amd64", "linux", (), user=user)
    assert container_user(config, tmp_path) == expected


def test_file_secrets_are_readable_by_the_user_alone(tmp_path: Path) -> None:
    binds = write_secrets(DOCUMENT, {"db": b"hunter2", "token": b"t"}, ME, tmp_path)
    assert binds == [Bind(str(tmp_path / "secrets" / "db"), "/run/secrets/db")]
    file = tmp_path / "secrets" / "db"
    assert file.read_bytes() == b"hunter2"
    assert stat.S_IMODE(file.stat().st_mode) == 0o400
    assert not (tmp_path / "secrets" / "token").exists()


def test_names_are_those_of_loopback(tmp_path: Path) -> None:
    binds = write_names("clinic", tmp_path)
    assert [bind.target for bind in binds] == ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]
    assert Path(binds[0].source).read_text() == "127.0.0.1 localhost clinic\n::1 localhost\n"


def make_plan(config: ImageConfig = CONFIG) -> ContainerSpec:
    secrets = {"db": b"hunter2", "token": b"t0ken"}
    return plan(DOCUMENT, config, ME, secrets, [], rootfs=Path("/r"), network="/n", memory=1 << 27)


def test_the_plan_joins_image_document_and_secrets() -> None:
    spec = make_plan()
    assert spec.args == ("/app", "-v")
    assert spec.hostname == "clinic"
    assert spec.memory == 1 << 27
    assert spec.environment["TOKEN"] == "t0ken"
    assert spec.environment["MODE"] == "live"
    assert "hunter2" not in repr(spec)
    assert "t0ken" not in repr(spec)
    relative = ImageConfig("amd64", "linux", (), entrypoint=("/app",), working_directory="srv")
    assert make_plan(relative).directory == "/"


@dataclass
class ScriptedChildren:
    """crun that writes what it is told to."""

    bundle: Path
    statuses: list[int]
    log: str = ""
    adopted: list[int] = field(default_factory=list)
    config: dict[str, object] = field(default_factory=dict)

    def spawn(self, arguments: list[str], **_: object) -> int:
        options = dict(itertools.pairwise(arguments))
        self.config = json.loads((Path(options["--bundle"]) / "config.json").read_text())
        Path(options["--pid-file"]).write_text("4711")
        Path(options["--log"].removeprefix("file:")).write_text(self.log)
        return 1

    def wait(self, _pid: int) -> int:
        return self.statuses.pop(0)

    def adopt(self, pid: int) -> None:
        self.adopted.append(pid)


def started(tmp_path: Path, *statuses: int, log: str = "") -> tuple[Container, ScriptedChildren]:
    children = ScriptedChildren(tmp_path / "bundle", list(statuses), log)
    return Container.start(children, make_plan(), 1, 2, tmp_path), children  # type: ignore[arg-type]


def test_the_container_is_started_and_its_configuration_forgotten(tmp_path: Path) -> None:
    running, children = started(tmp_path, 0, 7 << 8)
    assert children.adopted == [4711]
    assert children.config["hostname"] == "clinic"
    assert not (tmp_path / "bundle" / "config.json").exists()
    assert running.wait() == Ending(7, None, out_of_memory=False)


def test_a_container_that_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        started(tmp_path, 1 << 8, log="first\nexecutable `x` not found\n")
    assert caught.value.code == "container-start-failed"
    assert caught.value.found == "executable `x` not found"
    (tmp_path / "two").mkdir()
    with pytest.raises(HostError) as caught:
        started(tmp_path / "two", 1 << 8)
    assert caught.value.found == "no message"
    assert container._last_line(tmp_path / "none") == "no message"


def test_out_of_memory_is_told_from_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Container, "_oom", staticmethod(lambda: True))
    running, _ = started(tmp_path, 0, 9)
    assert running.wait() == Ending(137, 9, out_of_memory=True)


def test_the_kernels_counter_is_read(tmp_path: Path) -> None:
    assert not Container._oom(tmp_path)
    (tmp_path / "application").mkdir()
    (tmp_path / "application" / "memory.events").write_text("oom_kill 1\n")
    assert Container._oom(tmp_path)


@pytest.mark.parametrize(
    ("handles", "number", "sent", "ending"),
    [
        (False, 15, 9, Ending(143, 15, out_of_memory=False)),
        (True, 15, 15, Ending(137, 9, out_of_memory=False)),
        (False, 28, 28, Ending(137, 9, out_of_memory=False)),
    ],
)
def test_a_stop_reaches_a_first_process_that_does_not_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handles: bool, number: int, sent: int, ending: Ending
) -> None:
    mask = f"SigCgt:\t{(1 << number - 1) if handles else 0:016x}\n"
    monkeypatch.setattr(Container, "_proc_status", lambda _: mask)
    kills: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, signal: kills.append((pid, signal)))
    running, _ = started(tmp_path, 0, 9)
    running.signal(number)
    assert kills == [(4711, sent)]
    assert running.wait() == ending


def test_signalling_the_dead_does_nothing(tmp_path: Path) -> None:
    running, _ = started(tmp_path, 0)
    running._pid = 2**22 + 1
    running.signal(15)
    running.signal(9)


@given(st.text(max_size=60))
def test_kernel_texts_do_not_crash(text: str) -> None:
    assert oom_kills(text) >= 0
