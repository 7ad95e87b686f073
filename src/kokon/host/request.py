"""What a launch is asked for, as values: name, published address, volumes, sizes, and what an attack changes."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kokon.errors import UsageError
from kokon.launch.image import GuestImage

CPU = "max,-cx16"
"""CPU model of every guest. It is measured, so it is the same under KVM and TCG; without cx16 because QEMU 7.2's
emulation of cmpxchg16b crashes kernel 6.12."""

SERIAL_LIMIT = 20
"""Bytes of a virtio block device's serial number (VIRTIO 1.2, 5.2.6: VIRTIO_BLK_ID_BYTES)."""

VOLUME_MINIMUM = 32 << 20
"""Smallest volume in bytes: LUKS2 takes 16 MiB for its header, integrity tags and a file system need the rest."""

VOLUME_MAXIMUM = 16 << 40

_NAME = re.compile(r"[a-z0-9-]{1,40}")
_SIZE = re.compile(r"([1-9][0-9]{0,12})([KMGT]?)")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

Accelerator = Literal["auto", "kvm", "tcg"]


@dataclass(frozen=True, slots=True)
class Publish:
    """Address of this machine (IPv4) and TCP port where the guest's attested TLS is reachable; port 0: any free one."""

    address: str = "127.0.0.1"
    port: int = 9443

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Volume:
    """A file or block device of this machine behind a volume; `size` in bytes makes the file if it is not there."""

    name: str
    file: Path
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Overrides:
    """What a hostile host changes. Used by the demo and the tests to attack; evidence must give each one away.

    `document` is put on the disk instead of the real one; `host_data` (32 bytes) is given to the processor instead of
    the digest of what is on the disk; `policy` is the SNP guest policy; `keys` is another processor's key directory.
    """

    kernel: Path | None = None
    cmdline: str | None = None
    policy: int | None = None
    keys: Path | None = None
    document: bytes | None = None
    host_data: bytes | None = None


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One launch: the document's exact bytes, the guest image, and what this machine lends to it.

    `memory` in MiB, `scratch` (disk for the unpacked image, encrypted by the guest) in bytes. `processor` is the
    command that starts a simulated security processor; None for the one that comes with Kokon. `image` is the file with
    a block image's ciphertext, which the guest reads and nobody writes; None for other images, which the guest pulls.
    """

    document: bytes
    guest: GuestImage
    name: str
    publish: Publish = field(default_factory=Publish)
    memory: int = 384
    cpus: int = 1
    volumes: tuple[Volume, ...] = ()
    scratch: int = 8 << 30
    capture: Path | None = None
    accelerator: Accelerator = "auto"
    overrides: Overrides = field(default_factory=Overrides)
    processor: tuple[str, ...] | None = None
    image: Path | None = None


def check_name(name: str) -> str:
    """`name` if it can name a container. Raises `UsageError` (`container-name-malformed`)."""
    if not _NAME.fullmatch(name) or name.startswith("-"):
        raise UsageError(
            "container-name-malformed",
            "a container's name is 1 to 40 of a-z, 0-9 and -, and does not start with -",
            found=repr(name),
            hint="choose another name with --name",
        )
    return name


def parse_publish(text: str) -> Publish:
    """`PORT`, `ADDRESS:PORT` with an IPv4 address. Raises `UsageError` (`publish-malformed`)."""
    address, colon, port = text.rpartition(":")
    try:
        value = Publish(str(ipaddress.IPv4Address(address)) if colon else "127.0.0.1", int(port))
    except ValueError:
        value = Publish(port=-1)
    if not (port.isascii() and port.isdigit() and 0 <= value.port <= 65535):
        raise UsageError(
            "publish-malformed",
            "the address to publish is malformed",
            expected="PORT or IPV4:PORT",
            found=repr(text),
            hint="for example --publish 127.0.0.1:9443",
        )
    return value


def parse_size(text: str) -> int:
    """Bytes of `512M`, `2G` and the like (powers of 1024). Raises `UsageError` (`size-malformed`)."""
    match = _SIZE.fullmatch(text.upper()) if text.isascii() else None
    if match is None:
        raise UsageError("size-malformed", "the size is malformed", expected="such as 512M or 2G", found=repr(text))
    return int(match[1]) * _UNITS[match[2]]


def parse_volume(text: str) -> Volume:
    """`NAME=FILE` or `NAME=FILE:SIZE`. Raises `UsageError` (`volume-malformed`, `size-malformed`)."""
    name, equals, rest = text.partition("=")
    file, colon, size = rest.rpartition(":")
    if not colon or "/" in size:
        file, size = rest, ""
    serial_fits = len(f"vol-{name}") <= SERIAL_LIMIT
    if not (equals and file and _NAME.fullmatch(name) and serial_fits and "\0" not in file):
        raise UsageError(
            "volume-malformed",
            "the volume is malformed",
            expected=f"NAME=FILE[:SIZE], a name of at most {SERIAL_LIMIT - 4} characters a-z, 0-9 and -",
            found=repr(text),
            hint="for example --volume data=clinic.img:256M",
        )
    return Volume(name, Path(file).absolute(), parse_size(size) if colon and size else None)
