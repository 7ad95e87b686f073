"""The header fields that QEMU writes into a Linux kernel before a guest sees it. Pure.

Linux boot protocol (Documentation/arch/x86/boot.rst) and QEMU's `x86_load_linux`. Firmware that starts such a kernel
measures it as QEMU changed it, addresses of command line and initrd included; OVMF since 2025.05 asks QEMU for the
file as it is.
"""

from __future__ import annotations

import struct
from typing import Final

from kokon.errors import MalformedError

ACPI_DATA: Final = 0x28000
"""Bytes at the top of low memory that QEMU's PC machines keep for ACPI tables."""
MEMORY_LIMIT: Final = 1 << 46
_LOW_MEMORY: Final = 0xB000_0000
"""q35 maps this much memory below 4 GiB, and 2 GiB if there is as much or more in all."""
_MANY: Final = 0x8000_0000

_LOADED_HIGH: Final = 1
_CAN_USE_HEAP: Final = 0x80
_ABOVE_4G: Final = 2
_QEMU: Final = 0xB0


def _highest_initrd(kernel: bytes, protocol: int, memory: int) -> int:
    if protocol >= 0x20C and int.from_bytes(kernel[0x236:0x238], "little") & _ABOVE_4G:
        highest = 0xFFFF_FFFF
    elif protocol >= 0x203:
        highest = int.from_bytes(kernel[0x22C:0x230], "little")
    else:
        highest = 0x37FF_FFFF
    low = min(memory, _MANY if memory >= _LOW_MEMORY else _LOW_MEMORY)
    return min(highest, low - ACPI_DATA - 1)


def as_loaded_by_qemu(kernel: bytes, initrd_size: int, memory: int) -> bytes:
    """The kernel as QEMU's q35 machine hands it to the firmware.

    `initrd_size` is in bytes, 0 for none; `memory` is the guest's, in bytes. Raises `MalformedError`
    (`kernel-malformed`: no Linux kernel with boot protocol 2.02 or newer; `memory-range`).
    """
    if len(kernel) < 0x1000 or kernel[0x202:0x206] != b"HdrS":
        raise MalformedError("kernel-malformed", "not a Linux kernel image (bzImage)", hint="give the vmlinuz file")
    (protocol,) = struct.unpack_from("<H", kernel, 0x206)
    if protocol < 0x202 or not kernel[0x211] & _LOADED_HIGH:
        raise MalformedError(
            "kernel-malformed", "the kernel is too old to be loaded high", expected=">= 0x202", found=f"{protocol:#x}"
        )
    if not 0 < memory <= MEMORY_LIMIT or not initrd_size >= 0:
        raise MalformedError("memory-range", "impossible size of the guest's memory", found=memory)
    patched = bytearray(kernel)
    patched[0x210] = _QEMU
    patched[0x211] |= _CAN_USE_HEAP
    struct.pack_into("<H", patched, 0x224, 0x20000 - 0x10000 - 0x200)
    struct.pack_into("<I", patched, 0x228, 0x20000)
    if initrd_size:
        highest = _highest_initrd(kernel, protocol, memory)
        if initrd_size >= highest:
            raise MalformedError(
                "memory-range", "the initrd does not fit into the guest's memory", expected=f"< {highest}",
                found=initrd_size,
            )  # fmt: skip
        struct.pack_into("<II", patched, 0x218, (highest - initrd_size) & ~0xFFF, initrd_size)
    return bytes(patched)
