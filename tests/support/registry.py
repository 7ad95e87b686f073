"""A real registry for tests: Debian's docker-registry on a random loopback port, its storage in a directory."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Self

PROGRAM = shutil.which("docker-registry") or "/usr/bin/docker-registry"


class LocalRegistry:
    """`with LocalRegistry(directory) as registry:` serves at `registry.host` until the block ends.

    `registry.blob_path(digest)` is where it keeps a blob: tests play the cloud by changing it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        storage = self.directory / "storage"
        storage.mkdir(parents=True, exist_ok=True)
        for _ in range(5):
            self.port = _free_port()
            config = self.directory / "config.yml"
            config.write_text(
                "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
                f"storage: {{filesystem: {{rootdirectory: {storage}}}, delete: {{enabled: true}}}}\n"
                f"http: {{addr: '127.0.0.1:{self.port}'}}\n"
            )
            with (self.directory / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    [PROGRAM, "serve", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            if self._ready():
                return
            self.stop()
        raise RuntimeError((self.directory / "log").read_text()[-2000:])

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def blob_path(self, digest: str) -> Path:
        digits = digest.removeprefix("sha256:")
        return self.directory / "storage/docker/registry/v2/blobs/sha256" / digits[:2] / digits / "data"

    def _ready(self) -> bool:
        for _ in range(200):
            if self._process is None or self._process.poll() is not None:
                return False
            try:
                with urllib.request.urlopen(f"{self.url}/v2/", timeout=2):
                    return True
            except OSError:
                time.sleep(0.05)
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
