"""MRENCLAVE of an enclave that Gramine builds: from the final manifest and Gramine's loader, libpal.so. Pure.

The layout was learnt from Gramine's public sources (its signing tool, and the headers of its SGX host: thread control
block, frame sizes) in their form since release 1.5, when manifests say `sgx.max_threads`. It was NOT checked against
the output of a real `gramine-sgx-sign`, which could not be had here; releases may move fields. A SIGSTRUCT that
Gramine signed settles it: `kokon measure sgx --sigstruct` compares.

From the top of the enclave down: manifest with a NUL, state save areas, thread control structures, thread blocks,
stacks, signal stacks, libpal.so; the rest is heap, whose pages are added and not measured (with EDMM not even added).
"""

from __future__ import annotations

import struct
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from kokon.errors import MalformedError
from kokon.tee.sgx import elf
from kokon.tee.sgx.measure import EXECUTE, PAGE, READ, REGULAR, TCS, WRITE, EnclaveHash
from kokon.tee.sgx.sigstruct import DEBUG, MODE_64, XFRM_LEGACY, Sigstruct
from kokon.wire import Fields

MANIFEST_LIMIT: Final = 64 << 20
DEPTH_LIMIT: Final = 32
THREADS_LIMIT: Final = 4096
SIZE_LIMIT: Final = 1 << 40
HEAP_LIMIT: Final = 1 << 38
"""Largest enclave whose heap is added page by page: that takes a minute."""

SSA_FRAME: Final = 4 * PAGE
SSA_FRAMES: Final = 2
STACK: Final = 64 * PAGE
SIGNAL_STACK: Final = 16 * PAGE
HEAP_MIN: Final = 0x10000
"""The enclave's base is 0 and its heap begins here."""
CANARY: Final = 0xBADBADBADBAD
REGISTERS: Final = 184
"""Size of the general registers at the end of an SSA frame (SDM 3D, GPRSGX)."""

_DATA: Final = READ | WRITE | REGULAR
_FREE: Final = READ | WRITE | EXECUTE | REGULAR
_SCALES: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

_XFRM: Final = {"avx": 0x4, "avx512": 0xE4, "amx": 0x60000, "mpx": 0x18, "pkru": 0x200}
_ALWAYS_CLEAR: Final = ("mpx", "pkru")
"""Features that Gramine keeps off unless the manifest requires them."""
_XFRM_MASK: Final = 0xFFFF_FFFF_FFF9_FF1B
"""All bits but those of AVX, AVX-512 and AMX, which an enclave may have or not."""
_EXINFO: Final = 1
"""MISCSELECT bit 0: page faults are reported inside the enclave."""


@dataclass(frozen=True, slots=True)
class GramineManifest:
    """What of a manifest shapes the enclave; `data` is the file itself, which is measured whole."""

    data: bytes
    enclave_size: int
    max_threads: int
    edmm: bool
    trusted_files: tuple[tuple[str, str], ...]
    """URI and SHA-256 (hex, "" if the manifest has none) of each file that may be read, as listed."""
    values: dict[str, Any]


def _size(text: str) -> int:
    digits, scale = (text[:-1], _SCALES[text[-1]]) if text[-1:] in _SCALES else (text, 1)
    try:
        size = int(digits, 0) * scale
    except ValueError as error:
        raise MalformedError("manifest-malformed", "sgx.enclave_size is no size", found=text[:40]) from error
    if not 2 * PAGE <= size <= SIZE_LIMIT or size & (size - 1):
        raise MalformedError("manifest-malformed", "sgx.enclave_size is no power of two", found=text[:40])
    return size


def parse_manifest(data: bytes) -> GramineManifest:
    """A manifest.sgx of at most 64 MiB. Raises `MalformedError` (`manifest-malformed`, `field-...`)."""
    if len(data) > MANIFEST_LIMIT:
        raise MalformedError("manifest-malformed", "the manifest is too large", found=len(data))
    try:
        values = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise MalformedError("manifest-malformed", "the manifest is not TOML", found=error) from error
    _check_depth(values)
    sgx = Fields(Fields(values, "the manifest").table("sgx", default={}), "sgx")
    edmm = sgx.flag("edmm_enable", default=False)
    return GramineManifest(
        data=data,
        enclave_size=_size(sgx.text("enclave_size", default="1024G" if edmm else "256M", limit=40)),
        max_threads=sgx.integer("max_threads", default=4, low=1, high=THREADS_LIMIT),
        edmm=edmm,
        trusted_files=tuple(map(_trusted, sgx.array("trusted_files", default=[], limit=1 << 20))),
        values=values,
    )


def _check_depth(values: dict[str, Any]) -> None:
    level: list[Any] = [values]
    for _ in range(DEPTH_LIMIT):
        inner = [member for table in level for member in (table.values() if isinstance(table, dict) else table)]
        level = [member for member in inner if isinstance(member, dict | list)]
        if not level:
            return
    raise MalformedError("manifest-malformed", "the manifest is nested too deeply", expected=f"<= {DEPTH_LIMIT}")


def _trusted(entry: Any) -> tuple[str, str]:
    if isinstance(entry, str):
        return entry, ""
    fields = Fields(entry, "a trusted file")
    return fields.text("uri"), fields.text("sha256", default="", limit=64)


@dataclass(frozen=True, slots=True)
class _Area:
    address: int
    size: int
    flags: int
    data: bytes = b""
    measured: bool = True


def _up(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _down(address: int) -> int:
    return address - address % PAGE


@dataclass(frozen=True, slots=True)
class _Places:
    """Where everything of one enclave lies."""

    manifest: int
    ssa: int
    tcs: int
    tls: int
    stacks: tuple[int, ...]
    signal_stacks: tuple[int, ...]
    loader: int
    loader_base: int
    """Lowest page address in the loader's file."""


def _places(manifest: GramineManifest, loader: elf.Elf) -> _Places:
    threads = manifest.max_threads
    base = min(_down(segment.address) for segment in loader.segments)
    end = max(_up(segment.address + segment.memory) for segment in loader.segments)
    if base:
        raise MalformedError("enclave-layout", "the loader asks for a fixed address", found=f"{base:#x}")
    top = manifest.enclave_size

    def take(size: int) -> int:
        nonlocal top
        top -= _up(size)
        return top

    place = take(len(manifest.data) + 1)
    ssa, tcs, tls = take(threads * SSA_FRAME * SSA_FRAMES), take(threads * PAGE), take(threads * PAGE)
    stacks = tuple(take(STACK) for _ in range(threads))
    signal_stacks = tuple(take(SIGNAL_STACK) for _ in range(threads))
    start = take(end)
    if not manifest.edmm and manifest.enclave_size > HEAP_LIMIT:
        raise MalformedError("enclave-layout", "the enclave is too large", found=manifest.enclave_size)
    if start < HEAP_MIN:
        raise MalformedError(
            "enclave-layout", "the enclave is too small for what it holds", found=manifest.enclave_size
        )
    return _Places(place, ssa, tcs, tls, stacks, signal_stacks, start, base)


def _tcs_page(places: _Places, loader: elf.Elf, thread: int) -> bytes:
    """SDM 3D, "Thread Control Structure": OSSA, CSSA, NSSA, OENTRY at 16; OGSBASE, FS and GS limit at 56."""
    page = bytearray(PAGE)
    struct.pack_into(
        "<QIIQ", page, 16, places.ssa + SSA_FRAME * SSA_FRAMES * thread, 0, SSA_FRAMES, places.loader + loader.entry
    )
    struct.pack_into("<QII", page, 56, places.tls + PAGE * thread, 0xFFF, 0xFFF)
    return bytes(page)


def _tls_page(places: _Places, manifest: GramineManifest, thread: int) -> bytes:
    """Gramine's thread block: what the loader must know before it can run, by offset."""
    page = bytearray(PAGE)
    ssa = places.ssa + SSA_FRAME * SSA_FRAMES * thread
    values = {
        0: places.tls + PAGE * thread,
        8: CANARY,
        272: manifest.enclave_size,
        280: places.tcs + PAGE * thread,
        288: places.stacks[thread] + STACK,
        304: places.signal_stacks[thread],
        312: places.signal_stacks[thread] + SIGNAL_STACK,
        328: ssa,
        336: ssa + SSA_FRAME - REGISTERS,
        416: len(manifest.data) + 1,
        424: HEAP_MIN,
        432: places.loader,
    }
    for offset, value in values.items():
        struct.pack_into("<Q", page, offset, value)
    return bytes(page)


def _areas(manifest: GramineManifest, loader: elf.Elf) -> Iterator[_Area]:
    places = _places(manifest, loader)
    threads = range(manifest.max_threads)
    yield _Area(places.manifest, _up(len(manifest.data) + 1), READ | REGULAR, manifest.data)
    yield _Area(places.ssa, len(threads) * SSA_FRAME * SSA_FRAMES, _DATA)
    yield _Area(places.tcs, len(threads) * PAGE, TCS, b"".join(_tcs_page(places, loader, t) for t in threads))
    yield _Area(places.tls, len(threads) * PAGE, _DATA, b"".join(_tls_page(places, manifest, t) for t in threads))
    for stack in places.stacks:
        yield _Area(stack, STACK, _DATA)
    for stack in places.signal_stacks:
        yield _Area(stack, SIGNAL_STACK, _DATA)
    for segment in loader.segments:
        yield _segment_area(segment, places)
    if not manifest.edmm:
        yield _Area(HEAP_MIN, places.loader - HEAP_MIN, _FREE, measured=False)


def _segment_area(segment: elf.Segment, places: _Places) -> _Area:
    flags = REGULAR
    for bit, flag in ((elf.READ, READ), (elf.WRITE, WRITE), (elf.EXECUTE, EXECUTE)):
        if segment.flags & bit:
            flags |= flag
    start = _down(segment.address)
    data = bytes(segment.address - start) + segment.data
    size = _up(segment.address + segment.memory) - start
    return _Area(places.loader - places.loader_base + start, size, flags, data)


def gramine_mrenclave(manifest: GramineManifest, libpal: bytes) -> bytes:
    """MRENCLAVE of a Gramine enclave, 32 bytes.

    Raises `MalformedError` (`enclave-elf`; `enclave-layout`: it does not fit).
    """
    running = EnclaveHash(manifest.enclave_size, SSA_FRAME // PAGE)
    for area in _areas(manifest, elf.parse_elf(libpal)):
        for start in range(0, area.size, PAGE):
            if area.measured:
                running.add_page(area.address + start, area.flags, area.data[start : start + PAGE].ljust(PAGE, b"\0"))
            else:
                running.add(area.address + start, area.flags)
    return running.value


def gramine_sigstruct(manifest: GramineManifest, mrenclave: bytes, when: date) -> Sigstruct:
    """The SIGSTRUCT that Gramine makes for a manifest, unsigned: product id, SVN, debug, CPU features.

    Raises `MalformedError` (`manifest-malformed`, `field-...`).
    """
    sgx = Fields(manifest.values.get("sgx", {}), "sgx")
    features = Fields(sgx.table("cpu_features", default={}), "sgx.cpu_features")
    xfrm, mask = XFRM_LEGACY, _XFRM_MASK
    for name, bits in _XFRM.items():
        choice = features.text(name, default="disabled" if name in _ALWAYS_CLEAR else "unspecified", limit=20)
        if choice not in ("required", "disabled", "unspecified"):
            raise MalformedError("manifest-malformed", f"sgx.cpu_features.{name} has no such value", found=choice)
        if choice == "required":
            xfrm, mask = xfrm | bits, mask | bits
        elif choice == "disabled":
            xfrm, mask = xfrm & ~bits, mask | bits
    return Sigstruct(
        mrenclave=mrenclave,
        date=when,
        product_id=sgx.integer("isvprodid", default=0, high=0xFFFF),
        security_version=sgx.integer("isvsvn", default=0, high=0xFFFF),
        flags=MODE_64 | (DEBUG if sgx.flag("debug", default=False) else 0),
        xfrm=xfrm,
        xfrm_mask=mask,
        miscselect=_EXINFO if sgx.flag("use_exinfo", default=False) else 0,
    )
