"""MRTD from firmware metadata, the image digest, QEMU's header, RTMR1 and RTMR2."""

import contextlib
import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.tee.tdx.authenticode import authenticode_digest
from kokon.tee.tdx.bzimage import as_loaded_by_qemu
from kokon.tee.tdx.measure import DirectBoot, cmdline_event, measure_boot, mrtd, replayed, rtmr1_events, rtmr2_events
from kokon.tee.tdx.tdvf import TdvfSection, configuration_volume, parse_tdvf
from unit.tee.measure_kit import AUG, BFV, CFV, PAGE, TDX_SECTIONS, TEMP, bzimage, firmware, pe, tdvf


def test_sections_of_a_firmware() -> None:
    data = firmware()
    sections = parse_tdvf(data)
    assert [section.name for section in sections] == ["BFV", "CFV", "TempMem", "TD_HOB", "PermMem"]
    assert sections[0] == TdvfSection(0, 0xFFFFF000, PAGE, 1, data[PAGE:])
    assert configuration_volume(sections) == data[:PAGE]
    assert configuration_volume(sections[:1]) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        firmware()[:-1],
        firmware(pointer=b"\0"),
        firmware(pointer=struct.pack("<I", 3 * PAGE)),
        firmware(pointer=struct.pack("<I", 4)),
        firmware(tdvf(version=2)),
        firmware(tdvf(())),
        firmware(tdvf(length=17)),
        firmware(tdvf((BFV,) * 3), pointer=struct.pack("<I", 40)),
        firmware(tdvf(((*BFV[:4], 7, 1),))),
        firmware(tdvf(((*BFV[:2], 0xFFFFF001, *BFV[3:]),))),
        firmware(tdvf(((0, 0, 0x1000, 0, 3, 0),))),
        firmware(tdvf(((0, 0, 0x1000, 1 << 40, 3, 0),))),
        firmware(tdvf(((0, 0, 0x1000, 1 << 30, 3, 0), TEMP))),
        firmware(tdvf(((0, 0, (1 << 52) - PAGE, 2 * PAGE, 3, 0),))),
        firmware(tdvf(((*BFV[:5], 5),))),
        firmware(tdvf(((*BFV[:5], 3),))),
        firmware(tdvf(((0, 2 * PAGE, 0, PAGE, 1, 0),))),
        firmware(tdvf(((2 * PAGE, PAGE, 0, PAGE, 1, 0),))),
        firmware(tdvf(((0, 100, 0, PAGE, 0, 1),))),
        firmware(tdvf(((0, PAGE, 0, PAGE, 3, 0),))),
    ],
)
def test_malformed_metadata_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_tdvf(data)
    assert caught.value.code == "tdvf-malformed"


def test_firmware_without_tdx() -> None:
    data = firmware()
    missing = data.replace(bytes.fromhex("35657ae44a989847865e4685a7bf8ec2"), bytes(16))
    with pytest.raises(MalformedError) as caught:
        parse_tdvf(missing)
    assert caught.value.code == "firmware-no-tdx"
    with pytest.raises(MalformedError) as caught:
        parse_tdvf(bytes(2 * PAGE))
    assert caught.value.code == "ovmf-malformed"


@given(st.binary(max_size=200), st.integers(0, 1100))
def test_metadata_never_raise_anything_else(noise: bytes, place: int) -> None:
    data = bytearray(firmware())
    start = len(data) - 1100 + place
    data[start : start + len(noise)] = noise[: len(data) - start]
    try:
        sections = parse_tdvf(bytes(data))
    except MalformedError:
        return
    mrtd(sections)


def by_hand(*, section_first: bool) -> bytes:
    """The definition, step by step: TDH.MEM.PAGE.ADD and TDH.MR.EXTEND of the TDX module."""
    data = firmware()
    add = b"MEM.PAGE.ADD" + bytes(4)
    extend = b"MR.EXTEND" + bytes(7)
    stream = b""
    for offset, _raw, address, size, _kind, attributes in TDX_SECTIONS:
        if attributes & 2:
            continue
        late = b""
        for page in range(address, address + size, PAGE):
            stream += add + page.to_bytes(8, "little") + bytes(104)
            chunks = b""
            if attributes & 1:
                for chunk in range(page, page + PAGE, 256):
                    start = offset + chunk - address
                    chunks += extend + chunk.to_bytes(8, "little") + bytes(104) + data[start : start + 256]
            if section_first:
                late += chunks
            else:
                stream += chunks
        stream += late
    return hashlib.sha384(stream).digest()


def test_mrtd_is_the_modules_definition() -> None:
    two_pages = ((0, 2 * PAGE, 0xFFFFE000, 2 * PAGE, 0, 1), TEMP)
    assert mrtd(parse_tdvf(firmware())) == by_hand(section_first=False)
    assert mrtd(parse_tdvf(firmware()), "section") == by_hand(section_first=True)
    sections = parse_tdvf(firmware(tdvf(two_pages)))
    assert mrtd(sections) != mrtd(sections, "section")


def test_mrtd_covers_contents_addresses_and_order() -> None:
    known = mrtd(parse_tdvf(firmware()))
    assert mrtd(parse_tdvf(firmware(fill=1))) != known
    assert mrtd(parse_tdvf(firmware(tdvf((CFV, BFV, TEMP))))) != known
    moved = (*TEMP[:2], TEMP[2] + PAGE, *TEMP[3:])
    assert mrtd(parse_tdvf(firmware(tdvf((BFV, CFV, moved))))) != known
    assert mrtd((TdvfSection(4, 0x900000, PAGE, AUG[5], b""),)) == hashlib.sha384().digest()


def test_image_digest_leaves_out_what_signing_changes() -> None:
    image = pe()
    known = authenticode_digest(bytes(image))
    directory = 0x80 + 24 + 112 + 32
    covered = image[: 0x80 + 24 + 64] + image[0x80 + 24 + 68 : directory] + image[directory + 8 : 0x700]
    assert known == hashlib.sha384(covered).digest()
    for place in (0x80 + 24 + 64, 0x7FF):
        changed = bytearray(image)
        changed[place] ^= 1
        assert authenticode_digest(bytes(changed)) == known
    for place in (0x40, 0x300, 0x400, 0x6FF):
        changed = bytearray(image)
        changed[place] ^= 1
        assert authenticode_digest(bytes(changed)) != known


def test_image_digest_of_other_kinds() -> None:
    image = pe(((0x600, 0x100), (0x400, 0x200), (0, 0)), magic=0x10B, directories=4)
    covered = image[: 0x80 + 24 + 64] + image[0x80 + 24 + 68 :]
    assert authenticode_digest(bytes(image), "sha256") == hashlib.sha256(covered).digest()
    trailing = pe(((0x400, 0x200),), certificates=(0, 0))
    shorter = pe(((0x400, 0x200),), certificates=(0, 0))[:0x700]
    assert authenticode_digest(bytes(trailing)) != authenticode_digest(bytes(shorter))


@pytest.mark.parametrize(
    "image",
    [
        b"MZ",
        bytes(pe())[:0x90],
        b"XX" + bytes(pe())[2:],
        pe(magic=0x107),
        pe(((0x400, 1),) * 97, headers=0x1800, size=0x2000, certificates=(0, 0)),
        pe(headers=0x900),
        pe(headers=0x180),
        pe(((0x300, 0x100),)),
        pe(((0x400, 0x200), (0x500, 0x100))),
        pe(((0x400, 0x900),), certificates=(0, 0)),
        pe(certificates=(0x600, 0x100)),
        pe(certificates=(0x500, 0x300)),
    ],
)
def test_malformed_images_are_refused(image: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        authenticode_digest(bytes(image))
    assert caught.value.code == "pe-malformed"


@given(st.binary(max_size=64), st.integers(0, 0x300))
def test_images_never_raise_anything_else(noise: bytes, place: int) -> None:
    image = pe()
    image[place : place + len(noise)] = noise
    with contextlib.suppress(MalformedError):
        assert len(authenticode_digest(bytes(image))) == 48


@pytest.mark.parametrize(
    ("protocol", "xload", "memory", "highest"),
    [
        (0x20F, 2, 512 << 20, (512 << 20) - 0x28000 - 1),
        (0x20F, 2, 0xB000_0000 - PAGE, 0xB000_0000 - PAGE - 0x28000 - 1),
        (0x20F, 2, 0xB000_0000, 0x8000_0000 - 0x28000 - 1),
        (0x20F, 2, 64 << 30, 0x8000_0000 - 0x28000 - 1),
        (0x20F, 0, 64 << 30, 0x7FFF_FFFF - 0x28000),
        (0x202, 0, 64 << 30, 0x37FF_FFFF),
    ],
)
def test_header_as_qemu_changes_it(protocol: int, xload: int, memory: int, highest: int) -> None:
    kernel = bzimage(protocol=protocol, xload=xload)
    patched = as_loaded_by_qemu(kernel, 1_000_000, memory)
    changed = [place for place in range(len(kernel)) if kernel[place] != patched[place]]
    assert all(place in (0x210, 0x211, 0x224, 0x225, *range(0x228, 0x22C), *range(0x218, 0x220)) for place in changed)
    assert patched[0x210] == 0xB0
    assert patched[0x211] == 0x81
    assert struct.unpack_from("<H", patched, 0x224) == (0xFE00,)
    assert struct.unpack_from("<I", patched, 0x228) == (0x20000,)
    assert struct.unpack_from("<II", patched, 0x218) == ((highest - 1_000_000) & ~0xFFF, 1_000_000)
    assert as_loaded_by_qemu(kernel, 0, memory)[0x218:0x220] == bytes(8)


@pytest.mark.parametrize(
    ("kernel", "initrd", "memory", "code"),
    [
        (b"", 0, 1 << 30, "kernel-malformed"),
        (bytes(0x2000), 0, 1 << 30, "kernel-malformed"),
        (bzimage(protocol=0x201), 0, 1 << 30, "kernel-malformed"),
        (bzimage(flags=0), 0, 1 << 30, "kernel-malformed"),
        (bzimage(), 0, 0, "memory-range"),
        (bzimage(), 0, 1 << 60, "memory-range"),
        (bzimage(), 1 << 30, 1 << 29, "memory-range"),
    ],
)
def test_kernels_that_qemu_does_not_load(kernel: bytes, initrd: int, memory: int, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        as_loaded_by_qemu(kernel, initrd, memory)
    assert caught.value.code == code


def sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


def test_rtmr1() -> None:
    kernel = bzimage()
    events = rtmr1_events(kernel)
    assert [event.digest for event in events] == [
        authenticode_digest(kernel),
        sha384(b"Calling EFI Application from Boot Option"),
        sha384(bytes(4)),
        sha384(b"Exit Boot Services Invocation"),
        sha384(b"Exit Boot Services Returned with Success"),
    ]
    value = bytes(48)
    for event in events:
        value = sha384(value + event.digest)
    assert replayed(events) == value
    assert len(rtmr1_events(kernel, separator=False)) == 4


def test_rtmr2() -> None:
    events = rtmr2_events("quiet ä", b"initrd")
    assert events[0].digest == sha384("quiet ä initrd=initrd\0".encode("utf-16-le"))
    assert events[1].digest == sha384(b"initrd")
    assert rtmr2_events("quiet", None) == (cmdline_event("quiet", ""),)


@pytest.mark.parametrize("text", ["a\0b", "x" * 4097, "\ud800"])
def test_command_lines_that_cannot_be(text: str) -> None:
    with pytest.raises(MalformedError) as caught:
        cmdline_event(text)
    assert caught.value.code == "cmdline-malformed"


def test_direct_boot_with_and_without_qemus_header() -> None:
    boot = DirectBoot(bzimage(), b"initrd", "quiet", memory=1 << 30)
    patched = measure_boot(boot)["rtmr1"][0].digest
    assert patched == authenticode_digest(as_loaded_by_qemu(bzimage(), 6, 1 << 30))
    plain = DirectBoot(bzimage(), b"initrd", "vga=3")
    assert measure_boot(plain)["rtmr1"][0].digest == authenticode_digest(bzimage())
    with pytest.raises(MalformedError) as caught:
        measure_boot(DirectBoot(bzimage(), None, "vga=3", memory=1 << 30))
    assert caught.value.code == "cmdline-changes-kernel"


@given(st.binary(max_size=0x3000), st.integers(0, 1 << 33), st.integers(0, 1 << 50))
def test_kernels_never_raise_anything_else(noise: bytes, initrd: int, memory: int) -> None:
    kernel = bzimage()
    with contextlib.suppress(MalformedError):
        as_loaded_by_qemu(kernel[:0x206] + noise + kernel[0x206 + len(noise) :], initrd, memory)
