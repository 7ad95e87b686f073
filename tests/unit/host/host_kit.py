"""Makings of host tests: a document, a guest image of dummy files, and a stand-in for the security processor."""

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kokon.host.request import Publish, RunRequest
from kokon.host.state import Directory
from kokon.launch.document import ImageRef, LaunchDocument, Provisioning, SecretUse, VolumeUse, build_document
from kokon.launch.image import GuestImage, write_description

FAKE_PROCESSOR = Path(__file__).with_name("fake_processor.py")
PEM = "-----BEGIN {0}-----\nAAAA\n-----END {0}-----\n"


def make_document(*volumes: str) -> bytes:
    document = LaunchDocument(
        workload="clinic",
        image=ImageRef("http://127.0.0.1:5000", "clinic", f"sha256:{'a' * 64}", PEM.format("PUBLIC KEY")),
        provisioning=Provisioning("https://127.0.0.1:8443", PEM.format("CERTIFICATE")),
        port=8080,
        log_key="kbs:///clinic/log/token",
        secrets=(SecretUse("db", "kbs:///clinic/secret/db", file="/run/secrets/db"),),
        volumes=tuple(VolumeUse(name, f"/{name}", f"kbs:///clinic/volume/{name}") for name in volumes),
    )
    return build_document(document)


def make_guest(directory: Path) -> GuestImage:
    directory.mkdir(parents=True, exist_ok=True)
    names = {"kernel": "vmlinuz", "initrd": "initrd", "root": "root.img", "firmware": "bios.bin"}
    for name in names.values():
        (directory / name).write_bytes(name.encode().ljust(4096, b"."))
    return write_description(directory, "6.12.0-test", "console=ttyS0 verity.root=00", names)


def make_launchable(guest: GuestImage) -> GuestImage:
    """`guest` with files that QEMU takes: a kernel's header (Documentation/arch/x86/boot.rst), firmware that halts."""
    kernel = bytearray(8192)
    kernel[0x1F1] = 4
    kernel[0x202:0x208] = b"HdrS" + (0x20F).to_bytes(2, "little")
    kernel[0x22C:0x230] = (0x7FFFFFFF).to_bytes(4, "little")
    guest.kernel.write_bytes(kernel)
    guest.firmware.write_bytes(b"\xf4" * 65536)
    names = {"kernel": "vmlinuz", "initrd": "initrd", "root": "root.img", "firmware": "bios.bin"}
    return write_description(guest.directory, "6.12.0-test", guest.cmdline, names)


def processor(mode: str, *arguments: str) -> tuple[str, ...]:
    """Command of a stand-in processor; modes are described in fake_processor.py."""
    return (sys.executable, "-I", str(FAKE_PROCESSOR), mode, *arguments)


def make_request(home: Path, mode: str = "qemu", *arguments: str, **changes: object) -> RunRequest:
    request = RunRequest(
        document=make_document(),
        guest=make_guest(home / "guest"),
        name="clinic",
        publish=Publish(port=0),
        memory=128,
        accelerator="tcg",
        processor=processor(mode, *arguments),
    )
    return dataclasses.replace(request, **changes)  # type: ignore[arg-type]


def say(directory: Directory, **line: object) -> None:
    """Let the guest say something. QEMU opened the file already and is paused."""
    with directory.status.open("ab") as file:
        file.write(json.dumps({"t": 1.5} | line).encode() + b"\n")


def eventually(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def no_leftovers(home: Path) -> bool:
    """Whether no process mentions this home on its command line any more."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(home / "containers").encode() in (entry / "cmdline").read_bytes():
                    return False
            except OSError:
                continue
    return True
