"""Volumes: host files that outlive the container, encrypted and authenticated block by block under the owner's key.

LUKS2 with AES-256-XTS and HMAC-SHA-256 per 4 KiB block (dm-crypt over dm-integrity): a changed block is a read error.
A LUKS2 header authenticates nothing of itself, so a host could rewrite it to name a weaker cipher. Hence the agent
keeps an HMAC of the whole header beside it, under a key derived from the volume's and from whose volume it is (workload
and name), checks it on a copy in its own memory, and opens the volume with that copy.

Layout of the host file: 1 MiB of header area (LUKS2 metadata and key slots; in its last 4 KiB `kokonvol` and the HMAC),
then the data. The first 4 KiB are written last, so that a guest killed while it formats leaves a blank volume.

What this cannot notice: the whole file replaced by an older state of itself, or by zeros, which is the same as a new
volume. Against that only a counter outside of the host helps.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kokon.errors import HostError, MalformedError, UntrustedError
from kokon.guest.agent import kernel
from kokon.guest.agent.disks import read_head
from kokon.guest.agent.scratch import blank_start, mkfs_arguments

if TYPE_CHECKING:
    from kokon.guest.agent.reap import Children

AREA = 1 << 20
BLOCK = 4096
KEY_SIZE = 32
_SEALED = AREA - BLOCK
_MAGIC = b"kokonvol"
_LABEL = b"kokon volume header 2"
_FORMAT = (
    *("--type", "luks2", "--cipher", "aes-xts-plain64", "--key-size", "512"),
    *("--integrity", "hmac-sha256", "--integrity-no-wipe", "--sector-size", "4096"),
    *("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--hash", "sha256"),
    *("--luks2-metadata-size", "16k", "--luks2-keyslots-size", "512k", "--offset", str(AREA // 512)),
)
_COMMON = ("--batch-mode", "--key-file", "-", "--disable-locks")

State = Literal["blank", "formatted"]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose volume it is: the names of the workload and of the volume in it. The header's seal covers both."""

    workload: str
    name: str

    @property
    def label(self) -> bytes:
        """What a header's HMAC key is derived with; no two owners have the same."""
        return b"\0".join((_LABEL, self.workload.encode(), self.name.encode()))


def header_seal(area: bytes, key: bytes, owner: Owner) -> bytes:
    """The last block of the header area: magic and HMAC-SHA-256 of all before it, under a key derived from `key` for
    `owner`."""
    derived = hmac.digest(key, owner.label, hashlib.sha256)
    return (_MAGIC + hmac.digest(derived, area[:_SEALED], hashlib.sha256)).ljust(BLOCK, b"\0")


def seal_area(header: bytes, key: bytes, owner: Owner) -> bytes:
    """The header area for a LUKS2 header, zero-padded to 1 MiB, with its seal."""
    area = header[:_SEALED].ljust(_SEALED, b"\0")
    return area + header_seal(area, key, owner)


def classify(area: bytes, key: bytes, owner: Owner) -> State:
    """Whether the header area is that of a volume never used, or one formatted under `key` for `owner`.

    Raises `HostError` (`volume-too-small`), `MalformedError` (`volume-key-malformed`), `UntrustedError`
    (`volume-corrupted`: changed by somebody, another key, another workload's volume, or another volume of this one).
    """
    if len(key) != KEY_SIZE:
        raise MalformedError(
            "volume-key-malformed", "a volume's key has a wrong size", expected=f"{KEY_SIZE} bytes", found=len(key)
        )
    if len(area) != AREA:
        raise HostError("volume-too-small", "a volume's file is too small", expected=f"> {AREA} bytes")
    if not any(area[:BLOCK]):
        return "blank"
    if not hmac.compare_digest(area[_SEALED:], header_seal(area, key, owner)):
        raise UntrustedError(
            "volume-corrupted",
            "the volume's header does not authenticate",
            hint="the host changed it or gave another volume, or the volume belongs to another key",
        )
    return "formatted"


class Volume:
    """One volume on its way to being mounted. `device` is the host's disk, `work` a directory in memory."""

    def __init__(self, children: Children, owner: Owner, device: Path, work: Path) -> None:
        self._children = children
        self._owner = owner
        self._device = device
        self._mapped = f"vol-{owner.name}"
        self._header = work / f"{owner.name}.header"

    def mount(self, key: bytes, target: Path) -> bool:
        """Open, or format at first use, and mount at `target`. True if it was formatted.

        Raises those of `classify` and `HostError` (`volume-unusable`).
        """
        area = read_head(self._device, AREA)
        blank = classify(area, key, self._owner) == "blank"
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        if blank:
            self._format(key)
        else:
            self._write_copy(area)
        self._open(key, blank=blank)
        mapped = f"/dev/mapper/{self._mapped}"
        if blank:
            self._make_file_system(mapped)
        try:
            kernel.mount(mapped, str(target), "ext4", kernel.MS_NODEV | kernel.MS_NOSUID | kernel.MS_NOATIME)
        except OSError as error:
            raise _damaged(error.strerror) from error
        if blank:
            self._commit(key, target)
        self._header.unlink(missing_ok=True)
        return blank

    def _format(self, key: bytes) -> None:
        self._write_copy(bytes(AREA))
        arguments = ["cryptsetup", "luksFormat", *_COMMON, *_FORMAT, "--header", str(self._header), str(self._device)]
        if self._children.run(arguments, key) != 0:
            raise HostError("volume-unusable", "the volume cannot be formatted", hint="give it more space")

    def _make_file_system(self, mapped: str) -> None:
        blank_start(Path(mapped))
        if self._children.run(mkfs_arguments(mapped, journal=True)) != 0:
            raise HostError("volume-unusable", "no file system could be made on the volume")

    def _open(self, key: bytes, *, blank: bool) -> None:
        options = ["--type", "luks2", "--disable-keyring", "--header", str(self._header)]
        arguments = ["cryptsetup", "open", *_COMMON, *options, str(self._device), self._mapped]
        if self._children.run(arguments, key) == 0:
            return
        if blank:
            raise HostError("volume-unusable", "the new volume cannot be opened")
        raise _damaged("cannot be opened")

    def _write_copy(self, area: bytes) -> None:
        descriptor = os.open(self._header, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(area)

    def _commit(self, key: bytes, target: Path) -> None:
        lost = target / "lost+found"
        if lost.is_dir():
            lost.rmdir()
        os.sync()
        write_area(self._device, seal_area(read_head(self._header, AREA), key, self._owner))


def write_area(device: Path, area: bytes) -> None:
    """Put the header area on the disk: the first block last, and only after the others are safe. Raises `OSError`."""
    descriptor = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
    try:
        _write_at(descriptor, area[BLOCK:], BLOCK)
        os.fsync(descriptor)
        _write_at(descriptor, area[:BLOCK], 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:], offset + done)


def _damaged(found: object) -> UntrustedError:
    return UntrustedError(
        "volume-corrupted", "the volume's content does not authenticate", found=found, hint="the host changed it"
    )
