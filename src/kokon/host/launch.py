"""Launch of one container: every check first, then the files, then the processor that starts QEMU; or nothing."""

from __future__ import annotations

import errno
import os
import socket
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from kokon.errors import HostError, UsageError
from kokon.host.control import is_complete
from kokon.host.disks import check_space, check_volumes, create_sparse, create_volumes
from kokon.host.kvm import probe_kvm, require_qemu
from kokon.host.processes import boot_id, kill, wait_gone
from kokon.host.processor import DEFAULT_POLICY, Order, Started, default_command, start_processor, tail
from kokon.host.qemu import Channels, Disk, Machine, build_argv
from kokon.host.request import Accelerator, Publish, RunRequest, Volume
from kokon.host.state import (
    Directory,
    Record,
    create_directory,
    delete_directory,
    find_machine,
    find_processor,
    list_containers,
    locked,
    read_record,
    write_record,
    write_whole,
)
from kokon.launch.document import LaunchDocument, document_digest, parse_document, write_disk

MEMORY_RANGE = (128, 1 << 20)
CPU_RANGE = (1, 64)
MEMINFO = Path("/proc/meminfo")
READY_TIMEOUT = 20.0
"""Seconds that QEMU may take until its monitor answers."""


def start(home: Path, request: RunRequest, now: datetime) -> Record:
    """Start the container of `request` below `home` and return as soon as its virtual machine runs.

    What the guest does then is in its status file (`kokon.host.lifecycle`). If anything fails, nothing of it stays.
    Raises `KokonError`: `UsageError` for the request, `HostError` for what the machine lacks.
    """
    document = parse_document(request.document)
    directory = Directory(home, request.name)
    require_qemu()
    _check_machine(request)
    volumes = check_volumes(document.volumes, request.volumes)
    accelerator = choose_accelerator(home, request)
    with locked(directory):
        check_space(directory.lock.parent)
        _check_unused(home, volumes)
        publish = claim_port(request.publish)
        create_directory(directory)
        record = None
        try:
            ready = replace(request, publish=publish, volumes=volumes, accelerator=accelerator)
            record = _start(home, directory, ready, document, now)
        finally:
            if record is None:
                _undo(directory)
    return record


def _start(home: Path, directory: Directory, request: RunRequest, document: LaunchDocument, now: datetime) -> Record:
    delivered = request.overrides.document or request.document
    argv = build_argv(plan_machine(directory, request))
    _write_files(directory, request, delivered)
    record = Record(
        name=request.name,
        created=now.isoformat(timespec="seconds"),
        boot=boot_id(),
        workload=document.workload,
        document=document_digest(delivered).hex(),
        guest=request.guest.digest,
        publish=str(request.publish),
        accelerator=request.accelerator,
        memory=request.memory,
        cpus=request.cpus,
        volumes={volume.name: str(volume.file) for volume in request.volumes},
    )
    write_record(directory, record)
    policy = request.overrides.policy
    order = Order(
        argv=argv,
        host_data=request.overrides.host_data or document_digest(delivered),
        policy=DEFAULT_POLICY if policy is None else policy,
        socket=directory / "psp.sock",
        exit=directory / "exit.json",
        log=directory / "qemu.log",
    )
    command = request.processor or default_command(request.overrides.keys or home / "processor")
    try:
        started = start_processor(command, order, directory / "processor.log")
    except HostError as error:
        raise _start_error(request, directory, error) from error
    record = replace(
        record,
        machine=started.machine,
        processor=started.processor,
        measurement=started.measurement,
        root=started.root,
    )
    write_record(directory, record)
    _wait_ready(directory, started, request)
    return record


def plan_machine(directory: Directory, request: RunRequest) -> Machine:
    """The virtual machine of `request`; files that an attack replaces are taken from its overrides."""
    guest, overrides = request.guest, request.overrides
    disks = (
        Disk("root", guest.root, readonly=True),
        Disk("initdata", directory / "initdata.img", readonly=True),
        Disk("scratch", directory / "scratch.img"),
        *(() if request.image is None else (Disk("image", request.image, readonly=True),)),
        *(Disk(f"vol-{volume.name}", volume.file, precious=True) for volume in request.volumes),
    )
    channels = Channels(
        console=directory / "console.log",
        status=directory.status,
        processor=directory / "psp.sock",
        control=directory / "control.sock",
        monitor=directory / "qmp.sock",
    )
    return Machine(
        name=request.name,
        firmware=guest.firmware,
        kernel=overrides.kernel or guest.kernel,
        initrd=guest.initrd,
        cmdline=guest.cmdline if overrides.cmdline is None else overrides.cmdline,
        accelerator=request.accelerator,
        memory=request.memory,
        cpus=request.cpus,
        disks=disks,
        channels=channels,
        publish=request.publish,
        capture=request.capture,
    )


def choose_accelerator(home: Path, request: RunRequest) -> Accelerator:
    """`kvm` or `tcg`: what was asked for, else KVM if a guest was seen to boot under it."""
    if request.accelerator != "auto":
        return request.accelerator
    return "kvm" if probe_kvm(home, request.guest).usable else "tcg"


def _write_files(directory: Directory, request: RunRequest, delivered: bytes) -> None:
    write_whole(directory / "launch.toml", delivered)
    write_whole(directory / "initdata.img", write_disk(delivered))
    create_sparse(directory / "scratch.img", request.scratch)
    create_volumes(request.volumes)


def _check_machine(request: RunRequest) -> None:
    memory_fits = MEMORY_RANGE[0] <= request.memory <= MEMORY_RANGE[1]
    if not (memory_fits and CPU_RANGE[0] <= request.cpus <= CPU_RANGE[1]):
        raise UsageError(
            "machine-size",
            "memory or number of processors is out of range",
            expected=f"{MEMORY_RANGE[0]}..{MEMORY_RANGE[1]} MiB, {CPU_RANGE[0]}..{CPU_RANGE[1]} processors",
            found=f"{request.memory} MiB, {request.cpus} processors",
        )
    available = available_memory(MEMINFO)
    if available is not None and available < request.memory:
        raise HostError(
            "memory-short",
            "this machine has too little free memory for the guest",
            expected=f">= {request.memory} MiB",
            found=f"{available} MiB",
            hint="stop something or give the guest less with --memory",
        )


def available_memory(meminfo: Path) -> int | None:
    """MiB that can be had without swapping (proc(5), MemAvailable); None if unknown."""
    try:
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) >> 10
    except (OSError, ValueError, IndexError):
        return None
    return None


def claim_port(publish: Publish) -> Publish:
    """`publish` with a port that is free now (port 0: the kernel's choice).

    Raises `HostError` (`port-taken`, `address-unusable`).
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((publish.address, publish.port))
            probe.listen(1)
        except PermissionError as error:
            raise HostError("address-unusable", f"may not listen on {publish}", found=error.strerror) from error
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _port_taken(publish) from error
            raise HostError("address-unusable", f"cannot listen on {publish}", found=error.strerror) from error
        return replace(publish, port=probe.getsockname()[1])


def _port_taken(publish: Publish) -> HostError:
    return HostError(
        "port-taken",
        f"something listens on {publish} already",
        hint=f"choose another with --publish {publish.address}:PORT, or port 0 for any free one",
    )


def _check_unused(home: Path, volumes: tuple[Volume, ...]) -> None:
    wanted = {volume.file.resolve() for volume in volumes}
    if len(wanted) != len(volumes):
        raise UsageError("volume-in-use", "two volumes share a file")
    for container in list_containers(home):
        if container.record is None or not (container.alive or container.state == "starting"):
            continue
        for file in container.record.volumes.values():
            if Path(file).resolve() in wanted:
                raise HostError(
                    "volume-in-use",
                    f"{file} is in use by container {container.name!r}",
                    hint=f"stop it first: kokon stop {container.name}",
                )


def _wait_ready(directory: Directory, started: Started, request: RunRequest) -> None:
    """Until QEMU's monitor takes orders, which it does after it has opened everything that it was given."""
    deadline = time.monotonic() + READY_TIMEOUT
    while started.machine is not None and time.monotonic() < deadline:
        if is_complete(directory / "qmp.sock", started.machine.pid):
            return
        if wait_gone(started.machine, 0.02):
            break
    reason = tail(directory / "qemu.log")
    failed = HostError("qemu-failed", "QEMU did not start", found=reason or "no message", hint="see: kokon doctor")
    raise _start_error(request, directory, failed)


def _start_error(request: RunRequest, directory: Directory, error: HostError) -> HostError:
    """`error`, or that the port was taken between our look and QEMU's start: QEMU then says so and ends."""
    return _port_taken(request.publish) if "host forwarding rule" in tail(directory / "qemu.log") else error


def _undo(directory: Directory) -> None:
    """Nothing of a failed launch stays: neither QEMU nor files. The lock is held."""
    record = read_record(directory)
    for process in (find_machine(directory, record), find_processor(record)):
        if process is not None and process.pid != os.getpid() and kill(process):
            wait_gone(process, 5.0)
    delete_directory(directory)
