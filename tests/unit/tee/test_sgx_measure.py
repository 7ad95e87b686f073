"""MRENCLAVE, SGXS files, Gramine's layout."""

import contextlib
import hashlib
import struct
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.tee.sgx import gramine
from kokon.tee.sgx.elf import parse_elf
from kokon.tee.sgx.gramine import gramine_mrenclave, gramine_sigstruct, parse_manifest
from kokon.tee.sgx.measure import (
    Add,
    Create,
    EnclaveHash,
    Extend,
    Step,
    encode_sgxs,
    mrenclave,
    parse_sgxs,
)
from unit.tee.measure_kit import PAGE, elf

STEPS: tuple[Step, ...] = (
    Create(0x10000, 1),
    Add(0, 0x100),
    Extend(0, b"t" * 256),
    Extend(0x300, b"u" * 256, measured=False),
    Add(0x1000, 0x203),
    Extend(0x1F00, b"v" * 256),
)


def test_mrenclave_is_the_manuals_definition() -> None:
    stream = struct.pack("<8sIQ44x", b"ECREATE", 1, 0x10000)
    stream += struct.pack("<8sQQ40x", b"EADD", 0, 0x100) + struct.pack("<8sQ48x", b"EEXTEND", 0) + b"t" * 256
    stream += struct.pack("<8sQQ40x", b"EADD", 0x1000, 0x203)
    stream += struct.pack("<8sQ48x", b"EEXTEND", 0x1F00) + b"v" * 256
    assert mrenclave(STEPS) == hashlib.sha256(stream).digest()


def test_a_whole_page_is_sixteen_chunks() -> None:
    one, many = EnclaveHash(0x4000, 1), EnclaveHash(0x4000, 1)
    data = bytes(range(256)) * 16
    one.add_page(0x1000, 0x203, data)
    many.add(0x1000, 0x203)
    for start in range(0, PAGE, 256):
        many.extend(0x1000 + start, data[start : start + 256])
    assert one.value == many.value
    many.add_page(0x2000, 0x203, data, measured=False)
    one.add(0x2000, 0x203)
    assert one.value == many.value


def test_an_sgxs_file_is_its_steps() -> None:
    data = encode_sgxs(STEPS)
    assert parse_sgxs(data) == STEPS
    assert mrenclave(parse_sgxs(data)) == mrenclave(STEPS)


CHUNKS = st.lists(st.tuples(st.integers(0, 15), st.booleans(), st.binary(min_size=256, max_size=256)), max_size=3)


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), CHUNKS), max_size=4))
def test_sgxs_round_trip(pages: list[tuple[int, list[tuple[int, bool, bytes]]]]) -> None:
    steps: list[Step] = [Create(0x10000, 2)]
    for index, (flags, chunks) in enumerate(pages):
        steps.append(Add(index * PAGE, flags))
        steps += [
            Extend(index * PAGE + 256 * place, data, measured)
            for place, (measured, data) in {chunk[0]: chunk[1:] for chunk in chunks}.items()
        ]
    assert parse_sgxs(encode_sgxs(steps)) == tuple(steps)


@given(st.binary(max_size=700), st.integers(0, 700))
def test_sgxs_parsing_raises_nothing_else(noise: bytes, place: int) -> None:
    data = encode_sgxs(STEPS)
    for candidate in (noise, data[:place] + noise + data[place + len(noise) :]):
        with contextlib.suppress(MalformedError):
            mrenclave(parse_sgxs(candidate))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "sgxs-malformed"),
        (encode_sgxs(STEPS)[:-1], "sgxs-malformed"),
        (encode_sgxs(STEPS)[:63], "sgxs-malformed"),
        (encode_sgxs(STEPS[1:]), "sgxs-malformed"),
        (encode_sgxs((STEPS[0], STEPS[0])), "sgxs-malformed"),
        (encode_sgxs((STEPS[0], STEPS[2])), "sgxs-malformed"),
        (encode_sgxs((*STEPS[:3], STEPS[2])), "sgxs-malformed"),
        (encode_sgxs((*STEPS, Extend(0x2000, bytes(256)))), "sgxs-malformed"),
        (encode_sgxs((*STEPS, Extend(0x1001, bytes(256)))), "sgxs-malformed"),
        (encode_sgxs((STEPS[0], STEPS[4], STEPS[1])), "sgxs-malformed"),
        (encode_sgxs((STEPS[0], Add(1, 0x203))), "sgxs-malformed"),
        (encode_sgxs(STEPS[:1]) + b"EREMOVE\0" + bytes(56), "sgxs-malformed"),
        (encode_sgxs(STEPS[:1])[:-1] + b"\1", "sgxs-malformed"),
        (b"UNSIZED\0" + bytes(56), "sgxs-unsized"),
    ],
)
def test_sgxs_files_that_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_sgxs(data)
    assert caught.value.code == code


def test_sgxs_files_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kokon.tee.sgx.measure.STREAM_LIMIT", 100)
    with pytest.raises(MalformedError) as caught:
        parse_sgxs(encode_sgxs(STEPS))
    assert caught.value.code == "sgxs-malformed"


@pytest.mark.parametrize(
    "steps",
    [
        (),
        (Add(0, 0),),
        (Create(0x3000, 1),),
        (Create(PAGE, 1),),
        (Create(0x4000, 0),),
        (Create(0x4000, 1), Add(0x4000, 0)),
        (Create(0x4000, 1), Add(5, 0)),
        (Create(0x4000, 1), Extend(0x4000, bytes(256))),
        (Create(0x4000, 1), Extend(0, bytes(255))),
    ],
)
def test_enclaves_that_cannot_be(steps: tuple[Step, ...]) -> None:
    with pytest.raises(MalformedError) as caught:
        mrenclave(steps)
    assert caught.value.code == "enclave-layout"
    with pytest.raises(MalformedError):
        EnclaveHash(0x4000, 1).add_page(0, 0, b"")


MANIFEST = b"""
sgx.enclave_size = "4M"
sgx.max_threads = 2
sgx.isvprodid = 7
sgx.isvsvn = 3
sgx.trusted_files = [ { uri = "file:/app", sha256 = "aa" }, "file:/plain" ]
sgx.cpu_features.avx512 = "required"
sgx.cpu_features.amx = "disabled"
"""


def gramine_by_hand(manifest: bytes, loader: bytes, size: int, threads: int, *, heap: bool) -> bytes:
    """The layout as Gramine's sources describe it, written out for the loader of the kit."""
    text = manifest + b"\0"
    top = size - -(-len(text) // PAGE) * PAGE
    areas = [(top, size - top, 0x201, text)]
    ssa = top - threads * 8 * PAGE
    tcs, tls = ssa - threads * PAGE, ssa - 2 * threads * PAGE
    stacks = [tls - (t + 1) * 64 * PAGE for t in range(threads)]
    signals = [stacks[-1] - (t + 1) * 16 * PAGE for t in range(threads)]
    base = signals[-1] - 5 * PAGE
    tcs_pages, tls_pages = b"", b""
    for t in range(threads):
        frame = ssa + t * 8 * PAGE
        page = bytearray(PAGE)
        struct.pack_into("<QIIQ", page, 16, frame, 0, 2, base + 0x40)
        struct.pack_into("<QII", page, 56, tls + t * PAGE, 0xFFF, 0xFFF)
        tcs_pages += page
        page = bytearray(PAGE)
        struct.pack_into("<QQ", page, 0, tls + t * PAGE, 0xBADBADBADBAD)
        struct.pack_into("<QQQ", page, 272, size, tcs + t * PAGE, stacks[t] + 64 * PAGE)
        struct.pack_into("<QQ", page, 304, signals[t], signals[t] + 16 * PAGE)
        struct.pack_into("<QQ", page, 328, frame, frame + 4 * PAGE - 184)
        struct.pack_into("<QQQ", page, 416, len(text), 0x10000, base)
        tls_pages += page
    areas += [(ssa, threads * 8 * PAGE, 0x203, b""), (tcs, threads * PAGE, 0x100, tcs_pages)]
    areas += [(tls, threads * PAGE, 0x203, tls_pages)]
    areas += [(stack, 64 * PAGE, 0x203, b"") for stack in stacks]
    areas += [(signal, 16 * PAGE, 0x203, b"") for signal in signals]
    areas += [(base, PAGE, 0x205, loader[:0x200])]
    areas += [(base + PAGE, 4 * PAGE, 0x203, bytes(0x234) + loader[0x234:0x334])]
    running = EnclaveHash(size, 4)
    for address, length, flags, data in areas:
        for start in range(0, length, PAGE):
            running.add_page(address + start, flags, data[start : start + PAGE].ljust(PAGE, b"\0"))
    for address in range(0x10000, base, PAGE) if heap else ():
        running.add(address, 0x207)
    return running.value


def test_gramine_enclave() -> None:
    found = gramine_mrenclave(parse_manifest(MANIFEST), elf())
    assert found == gramine_by_hand(MANIFEST, elf(), 4 << 20, 2, heap=True)
    edmm = MANIFEST + b"sgx.edmm_enable = true\n"
    assert gramine_mrenclave(parse_manifest(edmm), elf()) == gramine_by_hand(edmm, elf(), 4 << 20, 2, heap=False)


def test_manifest_and_its_defaults() -> None:
    manifest = parse_manifest(MANIFEST)
    assert (manifest.enclave_size, manifest.max_threads, manifest.edmm) == (4 << 20, 2, False)
    assert manifest.trusted_files == (("file:/app", "aa"), ("file:/plain", ""))
    bare = parse_manifest(b"")
    assert (bare.enclave_size, bare.max_threads) == (256 << 20, 4)
    assert parse_manifest(b"sgx.edmm_enable = true").enclave_size == 1 << 40
    assert parse_manifest(b"sgx.enclave_size = '0x100000'").enclave_size == 1 << 20
    assert parse_manifest(b"sgx.enclave_size = '16K'").enclave_size == 16 << 10


@pytest.mark.parametrize(
    ("manifest", "code"),
    [
        (b"\xff", "manifest-malformed"),
        (b"= 3", "manifest-malformed"),
        (b"a." * 3000 + b"a = 1", "manifest-malformed"),
        (b"sgx.enclave_size = 'much'", "manifest-malformed"),
        (b"sgx.enclave_size = ''", "manifest-malformed"),
        (b"sgx.enclave_size = '3M'", "manifest-malformed"),
        (b"sgx.enclave_size = '4096G'", "manifest-malformed"),
        (b"sgx.max_threads = 0", "field-range"),
        (b"sgx.max_threads = 'x'", "field-type"),
        (b"sgx = 3", "field-type"),
        (b"sgx.trusted_files = [3]", "field-type"),
    ],
)
def test_manifests_that_are_refused(manifest: bytes, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_manifest(manifest)
    assert caught.value.code == code


def test_manifests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gramine, "MANIFEST_LIMIT", 3)
    with pytest.raises(MalformedError) as caught:
        parse_manifest(b"    ")
    assert caught.value.code == "manifest-malformed"


@given(st.binary(max_size=80))
def test_manifest_parsing_raises_nothing_else(noise: bytes) -> None:
    for data in (noise, b"sgx." + noise, MANIFEST + noise):
        with contextlib.suppress(MalformedError):
            parse_manifest(data)


@pytest.mark.parametrize(
    ("manifest", "loader"),
    [
        (b"sgx.enclave_size = '1M'", elf()),
        (b"sgx.enclave_size = '512G'", elf()),
        (MANIFEST, elf(((1, 5, 0, 0x400000, 0x200, 0x200),))),
    ],
)
def test_gramine_enclaves_that_do_not_fit(manifest: bytes, loader: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        gramine_mrenclave(parse_manifest(manifest), loader)
    assert caught.value.code == "enclave-layout"


def test_gramine_sigstruct() -> None:
    made = gramine_sigstruct(parse_manifest(MANIFEST), b"m" * 32, date(2026, 11, 23))
    assert (made.product_id, made.security_version, made.debug) == (7, 3, False)
    assert (made.flags, made.miscselect) == (4, 0)
    assert made.xfrm == 0xE7
    assert made.xfrm_mask == 0xFFFFFFFFFFFFFFFF
    plain = gramine_sigstruct(parse_manifest(b""), b"m" * 32, date(2026, 11, 23))
    assert (plain.xfrm, plain.xfrm_mask) == (3, 0xFFFFFFFFFFF9FF1B)
    loose = parse_manifest(b"[sgx]\ndebug = true\nuse_exinfo = true")
    assert gramine_sigstruct(loose, b"m" * 32, date(2026, 11, 23)) == replace(plain, flags=6, miscselect=1)
    with pytest.raises(MalformedError) as caught:
        gramine_sigstruct(parse_manifest(b"sgx.cpu_features.avx = 'maybe'"), b"m" * 32, date(2026, 11, 23))
    assert caught.value.code == "manifest-malformed"


def test_elf_segments() -> None:
    loader = parse_elf(elf(((6, 4, 0, 0, 8, 8), (1, 5, 0, 0, 0x200, 0x300))))
    assert loader.entry == 0x40
    assert [(s.address, len(s.data), s.memory, s.flags) for s in loader.segments] == [(0, 0x200, 0x300, 5)]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF\x01" + elf()[5:],
        elf(entry_size=32),
        elf(((1, 5, 0, 0, 1, 1),) * 65, size=0x2000),
        elf(())[:64],
        elf(size=0)[:100],
        elf(((1, 5, 0, 0, 0x900, 0x900),)),
        elf(((1, 5, 0, 0, 0x200, 0x100),)),
        elf(((1, 5, 0, 1 << 40, 0x200, 0x200),)),
        elf(((1, 5, 1, 0, 0x200, 0x200),)),
    ],
)
def test_loaders_that_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_elf(data)
    assert caught.value.code == "enclave-elf"


@given(st.binary(max_size=120), st.integers(0, 200))
def test_loaders_never_raise_anything_else(noise: bytes, place: int) -> None:
    data = elf()
    with contextlib.suppress(MalformedError):
        parse_elf(data[:place] + noise + data[place + len(noise) :])
