"""The 1184 bytes: every field, every bound, and nothing but MalformedError."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tee_kit import Chip

from kokon.errors import MalformedError
from kokon.tee.snp.report import (
    REPORT_SIZE,
    Report,
    encode_report,
    parse_report,
    product_of,
    tcb_bytes,
    tcb_components,
)


def sized(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


def number(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2**bits - 1)


@st.composite
def any_report(draw: st.DrawFn) -> Report:
    version = draw(st.integers(2, 5))
    turin = draw(st.booleans()) and version >= 3
    names = ("bootloader", "tee", "snp", "microcode", "fmc")
    octet = st.integers(0, 255)

    def tcb() -> bytes:
        return tcb_bytes({name: draw(octet) for name in names}, turin=turin)

    return Report(
        version=version,
        guest_svn=draw(number(32)),
        policy=draw(number(64)),
        family_id=draw(sized(16)),
        image_id=draw(sized(16)),
        vmpl=draw(number(32)),
        signature_algorithm=draw(number(32)),
        current_tcb=tcb(),
        platform_info=draw(number(64)),
        key_info=draw(number(5)),
        report_data=draw(sized(64)),
        measurement=draw(sized(48)),
        host_data=draw(sized(32)),
        id_key_digest=draw(sized(48)),
        author_key_digest=draw(sized(48)),
        report_id=draw(sized(32)),
        report_id_ma=draw(sized(32)),
        reported_tcb=tcb(),
        cpuid=(0x1A if turin else 0x19, draw(octet), draw(octet)) if version >= 3 else (0, 0, 0),
        chip_id=draw(sized(64)),
        committed_tcb=tcb(),
        current_version=(draw(octet), draw(octet), draw(octet)),
        committed_version=(draw(octet), draw(octet), draw(octet)),
        launch_tcb=tcb(),
        launch_mitigations=draw(number(64)) if version == 5 else 0,
        current_mitigations=draw(number(64)) if version == 5 else 0,
        signature=draw(sized(144)),
    )


@given(any_report())
def test_encode_and_parse_are_inverse(report: Report) -> None:
    raw = encode_report(report)
    assert len(raw) == REPORT_SIZE
    assert parse_report(raw) == report


@given(st.binary(max_size=1300) | st.binary(min_size=1184, max_size=1184))
def test_any_bytes_parse_or_are_malformed(raw: bytes) -> None:
    try:
        report = parse_report(raw)
    except MalformedError:
        return
    assert encode_report(report) == raw


@given(any_report(), st.integers(0, REPORT_SIZE - 1), st.integers(1, 255))
def test_a_changed_byte_is_seen_or_malformed(report: Report, position: int, change: int) -> None:
    raw = bytearray(encode_report(report))
    raw[position] ^= change
    try:
        found = parse_report(bytes(raw))
    except MalformedError:
        return
    assert found != report
    assert encode_report(found) == bytes(raw)


@pytest.mark.parametrize("size", [0, 1183, 1185])
def test_size(size: int) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_report(bytes(size))
    assert caught.value.code == "report-size"


@pytest.mark.parametrize("version", [0, 1, 6, 2**32 - 1])
def test_version(chip: Chip, version: int) -> None:
    raw = version.to_bytes(4, "little") + chip.evidence().report[4:]
    with pytest.raises(MalformedError) as caught:
        parse_report(raw)
    assert caught.value.code == "report-version"


@pytest.mark.parametrize(
    "position", [0x4C, 0x48 + 1, 0x3A, 0x182, 0x18B, 0x19F, 0x1EB, 0x1EF, 0x1F8, 0x207, 0x208, 0x29F, 0x330, 0x49F]
)
def test_reserved_bytes_are_zero(chip: Chip, position: int) -> None:
    raw = bytearray(chip.evidence().report)
    raw[position] ^= 0x80
    with pytest.raises(MalformedError) as caught:
        parse_report(bytes(raw))
    assert caught.value.code == "report-reserved"


def test_no_cpuid_before_version_3(chip: Chip) -> None:
    raw = bytearray(chip.evidence().report)
    raw[0], raw[0x188] = 2, 0x19
    with pytest.raises(MalformedError) as caught:
        parse_report(bytes(raw))
    assert caught.value.code == "report-reserved"


@pytest.mark.parametrize(
    "changes",
    [
        {"report_data": b"short"},
        {"policy": 2**64},
        {"cpuid": (256, 0, 0)},
        {"vmpl": -1},
        {"signature": bytes(143)},
        {"family_id": "text"},
    ],
)
def test_a_field_that_does_not_fit(chip: Chip, changes: dict[str, object]) -> None:
    report = replace(chip.guest().template, **changes)  # type: ignore[arg-type]
    with pytest.raises(MalformedError) as caught:
        encode_report(report)
    assert caught.value.code == "report-field"


def test_tcb_layouts() -> None:
    milan = bytes([3, 1, 0, 0, 0, 0, 8, 115])
    assert tcb_components(milan, turin=False) == {"bootloader": 3, "tee": 1, "snp": 8, "microcode": 115}
    turin = bytes([1, 2, 3, 4, 0, 0, 0, 81])
    found = {"fmc": 1, "bootloader": 2, "tee": 3, "snp": 4, "microcode": 81}
    assert tcb_components(turin, turin=True) == found
    with pytest.raises(MalformedError):
        tcb_components(turin, turin=False)


@pytest.mark.parametrize(
    ("version", "cpuid", "product"),
    [
        (2, (0, 0, 0), None),
        (3, (0x19, 0x01, 1), "Milan"),
        (3, (0x19, 0x11, 1), "Genoa"),
        (3, (0x19, 0xA0, 2), "Genoa"),
        (3, (0x19, 0x50, 0), ""),
        (5, (0x1A, 0x02, 1), "Turin"),
        (5, (0x1A, 0x50, 1), ""),
        (3, (0, 0, 0), "Simulated"),
        (3, (0, 1, 0), ""),
    ],
)
def test_product_by_cpuid(chip: Chip, version: int, cpuid: tuple[int, int, int], product: str | None) -> None:
    assert product_of(replace(chip.guest().template, version=version, cpuid=cpuid)) == product


def test_flags(chip: Chip) -> None:
    plain = chip.guest().template
    assert not plain.debug
    assert not plain.migratable
    weak = replace(plain, policy=0xF0000, key_info=0b11111)
    assert weak.debug
    assert weak.migratable
    assert weak.author_key_enabled
    assert weak.chip_key_masked
    assert weak.signing_key == 7
