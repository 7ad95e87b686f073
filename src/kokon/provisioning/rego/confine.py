"""What a policy worker gives up before it reads the first policy. Linux; standard library only.

In order: everything is taken out of the environment; descriptors other than the two pipes are closed, and none can be
opened any more, so that there are no files and no sockets; no core dumps; address space is limited to what the engine
has reserved by now and a little; the kernel's memory killer takes this process first; and a system call filter
(seccomp, x86-64) leaves only what computing needs: no processes, no signals to others, no reading of their memory.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_NO_NEW_PRIVILEGES: Final = 38
_SECCOMP: Final = 22
_FILTER_MODE: Final = 2
"""prctl(2): PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER."""
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | 1
_KILL: Final = 0x80000000
"""seccomp(2): SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO with EPERM, SECCOMP_RET_KILL_PROCESS."""
_X86_64: Final = 0xC000003E
"""AUDIT_ARCH_X86_64 (linux/audit.h)."""
_LOAD, _EQUAL, _NOT_BELOW, _RETURN = 0x20, 0x15, 0x35, 0x06
"""bpf_common.h: load a word, jump if equal, jump if greater or equal, return."""
_NUMBER, _ARCHITECTURE, _FIRST_LOW, _FIRST_HIGH = 0, 4, 16, 20
"""Offsets in struct seccomp_data (linux/seccomp.h)."""
_X32: Final = 0x40000000
_PRLIMIT: Final = 302
_CALLS: Final = {
    "read": 0,
    "write": 1,
    "close": 3,
    "fstat": 5,
    "poll": 7,
    "lseek": 8,
    "mmap": 9,
    "mprotect": 10,
    "munmap": 11,
    "brk": 12,
    "rt_sigaction": 13,
    "rt_sigprocmask": 14,
    "rt_sigreturn": 15,
    "sched_yield": 24,
    "mremap": 25,
    "madvise": 28,
    "getpid": 39,
    "exit": 60,
    "gettimeofday": 96,
    "getrusage": 98,
    "gettid": 186,
    "futex": 202,
    "clock_gettime": 228,
    "clock_getres": 229,
    "clock_nanosleep": 230,
    "exit_group": 231,
    "getrandom": 318,
}
"""System calls that stay, by their number on x86-64."""


def take_pipes() -> tuple[int, int]:
    """Descriptors to read requests from and write answers to: standard input and output, which then lead nowhere, so
    that whatever the engine prints cannot be taken for an answer."""
    requests, answers = os.dup(0), os.dup(1)
    nowhere = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    start = 3
    for kept in sorted((requests, answers)):
        os.closerange(start, kept)
        start = kept + 1
    os.closerange(start, 1 << 16)
    return requests, answers


def confine(memory: int) -> bool:
    """Give up all that is not needed to compute; `memory` is how many bytes the process may take from now on.

    True if the system call filter is in place: always on x86-64. Raises `OSError` if the kernel refuses.
    """
    os.environ.clear()
    os.chdir("/")
    Path("/proc/self/oom_score_adj").write_text("1000")
    reserved = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    _limit(resource.RLIMIT_AS, reserved + memory)
    for name in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC):
        _limit(name, 0)
    _prctl(_NO_NEW_PRIVILEGES, 1, None)
    if platform.machine() != "x86_64":
        return False
    _filter(_program())
    return True


def limit_cpu(seconds: int) -> None:
    """Let the kernel end this process after that much more CPU time, rounded up to a second."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(usage.ru_utime + usage.ru_stime) + 1 + seconds, keep=True)


def _limit(name: int, value: int, *, keep: bool = False) -> None:
    """Set both limits, or with `keep` the soft one only, which may be moved again."""
    hard = resource.getrlimit(name)[1]
    low = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(name, (low, hard if keep else low))


def _program() -> Iterable[bytes]:
    """The filter: another architecture kills; calls on the list go through, prlimit for oneself only."""
    numbers = sorted(_CALLS.values())
    yield _step(_LOAD, _ARCHITECTURE)
    yield _step(_EQUAL, _X86_64, 1, 0)
    yield _step(_RETURN, _KILL)
    yield _step(_LOAD, _NUMBER)
    yield _step(_NOT_BELOW, _X32, len(numbers) + 1, 0)
    for place, number in enumerate(numbers):
        yield _step(_EQUAL, number, len(numbers) - place + 5, 0)
    yield _step(_EQUAL, _PRLIMIT, 1, 0)
    yield _step(_RETURN, _REFUSE)
    yield _step(_LOAD, _FIRST_LOW)
    yield _step(_EQUAL, 0, 0, 3)
    yield _step(_LOAD, _FIRST_HIGH)
    yield _step(_EQUAL, 0, 0, 1)
    yield _step(_RETURN, _ALLOW)
    yield _step(_RETURN, _REFUSE)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """A struct sock_filter: what to do, how many steps to skip, operand."""
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _filter(program: Iterable[bytes]) -> None:
    steps = b"".join(program)
    code = ctypes.create_string_buffer(steps, len(steps))
    head = struct.pack("@HP", len(steps) // 8, ctypes.addressof(code))
    _prctl(_SECCOMP, _FILTER_MODE, ctypes.create_string_buffer(head, len(head)))


def _prctl(option: int, value: int, pointer: ctypes.Array[ctypes.c_char] | None) -> None:
    call = ctypes.CDLL(None, use_errno=True).prctl
    call.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong)
    if call(option, value, pointer, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
