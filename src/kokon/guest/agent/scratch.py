"""The scratch disk: where the image's ciphertext and content live, under a key that exists only in the guest's memory.

AES-256-XTS hides the content from the host; it does not notice changes (volumes do). The key is lost at power-off, so
nothing survives and nothing needs to be wiped. No journal for the same reason.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kokon.errors import HostError
from kokon.guest.agent import dm, kernel

if TYPE_CHECKING:
    from kokon.guest.agent.reap import Children

SERIAL = "scratch"
_LEAST_SECTORS = 8 << 11  # 8 MiB


def mkfs_arguments(device: str, *, journal: bool) -> list[str]:
    """The mkfs.ext4 command line.

    With a journal for volumes, whose blocks cannot be read before they were written as a whole: nothing is left for
    later, and there are no backups of the superblock, which would be written in parts of a block.
    """
    features = "^resize_inode,^sparse_super,sparse_super2" if journal else "^resize_inode,^has_journal"
    extended = "nodiscard," + (
        "num_backup_sb=0,lazy_itable_init=0,lazy_journal_init=0" if journal else "lazy_itable_init=1"
    )
    return ["mkfs.ext4", "-q", "-F", "-m", "0", "-O", features, "-E", extended, device]


def prepare_scratch(children: Children, device: Path, target: Path) -> None:
    """Encrypt `device` with a fresh key, make a file system and mount it at `target`.

    Raises `HostError` (`scratch-too-small`, `scratch-unusable`).
    """
    sectors = dm.sectors_of(device)
    if sectors < _LEAST_SECTORS:
        raise HostError("scratch-too-small", "the scratch disk is too small", expected=f">= {_LEAST_SECTORS} sectors")
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        mapped = dm.create(SERIAL, sectors, "crypt", dm.crypt_table(os.urandom(64), str(device)))
        status = children.run(mkfs_arguments(str(mapped), journal=False))
        if status == 0:
            kernel.mount(str(mapped), str(target), "ext4", kernel.MS_NODEV | kernel.MS_NOATIME, "noinit_itable")
    except OSError as error:
        raise HostError("scratch-unusable", "the scratch disk cannot be used", found=error.strerror) from error
    if status != 0:
        raise HostError("scratch-unusable", "no file system could be made on the scratch disk", found=status)
