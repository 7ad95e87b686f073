"""AMD's certificate extensions: strict DER, and the pitfalls of real ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.tee.snp import extensions as amd

GOOD = {
    amd.PRODUCT_NAME: b"\x16\x08Milan-B0",
    amd.BOOTLOADER: b"\x02\x01\x03",
    amd.TEE: b"\x02\x01\x00",
    amd.SNP: b"\x02\x01\x08",
    amd.MICROCODE: b"\x02\x02\x00\xdb",
    amd.HARDWARE_ID: bytes(range(64)),
}


def test_a_real_set() -> None:
    chip = amd.parse_extensions(GOOD)
    assert chip.product == "Milan"
    assert chip.tcb == {"bootloader": 3, "tee": 0, "snp": 8, "microcode": 0xDB}
    assert chip.hardware_id == bytes(range(64))
    assert chip.csp is None


def test_turin_and_vlek() -> None:
    turin = amd.parse_extensions(GOOD | {amd.FMC: b"\x02\x01\x01", amd.HARDWARE_ID: bytes(8)})
    assert turin.tcb["fmc"] == 1
    assert turin.hardware_id == bytes(8)
    vlek = {oid: value for oid, value in GOOD.items() if oid != amd.HARDWARE_ID} | {amd.CSP_ID: b"\x16\x02xy"}
    assert amd.parse_extensions(vlek).hardware_id is None
    assert amd.parse_extensions(vlek).csp == "xy"


@pytest.mark.parametrize("size", [64, 8])
def test_wrapped_hardware_id(size: int) -> None:
    wrapped = bytes([4, size]) + bytes(range(size))
    assert amd.parse_extensions(GOOD | {amd.HARDWARE_ID: wrapped}).hardware_id == bytes(range(size))


@pytest.mark.parametrize(
    "change",
    [
        {amd.SNP: b""},
        {amd.SNP: b"\x02\x01"},
        {amd.SNP: b"\x02\x02\x00\x08"},
        {amd.SNP: b"\x02\x01\xdb"},
        {amd.SNP: b"\x02\x02\x01\x00"},
        {amd.SNP: b"\x02\x00"},
        {amd.SNP: b"\x04\x01\x08"},
        {amd.SNP: b"\x02\x01\x08\x00"},
        {amd.PRODUCT_NAME: b"\x16\x00"},
        {amd.PRODUCT_NAME: b"\x16\x01\x07"},
        {amd.PRODUCT_NAME: b"\x0c\x05Milan"},
        {amd.HARDWARE_ID: bytes(63)},
        {amd.HARDWARE_ID: b"\x04\x41" + bytes(64)},
        {amd.CSP_ID: b"xy"},
    ],
)
def test_malformed(change: dict[str, bytes]) -> None:
    with pytest.raises(MalformedError) as caught:
        amd.parse_extensions(GOOD | change)
    assert caught.value.code == "amd-extension"


@pytest.mark.parametrize("oid", [amd.PRODUCT_NAME, amd.BOOTLOADER, amd.TEE, amd.SNP, amd.MICROCODE])
def test_missing(oid: str) -> None:
    with pytest.raises(MalformedError) as caught:
        amd.parse_extensions({key: value for key, value in GOOD.items() if key != oid})
    assert caught.value.code == "amd-extension"


@given(st.integers(0, 255))
def test_integers_there_and_back(value: int) -> None:
    assert amd.parse_extensions(GOOD | {amd.SNP: amd.encode_integer(value)}).tcb["snp"] == value


@given(st.dictionaries(st.sampled_from([*GOOD, amd.FMC, amd.CSP_ID]), st.binary(max_size=70)))
def test_any_bytes(change: dict[str, bytes]) -> None:
    try:
        amd.parse_extensions(GOOD | change)
    except MalformedError:
        return
