"""System calls of Linux that Python 3.11 does not offer, through the C library. Numbers are those of x86-64.

Each raises `OSError` with the kernel's errno, like the functions of `os`.
"""

from __future__ import annotations

import ctypes
import os
import struct

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_NOATIME, MS_BIND, MS_REC, MS_PRIVATE = 1 << 10, 1 << 12, 1 << 14, 1 << 18
CLONE_NEWNET = 0x40000000
RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT = 0x02, 0x10
_FINIT_MODULE, _OPENAT2 = 313, 437
_POWER_OFF = 0x4321FEDC

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    _check(_LIBC.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode() or None))


def umount(target: str) -> None:
    """umount2(2) without flags: fails while the file system is in use."""
    _check(_LIBC.umount2(target.encode(), 0))


def finit_module(descriptor: int, parameters: str = "") -> None:
    """finit_module(2): load the kernel module in an open file."""
    _check(_LIBC.syscall(_FINIT_MODULE, descriptor, parameters.encode(), 0))


def unshare(flags: int) -> None:
    """unshare(2): give the calling thread namespaces of its own."""
    _check(_LIBC.unshare(flags))


def open_beneath(root: int, path: str, flags: int) -> int:
    """openat2(2) with `root` as the root directory: neither `..` nor a symbolic link leads out of it."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    return _check(_LIBC.syscall(_OPENAT2, root, path.encode(), how, len(how)))


def power_off() -> None:
    """reboot(2) with RB_POWER_OFF: does not return when it works. Nothing is synced."""
    _check(_LIBC.reboot(ctypes.c_uint(_POWER_OFF)))
