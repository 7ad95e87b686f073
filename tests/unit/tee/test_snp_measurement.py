"""Pages, hashes, VMSA and firmware metadata of a measured launch."""

import hashlib
import struct
import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.tee.snp.hashes import KernelHashes, cmdline_digest, kernel_hashes
from kokon.tee.snp.measure import measure_sev, measure_snp
from kokon.tee.snp.ovmf import Ovmf, Section, parse_ovmf
from kokon.tee.snp.pages import PAGE, ZERO, LaunchDigest
from kokon.tee.snp.vmsa import cpu_signature, cpuid_signature, vmsa_page

FOOTER = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
HASHES = uuid.UUID("7255371f-3a3b-4b04-927b-1da6efa8d454").bytes_le
RESET = uuid.UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e").bytes_le
METADATA = uuid.UUID("dc886566-984a-4798-a75e-5585a7bf67cc").bytes_le
SECTIONS = ((0x800000, 0x2000, 1), (0x80D000, 0x1000, 2), (0x80E000, 0x1000, 3), (0x810000, 0x1000, 0x10))


def entry(guid: bytes, data: bytes) -> bytes:
    return data + struct.pack("<H16s", len(data) + 18, guid)


def metadata(sections: tuple[tuple[int, int, int], ...] = SECTIONS, magic: bytes = b"ASEV") -> bytes:
    body = b"".join(struct.pack("<III", *section) for section in sections)
    return struct.pack("<4sIII", magic, 16 + len(body), 1, len(sections)) + body


def image(*, entries: bytes | None = None, block: bytes | None = None, footer_length: int | None = None) -> bytes:
    block = metadata() if block is None else block
    if entries is None:
        entries = (
            entry(METADATA, struct.pack("<I", 512))
            + entry(HASHES, struct.pack("<II", 0x810C00, 0x400))
            + entry(RESET, struct.pack("<I", 0x80B004))
        )
    length = len(entries) + 18 if footer_length is None else footer_length
    table = entries + struct.pack("<H16s", length, FOOTER)
    end = PAGE - 32
    data = bytearray(PAGE)
    data[PAGE - 512 : PAGE - 512 + len(block)] = block
    data[end - len(table) : end] = table
    return bytes(data)


def test_firmware_metadata() -> None:
    firmware = parse_ovmf(image())
    assert firmware.address == 2**32 - PAGE
    assert firmware.sections == tuple(Section(*section) for section in SECTIONS)
    assert firmware.hashes_address == 0x810C00
    assert firmware.reset_eip == 0x80B004


def test_firmware_without_anything_in_its_table() -> None:
    firmware = parse_ovmf(image(entries=b""))
    assert firmware.sections == ()
    assert firmware.hashes_address is None
    assert firmware.reset_eip is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(PAGE),
        image()[:-1],
        image(footer_length=4000),
        image(footer_length=17),
        image(entries=entry(RESET, b"\0" * 3)),
        image(entries=entry(RESET, b"\0" * 4) * 2),
        image(entries=b"\0" * 18),
        image(entries=b"\0" * 7 + entry(RESET, b"\0" * 4)),
        image(entries=entry(METADATA, struct.pack("<I", 5000))),
        image(entries=entry(METADATA, struct.pack("<I", 8))),
        image(block=metadata(magic=b"TDVF")),
        image(block=metadata(((0x800001, 0x1000, 1),))),
        image(block=metadata(((0x800000, 0, 1),))),
        image(block=metadata(((0x800000, 0x2000_0000, 1),))),
        image(entries=entry(METADATA, struct.pack("<I", 20)), block=b""),
    ],
)
def test_malformed_firmware(data: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_ovmf(data)
    assert caught.value.code == "ovmf-malformed"


def test_metadata_cut_off_at_the_end() -> None:
    data = bytearray(image(entries=entry(METADATA, struct.pack("<I", 20))))
    data[-20:-4] = struct.pack("<4sIII", b"ASEV", 28, 1, 1)
    with pytest.raises(MalformedError):
        parse_ovmf(bytes(data))


@given(st.integers(0, PAGE - 1), st.integers(1, 255))
def test_changed_firmware_parses_or_is_malformed(position: int, change: int) -> None:
    data = bytearray(image())
    data[position] ^= change
    try:
        parse_ovmf(bytes(data))
    except MalformedError:
        return


def small(**changes: object) -> Ovmf:
    return replace(parse_ovmf(image()), **changes)  # type: ignore[arg-type]


KERNEL = kernel_hashes(b"kernel", b"initrd", "console=ttyS0")


def measured(firmware: Ovmf | None = None, hashes: KernelHashes | None = KERNEL, **changes: object) -> bytes:
    arguments: dict[str, object] = {"vcpus": 1, "signature": 0x800F12} | changes
    return measure_snp(firmware or small(), hashes, **arguments)  # type: ignore[arg-type]


def test_everything_measured_changes_the_digest() -> None:
    digests = {
        measured(),
        measured(vcpus=2),
        measured(signature=1),
        measured(features=0x21),
        measured(hashes=None),
        measured(vmm="ec2"),
        measured(vmm="ec2-2023"),
        measured(vmm="gce"),
        measured(small(data=bytes(PAGE))),
        measured(small(reset_eip=1), vcpus=2),
        measured(hashes=kernel_hashes(b"Kernel", b"initrd", "console=ttyS0")),
        measured(hashes=kernel_hashes(b"kernel", b"Initrd", "console=ttyS0")),
        measured(hashes=kernel_hashes(b"kernel", b"initrd", "console=ttyS1")),
    }
    assert len(digests) == 13


@pytest.mark.parametrize(
    ("firmware", "changes", "code"),
    [
        (small(hashes_address=None), {}, "firmware-no-hashes"),
        (small(hashes_address=0x820000), {}, "firmware-no-hashes"),
        (small(sections=(Section(0x800000, PAGE, 1),)), {}, "firmware-no-hashes"),
        (small(sections=()), {}, "firmware-no-sections"),
        (small(sections=(Section(0x800000, PAGE, 9),)), {"hashes": None}, "firmware-section-unknown"),
        (small(reset_eip=None), {"vcpus": 2}, "firmware-no-reset"),
        (small(), {"vcpus": 0}, "vcpus-range"),
        (small(), {"vcpus": 5000}, "vcpus-range"),
        (small(), {"vmm": "other"}, "vmm-unknown"),
        (small(hashes_address=0x810FF0), {}, "measure-hashes-place"),
        (small(address=1), {}, "measure-unaligned"),
    ],
)
def test_launches_that_cannot_be_measured(firmware: Ovmf, changes: dict[str, object], code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        measured(firmware, **changes)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_the_table_covers_the_command_line_with_its_nul() -> None:
    table = KERNEL.table()
    assert len(table) == 176
    digests = [table[18 + 50 * i + 18 : 18 + 50 * i + 50] for i in range(3)]
    contents = (b"console=ttyS0\0", b"initrd", b"kernel")
    assert digests == [hashlib.sha256(content).digest() for content in contents]
    assert table[16:18] == (168).to_bytes(2, "little")
    assert kernel_hashes(b"", None, None) == kernel_hashes(b"", b"", "")


@pytest.mark.parametrize("text", ["a\0b", "x" * 5000, "\ud800"])
def test_impossible_command_lines(text: str) -> None:
    with pytest.raises(MalformedError) as caught:
        cmdline_digest(text)
    assert caught.value.code == "cmdline-malformed"


@pytest.mark.parametrize(("address", "size"), [(1, PAGE), (0, 1), (1 << 52, PAGE), (-PAGE, PAGE)])
def test_only_whole_pages(address: int, size: int) -> None:
    with pytest.raises(MalformedError) as caught:
        LaunchDigest().add(address, bytes(size))
    assert caught.value.code == "measure-unaligned"
    with pytest.raises(MalformedError):
        LaunchDigest().add_unmeasured(ZERO, address, size)


def test_order_and_kind_of_pages_count() -> None:
    def digest(*addresses: int) -> bytes:
        launch = LaunchDigest()
        for address in addresses:
            launch.add(address, bytes(PAGE))
        return launch.value

    assert digest(0, PAGE) != digest(PAGE, 0)
    both = LaunchDigest()
    both.add(0, bytes(2 * PAGE))
    assert both.value == digest(0, PAGE)
    other = LaunchDigest()
    other.add_unmeasured(ZERO, 0)
    assert other.value != digest(0)


def test_cpu_models() -> None:
    assert cpu_signature("EPYC-Milan") == cpu_signature("EPYC-Milan-v2") == 0xA00F11
    assert cpu_signature("EPYC-Genoa-v1") == cpuid_signature(25, 17, 0) == 0xA10F10
    assert cpu_signature("EPYC-Turin") == cpuid_signature(26, 0, 0) == 0xB00F00
    assert cpuid_signature(6, 6, 3) == 0x663
    assert cpu_signature("EPYC-v4") == cpu_signature("EPYC-IBPB") == 0x800F12
    with pytest.raises(MalformedError) as caught:
        cpu_signature("Pentium")
    assert caught.value.code == "cpu-model-unknown"
    for numbers in ((-1, 0, 0), (0x10F, 0, 0), (25, 256, 0), (25, 1, 16)):
        with pytest.raises(MalformedError):
            cpuid_signature(*numbers)


def test_launches_of_plain_sev_and_sev_es() -> None:
    firmware = small()
    assert measure_sev(firmware, None) == hashlib.sha256(firmware.data).digest()
    assert measure_sev(firmware, KERNEL) == hashlib.sha256(firmware.data + KERNEL.table()).digest()
    page = vmsa_page(0xFFFFFFF0, 0, 0x800F12)
    assert measure_sev(firmware, None, vcpus=1, signature=0x800F12) == hashlib.sha256(firmware.data + page).digest()
    for changes, code in (
        ({"hashes_address": None}, "firmware-no-hashes"),
        ({"reset_eip": None}, "firmware-no-reset"),
    ):
        with pytest.raises(MalformedError) as caught:
            measure_sev(small(**changes), KERNEL, vcpus=2)
        assert caught.value.code == code
    with pytest.raises(MalformedError) as caught:
        measure_sev(firmware, None, vcpus=0)
    assert caught.value.code == "vcpus-range"


def test_registers_of_the_first_cpu() -> None:
    page = vmsa_page(0xFFFFFFF0, 1, 0xA00F11)
    assert len(page) == PAGE
    assert struct.unpack_from("<HHIQ", page, 0x10) == (0xF000, 0x9B, 0xFFFF, 0xFFFF0000)
    assert struct.unpack_from("<Q", page, 0x178) == (0xFFF0,)
    assert struct.unpack_from("<Q", page, 0x310) == (0xA00F11,)
