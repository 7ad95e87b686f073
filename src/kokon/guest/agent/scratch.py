"""The scratch disk: where the image's ciphertext and content live, under a key that exists only in the guest's memory.

AEGIS-128, block by block (dm-crypt over dm-integrity): a block that the host changed or moved is a read error. It
encrypts and authenticates in one pass of AES rounds; AES-256-GCM took three times as long under emulation, XTS with
HMAC-SHA-256 fifteen times. The key is lost at power-off, so nothing survives; hence no journal. The disk is not wiped:
the file system is made and mounted so that no block is read before it was written.
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
MOUNT_OPTIONS = "noinit_itable,inode_readahead_blks=0"
"""Nothing reads or fills inode tables ahead of their use."""
_LEAST_SECTORS = 16 << 11  # 16 MiB


def mkfs_arguments(device: str, *, journal: bool) -> list[str]:
    """The mkfs.ext4 command line for a disk whose blocks cannot be read before they were written as a whole.

    Hence no backups of the superblock, which would be written in parts of a block. With a journal for volumes, where
    nothing is left for later. Without one for scratch, which is mounted with `MOUNT_OPTIONS`: inode tables are written
    as they come into use.
    """
    features = "^resize_inode,^sparse_super,sparse_super2" + ("" if journal else ",^has_journal")
    extended = "nodiscard,num_backup_sb=0," + (
        "lazy_itable_init=0,lazy_journal_init=0" if journal else "lazy_itable_init=1"
    )
    return ["mkfs.ext4", "-q", "-F", "-m", "0", "-O", features, "-E", extended, device]


def blank_start(device: Path) -> None:
    """Write zeros where mkfs writes a part of a block, for which the kernel reads the rest. Raises `OSError`."""
    with device.open("r+b", buffering=0) as file:
        file.write(bytes(64 << 10))


def prepare_scratch(children: Children, device: Path, target: Path) -> frozenset[str]:
    """Encrypt `device` with a fresh key, make a file system and mount it at `target`.

    The names of the devices made, by which the kernel reports errors.

    Raises `HostError` (`scratch-too-small`, `scratch-unusable`).
    """
    sectors = dm.sectors_of(device)
    if sectors < _LEAST_SECTORS:
        raise HostError("scratch-too-small", "the scratch disk is too small", expected=f">= {_LEAST_SECTORS} sectors")
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        tagged, mapped = _encrypt(device, dm.usable_sectors(sectors))
        status = children.run(mkfs_arguments(str(mapped), journal=False))
        if status == 0:
            kernel.mount(str(mapped), str(target), "ext4", kernel.MS_NODEV | kernel.MS_NOATIME, MOUNT_OPTIONS)
    except OSError as error:
        raise HostError("scratch-unusable", "the scratch disk cannot be used", found=error.strerror) from error
    if status != 0:
        raise HostError("scratch-unusable", "no file system could be made on the scratch disk", found=status)
    return frozenset((tagged.name, mapped.name))


def _encrypt(device: Path, sectors: int) -> tuple[Path, Path]:
    with device.open("r+b", buffering=0) as file:
        file.write(bytes(dm.BLOCK))  # no superblock: dm-integrity makes a new one
        os.fsync(file.fileno())
    tagged = dm.create("scratch-tags", sectors, "integrity", dm.integrity_table(str(device)))
    mapped = dm.create(SERIAL, sectors, "crypt", dm.crypt_table(os.urandom(dm.KEY_SIZE), str(tagged)))
    blank_start(mapped)
    return tagged, mapped
