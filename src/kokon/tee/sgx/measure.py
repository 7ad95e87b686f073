"""MRENCLAVE: the hash that ECREATE, EADD and EEXTEND build up, and the SGXS files that record exactly that. Pure.

Intel SDM volume 3D, "MRENCLAVE": SHA-256 over 64-byte records: "ECREATE", SSA frame size in pages, enclave size;
"EADD", page offset, the first 48 bytes of SECINFO; "EEXTEND", offset, and then 256 bytes of the page.

An SGXS file (Fortanix) is this record stream itself, with two kinds of record more: "UNMEASRD" carries 256 bytes that
are loaded but not measured, "UNSIZED" stands for an ECREATE whose size is not known yet.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from kokon.errors import MalformedError

PAGE: Final = 4096
CHUNK: Final = 256
STREAM_LIMIT: Final = 1 << 30
"""Bytes of an SGXS file."""

READ: Final = 0x1
WRITE: Final = 0x2
EXECUTE: Final = 0x4
TCS: Final = 0x100
REGULAR: Final = 0x200
"""SECINFO flags: permissions and the page type (1 TCS, 2 REG) from bit 8 on."""

_RECORD: Final = 64
_ECREATE = struct.Struct("<8sIQ44x")
_EADD = struct.Struct("<8sQQ40x")
_EEXTEND = struct.Struct("<8sQ48x")


class EnclaveHash:
    """The running MRENCLAVE of one enclave of `size` bytes, with `ssa_pages` pages for each SSA frame.

    Offsets count from the enclave's base. Every method raises `MalformedError` (`enclave-layout`) for what the
    instructions refuse: a size that is no power of two, an offset outside the enclave or off its grid.
    """

    def __init__(self, size: int, ssa_pages: int) -> None:
        if not 2 * PAGE <= size <= 1 << 63 or size & (size - 1) or not 1 <= ssa_pages < 1 << 32:
            raise _layout("the enclave's size is no power of two or its SSA frames have no size", f"{size:#x}")
        self._size = size
        self._hash = hashlib.sha256(_ECREATE.pack(b"ECREATE", ssa_pages, size))

    def add(self, offset: int, flags: int) -> None:
        """EADD: a page with SECINFO `flags`."""
        if offset % PAGE or not 0 <= offset <= self._size - PAGE or not 0 <= flags < 1 << 64:
            raise _layout("a page lies outside the enclave or off its grid", f"{offset:#x}")
        self._hash.update(_EADD.pack(b"EADD", offset, flags))

    def extend(self, offset: int, data: bytes) -> None:
        """EEXTEND: 256 bytes of a page."""
        if offset % CHUNK or not 0 <= offset <= self._size - CHUNK or len(data) != CHUNK:
            raise _layout("measured bytes lie outside the enclave or off its grid", f"{offset:#x}")
        self._hash.update(_EEXTEND.pack(b"EEXTEND", offset) + data)

    def add_page(self, offset: int, flags: int, data: bytes, *, measured: bool = True) -> None:
        """EADD of a page with these 4096 bytes, and EEXTEND of all of them if `measured`."""
        if len(data) != PAGE:
            raise _layout("a page of an enclave has a wrong size", len(data))
        self.add(offset, flags)
        if measured:
            starts = range(0, PAGE, CHUNK)
            self._hash.update(b"".join(_EEXTEND.pack(b"EEXTEND", offset + at) + data[at : at + CHUNK] for at in starts))

    @property
    def value(self) -> bytes:
        """MRENCLAVE so far, 32 bytes."""
        return self._hash.digest()


def _layout(message: str, found: object) -> MalformedError:
    return MalformedError("enclave-layout", message, found=found)


@dataclass(frozen=True, slots=True)
class Create:
    """ECREATE: size in bytes and pages for each SSA frame."""

    size: int
    ssa_pages: int


@dataclass(frozen=True, slots=True)
class Add:
    """EADD: a page at `offset` with SECINFO `flags`."""

    offset: int
    flags: int


@dataclass(frozen=True, slots=True)
class Extend:
    """256 bytes at `offset`, measured (EEXTEND) or not."""

    offset: int
    data: bytes
    measured: bool = True


Step = Create | Add | Extend


def _broken(message: str, found: object = None) -> MalformedError:
    return MalformedError("sgxs-malformed", f"the SGXS file is malformed: {message}", found=found)


def parse_sgxs(data: bytes) -> tuple[Step, ...]:
    """The steps of an SGXS file of at most 1 GiB, which must be canonical: one ECREATE first, pages in ascending order,
    each chunk once and within the page that was added last.

    Raises `MalformedError` (`sgxs-malformed`; `sgxs-unsized` if the enclave's size is left open).
    """
    if len(data) > STREAM_LIMIT:
        raise _broken("it is too large", len(data))
    steps: list[Step] = []
    page, seen = -PAGE, 0
    for step in _steps(data):
        if isinstance(step, Create) != (not steps):
            raise _broken("ECREATE is not its first record and no other")
        if isinstance(step, Add):
            if step.offset % PAGE or step.offset <= page:
                raise _broken("its pages are not in ascending order", f"{step.offset:#x}")
            page, seen = step.offset, 0
        elif isinstance(step, Extend):
            chunk = step.offset - page
            bit = 1 << (chunk // CHUNK) if 0 <= chunk < PAGE else 0
            if chunk % CHUNK or not bit or seen & bit:
                raise _broken("a chunk is not in the page before it, or twice", f"{step.offset:#x}")
            seen |= bit
        steps.append(step)
    if not steps:
        raise _broken("it is empty")
    return tuple(steps)


def _steps(data: bytes) -> Iterator[Step]:
    position = 0
    while position < len(data):
        record = data[position : position + _RECORD]
        position += _RECORD
        tag = record[:8]
        if len(record) < _RECORD:
            raise _broken("it ends within a record", len(data))
        if tag == b"UNSIZED\0":
            raise MalformedError("sgxs-unsized", "the SGXS file leaves the enclave's size open", hint="sgxs-append -i")
        used = {b"ECREATE\0": 20, b"EADD\0\0\0\0": 24, b"EEXTEND\0": 16, b"UNMEASRD": 16}.get(tag)
        if used is None or any(record[used:]):
            raise _broken("unknown record, or one with reserved bytes set", tag.hex())
        if used == 16:
            chunk = data[position : position + CHUNK]
            if len(chunk) < CHUNK:
                raise _broken("it ends within a chunk", len(data))
            position += CHUNK
            yield Extend(_EEXTEND.unpack(record)[1], chunk, tag == b"EEXTEND\0")
        elif used == 24:
            _tag, offset, flags = _EADD.unpack(record)
            yield Add(offset, flags)
        else:
            _tag, pages, size = _ECREATE.unpack(record)
            yield Create(size, pages)


def encode_sgxs(steps: Iterable[Step]) -> bytes:
    """The file for these steps."""
    parts = []
    for step in steps:
        if isinstance(step, Create):
            parts.append(_ECREATE.pack(b"ECREATE", step.ssa_pages, step.size))
        elif isinstance(step, Add):
            parts.append(_EADD.pack(b"EADD", step.offset, step.flags))
        else:
            parts.append(_EEXTEND.pack(b"EEXTEND" if step.measured else b"UNMEASRD", step.offset) + step.data)
    return b"".join(parts)


def mrenclave(steps: Iterable[Step]) -> bytes:
    """MRENCLAVE of an enclave built in these steps, ECREATE first.

    Raises `MalformedError` (`enclave-layout`).
    """
    running: EnclaveHash | None = None
    for step in steps:
        if isinstance(step, Create):
            running = EnclaveHash(step.size, step.ssa_pages)
        elif running is None:
            raise _layout("an enclave begins with ECREATE", type(step).__name__)
        elif isinstance(step, Add):
            running.add(step.offset, step.flags)
        elif step.measured:
            running.extend(step.offset, step.data)
    if running is None:
        raise _layout("an enclave begins with ECREATE", "nothing")
    return running.value
