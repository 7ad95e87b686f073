"""The servers of the story: Debian's registry, and the owner's provisioning server, each a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kokon.errors import HostError

START_SECONDS = 30


def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int, alive: Callable[[], bool] = lambda: True) -> bool:
    """Whether somebody listens on `port` of the loopback interface, soon and while `alive`."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and alive():
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until `process` listens on `port`. Raises `HostError` (`demo-server-failed`)."""
    if listens(port, lambda: process.poll() is None):
        return
    tail = log.read_text(errors="replace")[-400:] if log.exists() else ""
    raise HostError("demo-server-failed", f"{process.args!r} did not start", found=tail, hint=f"see {log}")


@dataclass(slots=True)
class Server:
    """A running server: process, base URL, directory of its data."""

    process: subprocess.Popen[bytes]
    url: str
    directory: Path

    def stop(self) -> None:
        """End it and wait."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_registry(directory: Path) -> Server:
    """Debian's docker-registry with its storage in `directory`/storage. Raises `HostError` (`registry-missing`)."""
    program = shutil.which("docker-registry")
    if program is None:
        raise HostError("registry-missing", "docker-registry is not installed", hint="apt-get install docker-registry")
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(directory / "storage")}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
        "log": {"level": "warn"},
    }
    (directory / "config.yml").write_text(json.dumps(config))
    log = directory / "registry.log"
    with log.open("wb") as output:
        process = subprocess.Popen([program, "serve", str(directory / "config.yml")], stdout=output, stderr=output)
    wait_for_port(port, process, log)
    return Server(process, f"127.0.0.1:{port}", directory)


def start_provisioning(home: Path, fingerprint: str) -> tuple[Server, dict[str, Any]]:
    """`kokon provision serve` in a home of its own, told to accept one simulated root; and its first line of answer."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = home / "provision.log"
    listen = f"127.0.0.1:{free_port()}"
    command = [*kokon_command(), "provision", "serve", "--listen", listen, "--accept-simulated", fingerprint, "--json"]
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment(home))
    line = process.stdout.readline() if process.stdout else b""
    if not line:
        raise HostError("demo-server-failed", "the provisioning server did not start", hint=f"see {log}")
    ready = json.loads(line)
    return Server(process, ready["url"], home), ready


def kokon_command() -> list[str]:
    """How this very installation of Kokon is started."""
    return [sys.executable, "-I", "-m", "kokon"]


def environment(home: Path) -> Mapping[str, str]:
    """The environment for a party whose home is `home`."""
    return {**os.environ, "KOKON_HOME": str(home), "NO_COLOR": "1"}
