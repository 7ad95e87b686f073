"""The README's five commands, typed as they stand there, in a home of their own; only the port is another.

The first, `pip install .`, is what made the environment that the tests run in.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def commands() -> list[str]:
    """The lines of the section, without comments."""
    section = (ROOT / "README.md").read_text().partition("\n## Five commands\n")[2].partition("\n## ")[0]
    block = section.partition("```sh\n")[2].partition("```")[0]
    return [line.partition("  #")[0].strip() for line in block.splitlines()]


class Reader:
    """A person who types in a shell, at home in `home`."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        known = {name: value for name, value in os.environ.items() if not name.startswith("KOKON_")}
        self.environment = {**known, "HOME": str(home), "PATH": path, "NO_COLOR": "1"}
        self.server: subprocess.Popen[str] | None = None

    def type(self, line: str) -> str:
        """What the line says on stdout."""
        line = line.replace("8443", str(self.port))
        done = subprocess.run(
            ["bash", "-euc", line],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        return done.stdout

    def start(self, line: str) -> None:
        """The server, until it serves."""
        command = f"exec {line.removesuffix('&')} --listen 127.0.0.1:{self.port}"
        self.server = subprocess.Popen(
            ["bash", "-euc", command], cwd=ROOT, env=self.environment, stderr=subprocess.PIPE, text=True
        )
        assert self.server.stderr is not None
        assert "listening on" in self.server.stderr.readline()

    def leave(self) -> None:
        """End the server."""
        if self.server is not None:
            self.server.send_signal(signal.SIGTERM)
            assert self.server.wait(30) == 0
            assert self.server.stderr is not None
            self.server.stderr.close()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    person = Reader(tmp_path)
    try:
        yield person
    finally:
        person.leave()


def test_five_commands_release_a_secret_to_a_simulated_enclave(reader: Reader) -> None:
    install, serve, *others = commands()
    assert (install, len(others)) == ("pip install .", 3)
    assert serve.endswith("&")
    reader.start(serve)
    *_, said = [reader.type(line) for line in others]
    assert "opens" in said
    assert "1 pass, 0 fail" in said
    entries = json.loads(reader.type("kokon log --json"))["entries"]
    released = [one for one in entries if one["event"] == "resource-released"]
    assert [one["resource"] for one in released] == ["demo/secret/password"]
    granted = [one for one in entries if one["event"] == "attestation-granted"]
    assert all(one["simulated"] for one in granted)
