"""State of containers on this machine: a directory each, no daemon, right after any crash.

`HOME/containers/NAME/` (0700) holds `state.json` (what was launched), the disks, sockets and logs, `status.jsonl` (what
the guest says) and `exit.json` (written by the security processor when QEMU ends). What a container is doing is never
stored: it is derived from those files and from whether QEMU's process still runs. A lock file beside the directory
serialises commands that change a container; the kernel frees it when its holder dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kokon.errors import HostError, KokonError, UsageError
from kokon.host.control import listener_pid
from kokon.host.processes import Process, boot_id, find_process, is_running
from kokon.host.request import check_name
from kokon.host.status import Status, last_status
from kokon.wire import Fields, parse_json

RECORD_LIMIT = 64 << 10
STOPPED = "stopped"
"""Name of the empty file that says that somebody asked the container to stop."""

BUSY_TIMEOUT = 30.0
"""Seconds that a command waits for another one that works on the same container."""


@dataclass(frozen=True, slots=True)
class Record:
    """What `state.json` holds: what was launched, when (RFC 3339), in which boot, and the processes that came of it."""

    name: str
    created: str
    boot: str
    workload: str
    document: str
    guest: str
    publish: str
    accelerator: str
    memory: int
    cpus: int
    volumes: Mapping[str, str] = field(default_factory=dict)
    measurement: str = ""
    root: str = ""
    machine: Process | None = None
    processor: Process | None = None


@dataclass(frozen=True, slots=True)
class Container:
    """What one container is doing. `state` is starting, running, exited or failed; `code` is why it failed."""

    name: str
    state: str
    record: Record | None
    status: Status | None = None
    exit: int | None = None
    code: str | None = None
    message: str | None = None
    machine: Process | None = None

    @property
    def alive(self) -> bool:
        """Whether its virtual machine runs."""
        return self.machine is not None

    @property
    def ended(self) -> bool:
        """Whether its application will not come back, whatever its virtual machine still does."""
        return self.state in ("exited", "failed")

    def as_dict(self) -> dict[str, Any]:
        """The container as plain JSON values."""
        record = self.record
        members: dict[str, Any] = {
            "name": self.name,
            "state": self.state,
            "phase": self.status.phase if self.status else None,
            "exit": self.exit,
            "code": self.code,
            "message": self.message,
            "pid": self.machine.pid if self.machine else None,
            "processor": find_processor(self.record) is not None,
        }
        if record is not None:
            members |= {
                "workload": record.workload,
                "created": record.created,
                "publish": record.publish,
                "url": f"https://{record.publish}",
                "accelerator": record.accelerator,
                "memory": record.memory,
                "cpus": record.cpus,
                "volumes": dict(record.volumes),
                "document": record.document,
                "guest": record.guest,
                "measurement": record.measurement,
                "root": record.root,
                "simulated": True,
            }
        return members


class Directory:
    """Paths of one container below the Kokon home."""

    def __init__(self, home: Path, name: str) -> None:
        self.name = check_name(name)
        self.path = home / "containers" / name
        self.lock = home / "containers" / f".{name}.lock"

    def __truediv__(self, file: str) -> Path:
        return self.path / file

    @property
    def status(self) -> Path:
        """Where the guest's status lines arrive."""
        return self / "status.jsonl"


@contextlib.contextmanager
def locked(directory: Directory, timeout: float = BUSY_TIMEOUT) -> Iterator[None]:
    """Be the only command that changes this container. Raises `HostError` (`container-busy`, `home-unusable`)."""
    deadline = time.monotonic() + timeout
    while (handle := _take_lock(directory)) is None:
        if time.monotonic() >= deadline:
            raise HostError(
                "container-busy",
                f"another command is working on container {directory.name!r}",
                hint="wait for it to end and try again",
            )
        time.sleep(0.05)
    try:
        yield
    finally:
        os.close(handle)


def _take_lock(directory: Directory) -> int | None:
    try:
        directory.lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(directory.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError(
            "home-unusable",
            f"cannot write below {directory.lock.parent}",
            found=error.strerror,
            hint="point KOKON_HOME to a directory of your own",
        ) from error
    # `kokon rm` deletes the lock file: a lock on a deleted one protects nothing.
    if _try_lock(handle) and os.fstat(handle).st_nlink == 1:
        return handle
    os.close(handle)
    return None


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def create_directory(directory: Directory) -> None:
    """Make the container's directory. Raises `UsageError` (`container-exists`)."""
    try:
        directory.path.mkdir(mode=0o700)
    except FileExistsError as error:
        raise UsageError(
            "container-exists",
            f"there is a container {directory.name!r} already",
            hint=f"remove it with: kokon rm {directory.name}, or choose another --name",
        ) from error


def write_record(directory: Directory, record: Record) -> None:
    """Write `state.json`, whole or not at all."""
    members: dict[str, Any] = {"version": 1}
    for name in Record.__slots__:
        value = getattr(record, name)
        members[name] = [value.pid, value.started] if isinstance(value, Process) else value
    members["volumes"] = dict(record.volumes)
    write_whole(directory / "state.json", json.dumps(members, indent=1).encode() + b"\n")


def write_whole(path: Path, data: bytes) -> None:
    """Replace the file `path` (0600): readers see the old content or the new."""
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    new.replace(path)


def parse_record(data: bytes) -> Record:
    """`state.json` as a value. Raises `MalformedError` (`json-...`, `field-...`)."""
    fields = Fields(parse_json(data, limit=RECORD_LIMIT, what="state.json"), "state.json")
    fields.integer("version", low=1, high=1)
    record = Record(
        **{
            name: fields.text(name)
            for name in ("name", "created", "boot", "workload", "document", "guest", "publish", "accelerator")
        },
        memory=fields.integer("memory"),
        cpus=fields.integer("cpus"),
        volumes={str(k): str(v) for k, v in fields.table("volumes").items()},
        measurement=fields.text("measurement"),
        root=fields.text("root"),
        machine=_process(fields.value("machine")),
        processor=_process(fields.value("processor")),
    )
    fields.finish()
    return record


def _process(value: Any) -> Process | None:
    match value:
        case [int() as pid, int() as started]:
            return Process(pid, started)
    return None


def read_record(directory: Directory) -> Record | None:
    """The record of a container; None if there is none that can be read."""
    data = _bounded(directory / "state.json")
    try:
        return None if data is None else parse_record(data)
    except KokonError:
        return None


def _bounded(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(RECORD_LIMIT + 1)
    except OSError:
        return None


def find_machine(directory: Directory, record: Record | None) -> Process | None:
    """The running QEMU of a container, known from the record or, if the launch was cut short, by its monitor socket."""
    if record is not None and record.machine is not None:
        alive = record.boot == boot_id() and is_running(record.machine)
        return record.machine if alive else None
    pid = listener_pid(directory / "qmp.sock")
    return None if pid is None else find_process(pid)


def find_processor(record: Record | None) -> Process | None:
    """The security processor of a container if it still runs."""
    alive = record is not None and record.boot == boot_id() and is_running(record.processor)
    return record.processor if record is not None and alive else None


def inspect_container(directory: Directory) -> Container:
    """What one container is doing now. Raises `UsageError` (`container-unknown`)."""
    if not directory.path.is_dir():
        raise UsageError(
            "container-unknown",
            f"there is no container {directory.name!r}",
            hint="see all of them with: kokon ps --all",
        )
    record = read_record(directory)
    machine = find_machine(directory, record)
    # The status is read after the process was seen, so that a last line written in between is not missed.
    status = last_status(directory.status)
    if status is not None and status.final:
        return _ended(directory, record, status, machine)
    if machine is not None:
        state = "running" if status is not None and status.phase == "serving" else "starting"
        return Container(directory.name, state, record, status, machine=machine)
    if record is not None and record.machine is None and _is_locked(directory):
        return Container(directory.name, "starting", record, status)
    if (directory / STOPPED).exists():
        message = "did not end in time after a stop request and was ended by force"
        return Container(directory.name, "exited", record, status, exit=137, code="stopped-by-force", message=message)
    return Container(
        directory.name,
        "failed",
        record,
        status,
        code="guest-vanished" if record is not None and record.machine is not None else "launch-interrupted",
        message=_why_vanished(directory),
    )


def _ended(directory: Directory, record: Record | None, status: Status, machine: Process | None) -> Container:
    if status.phase == "exited" and status.exit is not None:
        return Container(
            directory.name, "exited", record, status, exit=status.exit, code=status.code, message=status.message,
            machine=machine,
        )  # fmt: skip
    code = status.code or "guest-failed"
    return Container(directory.name, "failed", record, status, code=code, message=status.message, machine=machine)


def _why_vanished(directory: Directory) -> str:
    data = _bounded(directory / "exit.json")
    try:
        ending = parse_json(data or b"", limit=RECORD_LIMIT, what="exit.json")
    except KokonError:
        return "the virtual machine ended and nobody saw how"
    if isinstance(ending, dict) and isinstance(ending.get("signal"), int):
        return f"the virtual machine was ended by signal {ending['signal']}"
    status = ending.get("status") if isinstance(ending, dict) else None
    return f"the virtual machine ended with status {status if isinstance(status, int) else 'unknown'}"


def _is_locked(directory: Directory) -> bool:
    try:
        handle = os.open(directory.lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _try_lock(handle)
    finally:
        os.close(handle)


def list_containers(home: Path) -> list[Container]:
    """All containers of this machine by name, ended ones too."""
    try:
        names = sorted(entry.name for entry in (home / "containers").iterdir() if entry.is_dir())
    except OSError:
        return []
    containers = []
    for name in names:
        with contextlib.suppress(UsageError):
            containers.append(inspect_container(Directory(home, name)))
    return containers


def delete_directory(directory: Directory) -> None:
    """Delete all that is kept about a container; the volumes' files are elsewhere and stay. The lock must be held.

    Raises `HostError` (`container-not-removed`).
    """
    try:
        # Renamed first: a crash in between leaves no half container under its name.
        grave = directory.path.with_name(f".{directory.name}.removed")
        shutil.rmtree(grave, ignore_errors=True)
        directory.path.rename(grave)
        shutil.rmtree(grave)
        directory.lock.unlink(missing_ok=True)
    except OSError as error:
        raise HostError("container-not-removed", f"cannot remove {directory.path}", found=error.strerror) from error
