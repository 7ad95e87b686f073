"""The one container: its files in memory, its start with crun, its end.

Secrets, the OCI bundle and crun's state are on a tmpfs; the root file system is on the scratch disk.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kokon.errors import HostError, MalformedError
from kokon.guest.agent import kernel
from kokon.guest.agent.oci import CGROUP, Bind, ContainerSpec, build_config, choose_args, merge_environment
from kokon.guest.agent.reap import exit_status
from kokon.guest.agent.users import FILE_LIMIT, User, resolve_user

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kokon.guest.agent.reap import Children
    from kokon.image.manifest import ImageConfig
    from kokon.launch.document import LaunchDocument

WORK = Path("/run/kokon")
NAME = "application"
RESERVE = 48 << 20
"""Bytes of memory that the container never gets: the agent's, the kernel's and crun's."""
LEAST_MEMORY = 16 << 20
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_KILLED = 137
_SIGKILL = 9
# HUP, INT, QUIT, USR1, USR2, TERM: their default action ends a process.
_ENDING_SIGNALS = frozenset({1, 2, 3, 10, 12, 15})


@dataclass(frozen=True, slots=True)
class Ending:
    """How the application ended: exit status as shells show it, and whether the kernel ran out of memory for it."""

    status: int
    signal: int | None
    out_of_memory: bool


def read_in_root(root: Path, path: str, limit: int = FILE_LIMIT) -> bytes:
    """The first `limit` bytes of a regular file of the image; empty if there is none. Links stay inside `root`."""
    base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = kernel.open_beneath(base, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return b""
    finally:
        os.close(base)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit)


def make_directory(root: Path, path: str) -> None:
    """Make `path` and what leads to it a directory of the image. Raises `MalformedError` (`directory-unusable`)."""
    base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    current = os.dup(base)
    try:
        walked = ""
        for part in [p for p in path.split("/") if p]:
            walked += f"/{part}"
            following = _enter(base, current, walked, part)
            os.close(current)
            current = following
    except OSError as error:
        raise MalformedError(
            "directory-unusable", "the image's working directory is none", found=error.strerror
        ) from error
    finally:
        os.close(base)
        os.close(current)


def _enter(base: int, parent: int, path: str, name: str) -> int:
    flags = os.O_PATH | os.O_DIRECTORY
    try:
        return kernel.open_beneath(base, path, flags)
    except FileNotFoundError:
        os.mkdir(name, 0o755, dir_fd=parent)
        return kernel.open_beneath(base, path, flags)


def own_like(root: Path, path: str, target: Path, user: User) -> None:
    """Give a new volume the owner and mode of the image's directory at `path`, or else `user` and 0755."""
    base = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = kernel.open_beneath(base, path, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        uid, gid, mode = user.uid, user.gid, 0o755
    else:
        found = os.fstat(descriptor)
        uid, gid, mode = found.st_uid, found.st_gid, found.st_mode & 0o7777
        os.close(descriptor)
    finally:
        os.close(base)
    os.chown(target, uid, gid)
    target.chmod(mode)


def memory_limit(meminfo: str) -> int:
    """Bytes for the container: what /proc/meminfo calls available, less the reserve.

    Raises `HostError` (`guest-memory-small`).
    """
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            limit = int(rest.split()[0]) * 1024 - RESERVE
            if limit >= LEAST_MEMORY:
                return limit
    raise HostError("guest-memory-small", "the guest has too little memory", hint="give `kokon run` more --memory")


def leaves_to_default(status: str, number: int) -> bool:
    """Whether a process, by its /proc/PID/status, neither catches nor ignores a signal."""
    for line in status.splitlines():
        name, _, mask = line.partition(":")
        if name in ("SigIgn", "SigCgt") and int(mask, 16) >> (number - 1) & 1:
            return False
    return True


def oom_kills(events: str) -> int:
    """The `oom_kill` counter of a memory.events file (cgroup v2)."""
    for line in events.splitlines():
        name, _, number = line.partition(" ")
        if name == "oom_kill" and number.isdigit():
            return int(number)
    return 0


def container_user(config: ImageConfig, rootfs: Path) -> User:
    """The user that the image asks for. Raises `MalformedError` (`user-unknown`)."""
    if config.user in ("", "0"):
        return resolve_user("0", read_in_root(rootfs, "etc/passwd"), b"")
    return resolve_user(config.user, read_in_root(rootfs, "etc/passwd"), read_in_root(rootfs, "etc/group"))


def write_secrets(document: LaunchDocument, secrets: Mapping[str, bytes], user: User, work: Path) -> list[Bind]:
    """Put file secrets into memory, mode 0400, owned by the container's user; where they belong in the container."""
    directory = work / "secrets"
    directory.mkdir(mode=0o711)
    binds = []
    for secret in document.secrets:
        if secret.file is not None:
            _write(directory / secret.name, secrets[secret.name], 0o400, user)
            binds.append(Bind(str(directory / secret.name), secret.file))
    return binds


def write_names(hostname: str, work: Path) -> list[Bind]:
    """/etc/hosts, /etc/hostname and an empty /etc/resolv.conf: there is no network beyond loopback."""
    directory = work / "etc"
    directory.mkdir(mode=0o755)
    hosts = f"127.0.0.1 localhost {hostname}\n::1 localhost\n"
    contents = {"hosts": hosts, "hostname": f"{hostname}\n", "resolv.conf": ""}
    for name, text in contents.items():
        _write(directory / name, text.encode(), 0o644, User())
    return [Bind(str(directory / name), f"/etc/{name}") for name in contents]


def _write(path: Path, data: bytes, mode: int, user: User) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchown(descriptor, user.uid, user.gid)
        os.fchmod(descriptor, mode)
        file.write(data)


def plan(
    document: LaunchDocument,
    config: ImageConfig,
    user: User,
    secrets: Mapping[str, bytes],
    binds: Sequence[Bind],
    *,
    rootfs: Path,
    network: str,
    memory: int,
) -> ContainerSpec:
    """What the container is to be. Raises `MalformedError`."""
    variables = {s.env: secrets[s.name] for s in document.secrets if s.env is not None}
    return ContainerSpec(
        args=choose_args(config.entrypoint, config.command, document.args),
        user=user,
        directory=config.working_directory if config.working_directory.startswith("/") else "/",
        rootfs=str(rootfs),
        hostname=document.workload,
        network=network,
        environment=merge_environment(config.environment, document.env, variables, user),
        binds=tuple(binds),
        memory=memory,
    )


class Container:
    """The running container. Made by `start`."""

    def __init__(self, children: Children, pid: int) -> None:
        self._children = children
        self._pid = pid
        self._killed_for: int | None = None

    @classmethod
    def start(cls, children: Children, spec: ContainerSpec, stdout: int, stderr: int, work: Path = WORK) -> Container:
        """Start it with crun; the descriptors become its output. Raises `HostError` (`container-start-failed`)."""
        bundle, log, pid_file = work / "bundle", work / "crun.log", work / "application.pid"
        bundle.mkdir(mode=0o700)
        _write(bundle / "config.json", json.dumps(build_config(spec)).encode(), 0o600, User())
        arguments = ["crun", "--root", str(work / "crun"), "--cgroup-manager", "cgroupfs", "--log", f"file:{log}"]
        arguments += ["run", "--detach", "--bundle", str(bundle), "--pid-file", str(pid_file), NAME]
        status = children.wait(children.spawn(arguments, stdout=stdout, stderr=stderr))
        (bundle / "config.json").unlink()
        if status != 0:
            raise HostError("container-start-failed", "the container cannot be started", found=_last_line(log))
        pid = int(pid_file.read_text())
        children.adopt(pid)
        return cls(children, pid)

    def signal(self, number: int) -> None:
        """Send a signal to the application's first process; nothing happens if it is gone.

        The kernel protects the first process of a PID namespace from signals that it does not handle; where such a
        signal would have ended any other process, this one is killed, and its ending tells the signal asked for.
        """
        try:
            if number in _ENDING_SIGNALS and leaves_to_default(self._proc_status(), number):
                self._killed_for = number
                number = _SIGKILL
            os.kill(self._pid, number)
        except (ProcessLookupError, FileNotFoundError):
            return

    def _proc_status(self) -> str:
        return Path(f"/proc/{self._pid}/status").read_text()

    def wait(self) -> Ending:
        """Wait for the application's first process to end."""
        status = self._children.wait(self._pid) or 0
        code = exit_status(status)
        ended = -os.waitstatus_to_exitcode(status)
        if ended == _SIGKILL and self._killed_for is not None:
            return Ending(128 + self._killed_for, self._killed_for, out_of_memory=False)
        return Ending(code, ended if ended > 0 else None, code == _KILLED and self._oom())

    @staticmethod
    def _oom(root: Path = _CGROUP_ROOT) -> bool:
        path = root / CGROUP.lstrip("/") / "memory.events"
        try:
            return oom_kills(path.read_text()) > 0
        except OSError:
            return False


def _last_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            lines = file.read(64 << 10).decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return "no message"
    return lines[-1][:300] if lines else "no message"
