"""The README's commands, run as they stand there, on an image that this project never saw, and its answers.

Only ports are changed, so that they are free. What a reader brings along is made here: redis.tar (Debian's
redis-server in an image made with buildah), password.txt, a registry.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kokon.errors import UnreachableError
from support.redis import RedisClient, build_redis_image
from support.registry import LocalRegistry
from support.world import Runner, borrow, environment_home, find_guest, free_port, processes_of, read_until

pytestmark = pytest.mark.vm

README = Path(__file__).parents[2] / "README.md"
PASSWORD = "only the enclave knows"


def commands() -> list[str]:
    """The lines of the section "By hand", without comments."""
    section = README.read_text().partition("\n## By hand\n")[2].partition("\n## ")[0]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block is not None
    joined = block[1].replace("\\\n", " ")
    return [line for text in joined.splitlines() if (line := re.sub(r"\s+#.*|^#.*", "", text).strip())]


class Reader(Runner):
    """A person who types what the README says."""

    def __init__(self, home: Path, registry: LocalRegistry) -> None:
        super().__init__(home)
        self.done: list[str] = []
        self.said = ""
        self.running: list[subprocess.Popen[str]] = []
        self.ports = {"5000": registry.port, "9443": free_port(), "6379": free_port(), "8443": free_port()}

    def type(self, line: str) -> None:
        """Run one line; what goes on in the background is waited for until it is ready."""
        command = line
        for written, port in self.ports.items():
            command = command.replace(f"127.0.0.1:{written}", f"127.0.0.1:{port}")
        if command.startswith("kokon provision serve") and "--listen" not in command:
            command = command.replace("serve", f"serve --listen 127.0.0.1:{self.ports['8443']}", 1)
        environment = self.environment(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        if line.startswith(("kokon provision serve", "kokon connect")):
            self._start(command.removesuffix("&"), environment)
        else:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command],
                capture_output=True, text=True, cwd=self.work, env=environment, timeout=300, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            self.said += done.stdout
        self.done.append(line)

    def _start(self, command: str, environment: dict[str, str]) -> None:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", f"exec {command}"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.work, env=environment,
        )  # fmt: skip
        self.running.append(process)
        read_until(process.stdout, "continues in" if "connect" in command else "admin token for your commands in")
        threading.Thread(target=lambda: process.stdout and process.stdout.read(), daemon=True).start()

    def leave(self) -> None:
        """End all that was started."""
        for container in self.ask("ps", "--all")["containers"]:
            self.kokon("rm", container["name"], "--force")
        for process in reversed(self.running):
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    """Someone who has typed everything."""
    home = Path(tempfile.mkdtemp(prefix="ke-", dir="/tmp"))
    with tempfile.TemporaryDirectory(prefix="kr-", dir="/tmp") as storage, LocalRegistry(Path(storage)) as registry:
        borrow(home, find_guest())
        person = Reader(home, registry)
        try:
            build_redis_image(environment_home() / "cache", person.work / "redis.tar")
        except UnreachableError as error:
            pytest.skip(f"README AND REDIS ARE NOT TESTED: the Debian mirror cannot be reached: {error}")
        (person.work / "password.txt").write_text(f'requirepass "{PASSWORD}"\n')
        try:
            for line in commands():
                person.type(line)
            yield person
        finally:
            person.leave()
            remain = processes_of(home)
            shutil.rmtree(home, ignore_errors=True)
        assert not remain


def test_the_readme_shows_the_whole_way() -> None:
    shown = [line.split()[1] for line in commands() if line.startswith("kokon ")]
    assert {"doctor", "guest", "keygen", "provision", "seal", "secret", "admit", "run", "verify", "connect"} <= set(
        shown
    )


def test_every_command_of_the_readme_works(reader: Reader) -> None:
    assert reader.done == commands()
    assert "SIMULATED" in reader.said
    assert "password" in reader.said


def test_the_readmes_application_answers_over_the_tunnel(reader: Reader) -> None:
    redis = RedisClient(reader.ports["6379"])
    try:
        assert redis("PING").startswith("-NOAUTH")
        assert redis("AUTH", PASSWORD) == "+OK"
        assert redis("PING") == "+PONG"
        assert redis("SET", "patient", "Ada Example") == "+OK"
        assert redis("GET", "patient") == "Ada Example"
        assert redis("SET", "large", "x" * 1_000_000) == "+OK"
        assert redis("GET", "large") == "x" * 1_000_000
    finally:
        redis.close()
    logs = reader.kokon("logs", "redis")
    assert logs.status == 0, logs
    assert "Ready to accept connections" in logs.out


def test_the_image_in_the_registry_is_closed(reader: Reader) -> None:
    inspected = reader.ask("inspect", f"127.0.0.1:{reader.ports['5000']}/redis:1", "--author", "author.key.pub")
    assert all(layer["encrypted"] for layer in inspected["layers"])
