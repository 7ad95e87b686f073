"""The same application as an ordinary container: podman, the same image, the same secrets the usual way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kokon.demo.capture import Relay
from kokon.demo.cloud import Holdings, descendants
from kokon.demo.services import Server, free_port, listens, start_registry
from kokon.errors import HostError

# Some machines forbid raising limits, and crun wants pure cgroup v2: the second form asks for less.
VARIANTS: tuple[tuple[str, ...], ...] = (
    (),
    ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"),
)
RUNTIMES: tuple[tuple[str, ...], ...] = ((), ("--runtime", "runc"))


@dataclass(frozen=True, slots=True)
class Plain:
    """The running ordinary container: its URL and what the host holds of it."""

    url: str
    holdings: Holdings


@contextmanager
def running(image: Path, work: Path, token: str, password: str, capture: Path) -> Iterator[Plain]:
    """Push `image` (an OCI layout) to a registry, run it under podman, and stop it afterwards.

    Raises `HostError` (`podman-unusable`) if this machine cannot run podman containers.
    """
    registry = start_registry(work / "registry")
    podman = Podman(work / "podman")
    try:
        port = free_port()
        pid = podman.start(_pushed(image, registry), port, work, token, password)
        if not listens(port):
            raise HostError("podman-unusable", "the application did not open its port under podman")
        processes = descendants([pid, podman.monitor(pid)])
        relay = Relay(port, work / "connection.capture")
        yield Plain(
            f"http://127.0.0.1:{relay.port}",
            Holdings(
                registry=work / "registry" / "storage",
                disks=[work / "podman" / "storage", work / "secrets", work / "data"],
                network=[path for path in (capture, work / "connection.capture") if path.exists()],
                logs=[work / "podman" / "container.log"],
                processes=processes,
                memory=[pid],
            ),
        )
    finally:
        podman.remove()
        registry.stop()


def _pushed(image: Path, registry: Server) -> str:
    reference = f"{registry.url}/clinic:1"
    _run(["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{image}", f"docker://{reference}"])
    return reference


class Podman:
    """podman with storage of its own under `area`."""

    def __init__(self, area: Path) -> None:
        if shutil.which("podman") is None:
            raise HostError("podman-unusable", "podman is not installed", hint="apt-get install podman")
        self._area = area
        area.mkdir(parents=True)
        self._options: tuple[str, ...] = ()

    def start(self, reference: str, port: int, work: Path, token: str, password: str) -> int:
        """Run the image; returns the process id of the application."""
        (work / "secrets").mkdir()
        (work / "secrets" / "db-password").write_text(password)
        (work / "data").mkdir()
        command = (
            "run", "--detach", "--name=plain", "--network=host", "--tls-verify=false", "--log-driver=k8s-file",
            f"--log-opt=path={self._area / 'container.log'}", f"--env=CLINIC_TOKEN={token}",
            f"--volume={work / 'secrets'}:/run/secrets:ro", f"--volume={work / 'data'}:/data",
        )  # fmt: skip
        error = ""
        for runtime in RUNTIMES:
            for variant in VARIANTS:
                self._options = runtime
                done = self._podman(*command, *variant, reference, "python3.11", "/srv/service.py", str(port))
                if done.returncode == 0:
                    return int(json.loads(self._podman("inspect", "plain").stdout)[0]["State"]["Pid"])
                error = done.stderr.decode(errors="replace").strip()[-300:]
                self._podman("rm", "--force", "plain")
        raise HostError("podman-unusable", "podman cannot run a container on this machine", found=error)

    def monitor(self, pid: int) -> int:
        """The process id of conmon, the parent of the application."""
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    def remove(self) -> None:
        """Stop the container and forget it, with its storage, whose files may belong to other users of a namespace."""
        self._podman("rm", "--force", "--time", "1", "plain")
        forget(self._area)

    def _podman(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        area = ["--root", self._area / "storage", "--runroot", self._area / "run", "--tmpdir", self._area / "tmp"]
        managers = ["--cgroup-manager", "cgroupfs", "--events-backend", "file"]
        words = ["podman", *map(str, area), *managers, *self._options, *arguments]
        return subprocess.run(words, capture_output=True, check=False, env={**os.environ, "TMPDIR": "/tmp"})  # noqa: S108


def forget(area: Path) -> None:
    """Delete a directory, also where podman left a mount, or files that belong to other users of its namespace."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if Path(line.split()[1]).is_relative_to(area):
            subprocess.run(["umount", "--lazy", line.split()[1]], capture_output=True, check=False)
    shutil.rmtree(area, ignore_errors=True)
    if area.exists():
        subprocess.run(["podman", "unshare", "rm", "-rf", area], capture_output=True, check=False)


def _run(words: Sequence[str]) -> None:
    done = subprocess.run(words, capture_output=True, check=False)
    if done.returncode:
        raise HostError("podman-unusable", f"{words[0]} failed", found=done.stderr.decode(errors="replace")[-300:])
