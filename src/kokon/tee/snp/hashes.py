"""The kernel-hashes table that QEMU places in guest memory for a measured direct boot.

Layout as QEMU writes it (SEV launch with kernel-hashes=on) and OVMF's AmdSev build reads it: a header of GUID and u16
length, then for command line, initrd and kernel, in this order, GUID, u16 length and SHA-256; GUIDs in little-endian
form, padded to 16 bytes. The command line is hashed with its terminating NUL; a missing initrd counts as an empty
one.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from dataclasses import dataclass
from typing import Final

from kokon.errors import MalformedError
from kokon.tee.snp.pages import PAGE

_ENTRY = struct.Struct("<16sH32s")
_HEADER = struct.Struct("<16sH")
_TABLE_GUID: Final = uuid.UUID("9438d606-4f22-4cc9-b479-a793d411fd21").bytes_le
_KERNEL_GUID: Final = uuid.UUID("4de79437-abd2-427f-b835-d5b172d2045b").bytes_le
_INITRD_GUID: Final = uuid.UUID("44baf731-3a2f-4bd7-9af1-41e29169781d").bytes_le
_CMDLINE_GUID: Final = uuid.UUID("97d02dd8-bd20-4c94-aa78-e7714d36ab2a").bytes_le
TABLE_SIZE: Final = 176


@dataclass(frozen=True, slots=True)
class KernelHashes:
    """SHA-256 digests of what is booted; `cmdline` is over the text with its NUL."""

    kernel: bytes
    initrd: bytes
    cmdline: bytes

    def table(self) -> bytes:
        """The table, 176 bytes."""
        length = _HEADER.size + 3 * _ENTRY.size
        table = _HEADER.pack(_TABLE_GUID, length)
        for guid, digest in (
            (_CMDLINE_GUID, self.cmdline),
            (_INITRD_GUID, self.initrd),
            (_KERNEL_GUID, self.kernel),
        ):
            table += _ENTRY.pack(guid, _ENTRY.size, digest)
        return table.ljust(TABLE_SIZE, b"\0")

    def page(self, offset: int) -> bytes:
        """A page of zeros with the table at `offset`. Raises `MalformedError` (`measure-hashes-place`)."""
        if not 0 <= offset <= PAGE - TABLE_SIZE:
            raise MalformedError("measure-hashes-place", "the kernel hashes do not fit into their page", found=offset)
        return (bytes(offset) + self.table()).ljust(PAGE, b"\0")


def cmdline_digest(text: str) -> bytes:
    """SHA-256 of a kernel command line with its NUL. Raises `MalformedError` (`cmdline-malformed`)."""
    if "\0" in text or len(text) > 4096:
        raise MalformedError("cmdline-malformed", "the kernel command line holds a NUL or is too long", found=len(text))
    try:
        return hashlib.sha256(text.encode() + b"\0").digest()
    except UnicodeEncodeError as error:
        raise MalformedError("cmdline-malformed", "the kernel command line is not UTF-8") from error


def kernel_hashes(kernel: bytes, initrd: bytes | None, cmdline: str | None) -> KernelHashes:
    """Digests of what is booted, from the contents. Raises `MalformedError` (`cmdline-malformed`)."""
    return KernelHashes(
        hashlib.sha256(kernel).digest(), hashlib.sha256(initrd or b"").digest(), cmdline_digest(cmdline or "")
    )
