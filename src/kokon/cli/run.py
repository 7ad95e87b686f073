"""`kokon run`: launch a container and stay with it, or leave it running."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

from cyclopts import Parameter

from kokon.cli.output import emit, kokon_home, note
from kokon.errors import UsageError
from kokon.host.attend import Stopper, attend
from kokon.host.launch import start
from kokon.host.lifecycle import failure
from kokon.host.request import RunRequest, check_name, parse_publish, parse_size, parse_volume
from kokon.host.state import Container, Directory, Record
from kokon.host.status import Status
from kokon.launch.document import DOCUMENT_LIMIT, parse_document
from kokon.launch.image import current_guest, read_guest_image

SIMULATED = (
    "simulated: no hardware protects this guest; whoever runs this machine can read its memory."
    " Verifiers refuse it unless they accept this root."
)

_STEPS = {
    "agent-ready": "guest booted, agent is ready",
    "attested": "attested: the server accepted the evidence",
    "pulled": "image pulled; signature and digests verified",
    "unsealed": "image decrypted inside the guest",
    "provisioned": "secrets and volumes are in place",
    "started": "application started",
    "serving": "serving",
    "exited": "application ended",
    "failed": "failed",
}


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What this machine lends to a container.

    Parameters
    ----------
    name
        Name of the container on this machine; default: the document's workload.
    publish
        Address and port of this machine for the attested TLS port; port 0 takes any free one.
    memory
        Memory of the guest in MiB.
    cpus
        Number of virtual processors; it is measured.
    volume
        NAME=FILE or NAME=FILE:SIZE, once for each volume of the document; SIZE makes the file.
    scratch
        Size of the disk for the unpacked image; it takes space only as it fills.
    detach
        Return when the application serves, and leave it running.
    guest
        Directory of the guest image; default: where `kokon guest build` puts it.
    capture
        Write all network packets of the guest to this file (pcap).
    accel
        How the guest runs; auto takes KVM if a guest was seen to boot under it.
    """

    name: str | None = None
    publish: str = "127.0.0.1:9443"
    memory: int = 384
    cpus: int = 1
    volume: tuple[str, ...] = ()
    scratch: str = "8G"
    detach: Annotated[bool, Parameter(name=["--detach", "-d"])] = False
    guest: Path | None = None
    capture: Path | None = None
    accel: Literal["auto", "kvm", "tcg"] = "auto"


DEFAULTS = Options()


def run(launch: Path, /, *, options: Options = DEFAULTS, json: bool = False) -> int:
    """Launch a container in an enclave of its own.

    Example: `kokon run launch.toml --volume data=clinic.img:256M`

    Ends with the container's exit status; when the launch fails, with the status of its error (see `kokon --help`).
    Ctrl-C asks the container to stop, a second one ends it.

    Parameters
    ----------
    launch
        Launch document, as `kokon admit` writes it.
    json
        Print JSON.
    """
    home = kokon_home()
    request = build_request(home, read_document(launch), options)
    request = replace(request, image=block_image(home, request.document))
    with _signals(_interrupt):
        record = start(home, request, datetime.now(UTC))
        note(f"{record.name}: virtual machine started ({record.accelerator}), measured {record.measurement[:16]}…")
        note(SIMULATED)
    stopper = Stopper(home, record.name)
    with _signals(lambda number, _frame: stopper.request(number)):
        container = attend(home, record, stopper, _reporter(record.name), until_serving=options.detach)
    return _conclude(home, record, container, stopper, json=json)


def build_request(home: Path, document: bytes, options: Options) -> RunRequest:
    """What `options` ask for, checked as far as it can be without touching the machine."""
    return RunRequest(
        document=document,
        guest=read_guest_image((options.guest or current_guest(home)).absolute()),
        name=check_name(parse_document(document).workload if options.name is None else options.name),
        publish=parse_publish(options.publish),
        memory=options.memory,
        cpus=options.cpus,
        volumes=tuple(parse_volume(text) for text in options.volume),
        scratch=parse_size(options.scratch),
        capture=None if options.capture is None else options.capture.absolute(),
        accelerator=options.accel,
    )


def block_image(home: Path, document: bytes) -> Path | None:
    """The file with the ciphertext of a block image, fetched into the cache at first use; None for other images."""
    from kokon.image.block.cache import cached_block

    return cached_block(parse_document(document).image, home / "blocks")


def read_document(path: Path) -> bytes:
    """The exact bytes of a launch document. Raises `UsageError` (`launch-document-unreadable`)."""
    try:
        with path.open("rb") as file:
            return file.read(DOCUMENT_LIMIT + 1)
    except OSError as error:
        raise UsageError(
            "launch-document-unreadable",
            f"cannot read the launch document {path}",
            found=error.strerror,
            hint="kokon admit writes one",
        ) from error


def _conclude(home: Path, record: Record, container: Container, stopper: Stopper, *, json: bool) -> int:
    if container.alive and not container.ended:
        text = f"{record.name} serves attested TLS on https://{record.publish} (simulated)"
        emit(container.as_dict(), text, json)
        return 0
    if container.exit is None:
        if stopper.signals:
            note(f"{record.name}: stopped before it served")
            return 128 + stopper.signals[0]
        raise failure(Directory(home, record.name), container)
    emit(container.as_dict(), f"{record.name} ended with status {container.exit}", json)
    return container.exit


def _reporter(name: str) -> Callable[[Status], None]:
    def report(status: Status) -> None:
        note(f"{name}: {status.seconds:7.2f} s  {_STEPS.get(status.phase, status.phase)}")

    return report


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """SIGINT and SIGTERM go to `handler` for as long as the context."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
