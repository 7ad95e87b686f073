"""A world for end to end tests: the real command line, a real registry, a real provisioning server, real guests.

One Kokon home is everybody's: author, owner, host and user. It is below /tmp, since a socket's path has 107 bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kokon.demo.canaries import Canaries, plant
from kokon.demo.clinic.image import build_image
from kokon.host.kvm import probe_kvm
from kokon.launch.image import GuestImage, current_guest, read_guest_image
from support.registry import LocalRegistry

KOKON = str(Path(sys.executable).with_name("kokon"))
BOOT_SECONDS = 180.0
PYTHON = ("--arg", "python3.11", "--arg=-c")


def environment_home() -> Path:
    """The home that `make guest` filled."""
    return Path(os.environ.get("KOKON_HOME") or Path.home() / ".local/share/kokon").absolute()


@dataclass(frozen=True)
class Done:
    """What a command ended with."""

    words: tuple[str, ...]
    status: int
    out: str
    err: str

    def answer(self) -> dict[str, Any]:
        """The JSON object on stdout of a command that succeeded."""
        assert self.status == 0, self
        value = json.loads(self.out)
        assert isinstance(value, dict), self
        return value

    def error(self, code: str, status: int, *, hint: bool = True) -> dict[str, Any]:
        """The error of a command that failed with this code and status, with nothing on stdout, and with a hint."""
        errors = [json.loads(line)["error"] for line in self.err.splitlines() if line.startswith('{"error"')]
        assert len(errors) == 1, self
        (error,) = errors
        assert (error["code"], self.status) == (code, status), self
        assert not self.out, self
        assert error["message"], self
        assert error.get("hint") or not hint, self
        return dict(error)


class Runner:
    """Runs `kokon` as a person would, in a Kokon home and a directory of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.work = home / "work"
        self.work.mkdir(exist_ok=True)

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of the commands."""
        return {**os.environ, "KOKON_HOME": str(self.home), "NO_COLOR": "1", **more}

    def kokon(
        self, *words: object, given: bytes = b"", timeout: float = BOOT_SECONDS, env: Mapping[str, str] | None = None
    ) -> Done:
        """Run a command as it is typed."""
        texts = tuple(str(word) for word in words)
        done = subprocess.run(
            [KOKON, *texts],
            input=given,
            capture_output=True,
            cwd=self.work,
            env=self.environment(**(env or {})),
            timeout=timeout,
            check=False,
        )
        return Done(texts, done.returncode, done.stdout.decode(), done.stderr.decode())

    def ask(self, *words: object, given: bytes = b"") -> dict[str, Any]:
        """The answer of `kokon WORDS --json`, which must succeed."""
        return self.kokon(*words, "--json", given=given).answer()

    def refused(
        self, code: str, status: int, *words: object, hint: bool = True, env: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """The error of `kokon WORDS --json`, which must fail with this code and exit status."""
        return self.kokon(*words, "--json", env=env).error(code, status, hint=hint)

    def begin(self, *words: object) -> subprocess.Popen[str]:
        """A command that goes on; the caller ends it."""
        return subprocess.Popen(
            [KOKON, *(str(word) for word in words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=self.work,
            env=self.environment(),
        )


class Owner:
    """`kokon provision serve` of a home, on a port that stays the same over restarts."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.port = free_port()
        self.ready: dict[str, Any] = {}
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start, and wait until it is ready."""
        listen = f"127.0.0.1:{self.port}"
        command = (KOKON, "provision", "serve", "--listen", listen, "--accept-simulated", "local", "--json")
        log = self._runner.home / "provision.log"
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=self._runner.environment()
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, log.read_text()
        self.ready = json.loads(line)

    def stop(self, *, kill: bool = False) -> None:
        """End it; `kill` as if the power failed."""
        if self._process is not None:
            (self._process.kill if kill else self._process.terminate)()
            self._process.wait(20)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def entries(self) -> list[dict[str, Any]]:
        """The owner's log, but for who looked at it; the command verifies it."""
        return [entry for entry in self._runner.ask("log")["entries"] if entry["event"] != "admin-login"]


class World(Runner):
    """Registry, server, author, a sealed clinic image, and what is admitted and launched from it."""

    def __init__(self, registry: LocalRegistry, canaries: Canaries, guest: GuestImage) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="ke-", dir="/tmp")))
        self.registry = registry
        self.canaries = canaries
        self.guest = guest
        self.owner = Owner(self)
        self.digest = ""

    @classmethod
    @contextlib.contextmanager
    def open(cls) -> Iterator[Self]:
        """Set everything up, and take it down again."""
        guest = find_guest()
        with tempfile.TemporaryDirectory(prefix="kr-", dir="/tmp") as storage, LocalRegistry(Path(storage)) as registry:
            world = cls(registry, plant(), guest)
            try:
                world.prepare()
                yield world
            finally:
                world.close()

    def prepare(self) -> None:
        """Author's key, sealed image, server, user's trust."""
        borrow(self.home, self.guest)
        self.owner.start()
        build_image(self.canaries, self.home / "cache", self.work / "image")
        self.ask("keygen", "author.key")
        # --vary-args, so that one image serves all tests: `admit_program` puts its own program in.
        self.digest = self.seal("oci:image", "clinic:1", "--vary-args")["digest"]
        self.ask("trust", "author", "author.key.pub")
        self.ask("trust", "simulated", "local")

    def close(self) -> None:
        """Nothing stays."""
        for container in self.ask("ps", "--all")["containers"]:
            self.kokon("rm", container["name"], "--force")
        self.owner.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def image(self) -> str:
        """The sealed clinic image."""
        return f"{self.registry.host}/clinic:1"

    @property
    def owner_key(self) -> str:
        """File with the key that authors encrypt to."""
        return str(self.owner.ready["owner_key"])

    def seal(self, source: str, name: str, *options: object) -> dict[str, Any]:
        """Seal an image into the registry."""
        destination = f"docker://{self.registry.host}/{name}"
        return self.ask("seal", source, destination, "--key", "author.key", "--owner", self.owner_key, *options)

    def admit(self, name: str, *options: object, image: str | None = None) -> Path:
        """Admit the clinic image as workload `name`; its launch document."""
        document = self.work / f"{name}.toml"
        self.ask(
            "admit", image or self.image, "--author", "author.key.pub", "--name", name, "--port", 8080, *options,
            "-o", document,
        )  # fmt: skip
        return document

    def admit_program(self, name: str, program: str, *options: object) -> Path:
        """The same with a Python program of the test's instead of the clinic's."""
        return self.admit(name, *PYTHON, f"--arg={program}", *options)

    def admit_clinic(self, name: str = "clinic") -> Path:
        """The clinic as it is meant: two secrets and a volume."""
        texts = self.canaries.texts
        self.ask("secret", "put", f"{name}/db-password", given=texts["file secret"].encode())
        self.ask("secret", "put", f"{name}/token", given=texts["environment secret"].encode())
        return self.admit(
            name, "--secret", "db-password", "--secret", "name=token,env=CLINIC_TOKEN", "--volume", "data=/data"
        )

    def run(self, document: Path, *options: object) -> dict[str, Any]:
        """Launch and return when it serves."""
        return self.ask("run", document, "--publish", "127.0.0.1:0", "--detach", *options)

    def run_fails(self, code: str, status: int, document: Path, *options: object) -> dict[str, Any]:
        """A launch that must fail with this code; nothing of it goes on running."""
        error = self.refused(code, status, "run", document, "--publish", "127.0.0.1:0", "--detach", *options)
        self.assert_gone(document.stem)
        return error

    def container(self, name: str) -> dict[str, Any]:
        """What `kokon ps` says about a container, ended or not."""
        listed = [one for one in self.ask("ps", "--all")["containers"] if one["name"] == name]
        assert len(listed) == 1, listed
        return dict(listed[0])

    def phases(self, name: str) -> list[str]:
        """The phases that a guest went through."""
        lines = (self.home / "containers" / name / "status.jsonl").read_text().splitlines()
        return [json.loads(line)["phase"] for line in lines]

    def assert_gone(self, name: str, port: int | None = None) -> None:
        """Nothing of a container runs: no process, no line in `kokon ps`, and its port is free."""
        wait_until(lambda: not processes_of(self.home / "containers" / name), 10, f"processes of {name} remain")
        assert name not in [one["name"] for one in self.ask("ps")["containers"]]
        if port is not None:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))

    def assert_no_trace(self, name: str, port: int | None = None) -> None:
        """As if the container had never been asked for."""
        self.assert_gone(name, port)
        assert name not in [one["name"] for one in self.ask("ps", "--all")["containers"]]
        assert not (self.home / "containers" / name).exists()

    @contextlib.contextmanager
    def tunnel(self, url: str) -> Iterator[int]:
        """The local port of `kokon connect URL`."""
        process = self.begin("connect", url, "--json")
        try:
            assert process.stdout is not None
            text = ""
            while line := process.stdout.readline():
                text += line
                if line.startswith("}"):
                    break
            assert text, process.communicate(timeout=10)
            yield int(json.loads(text)["listen"].rpartition(":")[2])
        finally:
            process.terminate()
            process.communicate(timeout=20)


def find_guest() -> GuestImage:
    """The guest image that `make guest` built. End to end tests are not skipped where there is none: they fail."""
    directory = current_guest(environment_home())
    if not (directory / "guest.json").is_file():
        raise RuntimeError(f"NO GUEST IMAGE in {directory}: run `make guest` (or `kokon guest build`), then test again")
    return read_guest_image(directory.resolve())


def borrow(home: Path, guest: GuestImage) -> None:
    """Let `home` use guest image, package cache and knowledge about KVM of the environment's home."""
    source = environment_home()
    (source / "cache").mkdir(parents=True, exist_ok=True)
    with (source / "cache" / ".kvm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        probe_kvm(source, guest)
    if (source / "kvm.json").is_file():
        shutil.copy(source / "kvm.json", home / "kvm.json")
    (home / "cache").symlink_to(source / "cache")
    (home / "guest").mkdir()
    (home / "guest" / guest.directory.name).symlink_to(guest.directory)
    (home / "guest" / "current").symlink_to(guest.directory.name)


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processes_of(directory: Path) -> list[int]:
    """QEMU and security processors whose arguments or open work name `directory`."""
    needle = os.fsencode(directory) + b"/"
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if needle in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def wait_until(done: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Wait for something that comes soon."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


def read_until(stream: Any, wanted: str) -> list[str]:
    """Lines of a stream up to the first that holds `wanted`."""
    lines: list[str] = []
    while line := stream.readline():
        lines.append(line)
        if wanted in line:
            return lines
    raise AssertionError(f"{wanted!r} did not come: {lines}")


def flip_byte(path: Path, offset: int) -> None:
    """Change one byte of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def changed_stretch(before: Path, after: Path) -> tuple[int, int]:
    """Start and end of the largest stretch of blocks that differ between two files of one size."""
    block, best, start = 4096, (0, 0), None
    with before.open("rb") as old, after.open("rb") as new:
        for position in range(0, after.stat().st_size + block, block):
            if old.read(block) != new.read(block):
                start = position if start is None else start
            elif start is not None:
                best = max(best, (start, position), key=lambda stretch: stretch[1] - stretch[0])
                start = None
    return best


def run_tool(*words: object, env: Mapping[str, str] | None = None) -> str:
    """A helper program that must succeed; its stdout."""
    command: Sequence[str] = [str(word) for word in words]
    done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, **(env or {})})
    assert done.returncode == 0, (command, done.stderr.decode(errors="replace")[-1000:])
    return done.stdout.decode()
