"""Disk images that the host lends to a guest: created sparse, checked before a launch, never read."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from kokon.errors import HostError, UsageError
from kokon.host.request import VOLUME_MAXIMUM, VOLUME_MINIMUM, Volume
from kokon.launch.document import VolumeUse

RESERVE = 256 << 20
"""Bytes that must be free where the container's disks are, so that unpacking has a chance to begin."""


def check_space(directory: Path, needed: int = RESERVE) -> None:
    """Raise `HostError` (`disk-space`) unless `needed` bytes are free in the file system of `directory`."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise HostError(
            "disk-space",
            f"too little disk space in {directory}",
            expected=f">= {needed >> 20} MiB free",
            found=f"{free >> 20} MiB",
            hint="free some space or point KOKON_HOME to another disk",
        )


def create_sparse(path: Path, size: int) -> None:
    """A new file of `size` bytes that takes no space yet, for its owner only.

    Raises `HostError` (`disk-not-created`); what was there before is left alone.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(handle, size)
        finally:
            os.close(handle)
    except OSError as error:
        raise HostError("disk-not-created", f"cannot create {path}", found=error.strerror) from error


def check_volumes(uses: Iterable[VolumeUse], given: Iterable[Volume]) -> tuple[Volume, ...]:
    """The volumes that the launch document asks for, each with its file.

    Raises `UsageError` (`volume-missing`, `volume-unknown`, `volume-size`) and `HostError` (`volume-unusable`).
    """
    wanted = [use.name for use in uses]
    files: dict[str, Volume] = {}
    for volume in given:
        if volume.name not in wanted or volume.name in files:
            raise UsageError(
                "volume-unknown",
                f"the launch document has no volume {volume.name!r} left to give a file to",
                expected=", ".join(wanted) or "no volume",
                found=volume.name,
            )
        files[volume.name] = volume
    for name in wanted:
        if name not in files:
            raise UsageError(
                "volume-missing",
                f"the launch document needs volume {name!r}",
                hint=f"give it a file: --volume {name}=FILE:SIZE",
            )
        _check_volume(files[name])
    return tuple(files[name] for name in wanted)


def _check_volume(volume: Volume) -> None:
    try:
        mode = volume.file.stat().st_mode
    except FileNotFoundError:
        _check_new(volume)
        return
    except OSError as error:
        raise HostError("volume-unusable", f"cannot use {volume.file}", found=error.strerror) from error
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise HostError("volume-unusable", f"{volume.file} is neither a file nor a block device")
    if not os.access(volume.file, os.R_OK | os.W_OK):
        raise HostError("volume-unusable", f"{volume.file} is not readable and writable by this user")
    size = volume.file.stat().st_size
    if stat.S_ISREG(mode) and (size < VOLUME_MINIMUM or size % 512):
        raise HostError(
            "volume-unusable", f"{volume.file} is no volume", expected=f">= {VOLUME_MINIMUM} bytes", found=size
        )
    if stat.S_ISREG(mode) and volume.size not in (None, size):
        raise UsageError(
            "volume-size",
            f"{volume.file} exists with another size",
            expected=f"{volume.size} bytes",
            found=f"{size} bytes",
            hint="leave the size out to use the file as it is",
        )


def _check_new(volume: Volume) -> None:
    if volume.size is None:
        raise UsageError(
            "volume-size",
            f"{volume.file} does not exist and no size was given",
            hint=f"say how large it shall be: --volume {volume.name}={volume.file}:256M",
        )
    if not VOLUME_MINIMUM <= volume.size <= VOLUME_MAXIMUM or volume.size % 512:
        raise UsageError(
            "volume-size",
            "the size of a volume is out of range",
            expected=f"{VOLUME_MINIMUM}..{VOLUME_MAXIMUM} bytes in whole sectors",
            found=volume.size,
        )
    if not volume.file.parent.is_dir():
        raise HostError("volume-unusable", f"{volume.file.parent} is not a directory")


def create_volumes(volumes: Iterable[Volume]) -> None:
    """Make the files that are not there yet. Raises `HostError` (`disk-not-created`)."""
    for volume in volumes:
        if volume.size is not None and not volume.file.exists():
            create_sparse(volume.file, volume.size)
