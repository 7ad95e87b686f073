"""A block image (docs/BLOCK_FORMAT.md): the host's disk of ciphertext, opened and mounted; blocks are read as needed.

dm-crypt decrypts, dm-verity over it refuses every block that the signed root digest does not cover. What the container
writes goes to the scratch disk, through overlayfs. The key reaches the kernel by ioctl, which wipes its copies.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kokon.errors import HostError, UntrustedError
from kokon.guest.agent import dm, kernel
from kokon.image.block.format import crypt_sectors, crypt_table, verity_sectors, verity_table

if TYPE_CHECKING:
    from pathlib import Path

    from kokon.image.block.format import BlockInfo

SERIAL = "image"
"""Of the disk that the host attaches."""
FILE_SYSTEM = "erofs"


@dataclass(frozen=True, slots=True)
class Places:
    """Directories: where the image is mounted, the scratch disk for what is written, and the result of both."""

    image: Path
    scratch: Path
    rootfs: Path


def mount_block(device: Path, info: BlockInfo, key: bytes, places: Places) -> None:
    """Open the disk and make `places.rootfs` a writable view of it.

    Raises `UntrustedError` (`image-corrupted`), `HostError` (`image-unusable`), `MalformedError` (`size-mismatch`).
    """
    _check_size(device, info)
    mapped = _open(device, info, key)
    places.image.mkdir(mode=0o700)
    try:
        kernel.mount(str(mapped), str(places.image), FILE_SYSTEM, kernel.MS_RDONLY | kernel.MS_NODEV)
    except OSError as error:
        raise corrupted("the image's disk does not authenticate", found=error.strerror) from error
    try:
        _overlay(places)
    except OSError as error:
        raise _unusable(error) from error


def corrupted(message: str, *, found: object = None) -> UntrustedError:
    """The error for a disk that is not what was signed."""
    return UntrustedError(
        "image-corrupted",
        message,
        found=found,
        hint="the host changed it or attached another one: remove it from the host's cache",
    )


def overlay_options(places: Places) -> str:
    """The options of the overlay: the image below, the scratch disk above."""
    upper, work = _uppers(places)
    return f"lowerdir={places.image},upperdir={upper},workdir={work}"


def _check_size(device: Path, info: BlockInfo) -> None:
    try:
        sectors = dm.sectors_of(device, 1)
    except OSError as error:
        raise _unusable(error) from error
    if sectors != crypt_sectors(info):
        raise UntrustedError(
            "image-corrupted",
            "the host attached an image of another size",
            expected=f"{crypt_sectors(info)} sectors",
            found=sectors,
        )


def _open(device: Path, info: BlockInfo, key: bytes) -> Path:
    try:
        plain = dm.create(
            "image-plain", crypt_sectors(info), "crypt", crypt_table(key, info, str(device)), read_only=True
        )
        table = verity_table(key, info, str(plain))
        return dm.create(SERIAL, verity_sectors(info), "verity", table, read_only=True)
    except OSError as error:
        raise _unusable(error) from error


def _overlay(places: Places) -> None:
    upper, work = _uppers(places)
    for directory in (upper, work, places.rootfs):
        directory.mkdir(mode=0o755)
    top = places.image.stat()  # an overlay's root has mode and owner of the upper directory
    os.chown(upper, top.st_uid, top.st_gid)
    upper.chmod(top.st_mode & 0o7777)
    kernel.mount("overlay", str(places.rootfs), "overlay", kernel.MS_NODEV | kernel.MS_NOATIME, overlay_options(places))


def _uppers(places: Places) -> tuple[Path, Path]:
    return places.scratch / "upper", places.scratch / "work"


def _unusable(error: OSError) -> HostError:
    return HostError("image-unusable", "the image's disk cannot be used", found=error.strerror)
