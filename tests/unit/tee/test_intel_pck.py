"""The SGX extension of PCK certificates."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intel_kit import FMSPC, INSTANCE, PPID, member, pck_extension, tlv

from kokon.errors import MalformedError
from kokon.tee.intel.pck import EXTENSION_LIMIT, PckExtension, parse_pck_extension


def refused(der: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_pck_extension(der)
    assert caught.value.code == "pck-extension"


def test_all_members() -> None:
    assert parse_pck_extension(pck_extension((0, 1, 127, 128, 255, *range(11)), pce_svn=256)) == PckExtension(
        ppid=PPID,
        components=(0, 1, 127, 128, 255, *range(11)),
        pce_svn=256,
        cpu_svn=bytes((0, 1, 127, 128, 255, *range(11))),
        pce_id=bytes(2),
        fmspc=FMSPC,
        sgx_type=1,
        platform_instance_id=INSTANCE,
        dynamic_platform=True,
        cached_keys=False,
        smt_enabled=True,
    )


def test_a_processor_certificate_has_fewer() -> None:
    found = parse_pck_extension(pck_extension(instance=None, flags=()))
    assert found.platform_instance_id is None
    assert (found.dynamic_platform, found.cached_keys, found.smt_enabled) == (None, None, None)


def test_unknown_members_are_passed_over() -> None:
    extended = tlv(0x30, pck_extension()[4:], member("9", tlv(4, b"new")))
    assert parse_pck_extension(extended) == parse_pck_extension(pck_extension())


@given(
    st.tuples(*[st.integers(0, 255)] * 16),
    st.integers(0, 0xFFFF),
    st.binary(min_size=6, max_size=6),
    st.integers(0, 2),
)
def test_every_value(components: tuple[int, ...], pce_svn: int, fmspc: bytes, sgx_type: int) -> None:
    found = parse_pck_extension(pck_extension(components, pce_svn=pce_svn, fmspc=fmspc, sgx_type=sgx_type))
    assert (found.components, found.pce_svn, found.fmspc, found.sgx_type) == (components, pce_svn, fmspc, sgx_type)


@given(st.binary(max_size=300))
def test_arbitrary_bytes(der: bytes) -> None:
    refused(der)


@given(st.integers(0, len(pck_extension()) - 1), st.integers(0, 255))
def test_a_byte_replaced(offset: int, value: int) -> None:
    der = bytearray(pck_extension())
    der[offset] = value
    with suppress(MalformedError):
        parse_pck_extension(bytes(der))


def test_truncation_at_every_length() -> None:
    der = pck_extension()
    for size in range(len(der)):
        refused(der[:size])


def test_not_der() -> None:
    der = pck_extension()
    refused(der + b"\0")
    refused(der + der)
    refused(bytes(EXTENSION_LIMIT + 1))
    refused(b"\x30\x80" + der[4:] + b"\0\0")
    refused(b"\x30\x83\0" + der[2:])
    refused(tlv(0x30, member("1", tlv(4, PPID)), member("1", tlv(4, PPID))))
    refused(tlv(0x30, tlv(0x30, tlv(6, b"\x55\x1d\x0f"), tlv(4, PPID))))
    refused(tlv(0x30, tlv(0x30, tlv(4, PPID))))


@pytest.mark.parametrize("content", [b"", b"\x00\x05", b"\xff", b"\x01\x00", b"\x00\x00\x00\x05"])
def test_numbers_have_one_form_and_a_range(content: bytes) -> None:
    tcb = [member(f"2.{index}", tlv(2, content if index == 3 else b"\x05")) for index in range(1, 18)]
    members = [
        member("1", tlv(4, PPID)),
        member("2", tlv(0x30, *tcb, member("2.18", tlv(4, bytes(16))))),
        member("3", tlv(4, bytes(2))),
        member("4", tlv(4, FMSPC)),
        member("5", tlv(0x0A, b"\0")),
    ]
    refused(tlv(0x30, *members))


def test_values_of_a_wrong_kind() -> None:
    refused(pck_extension(fmspc=bytes(5)))
    refused(pck_extension(pce_id=bytes(3)))
    refused(pck_extension(instance=bytes(15)))
    refused(pck_extension().replace(tlv(1, b"\xff"), tlv(1, b"\x01")))
    refused(pck_extension().replace(tlv(0x0A, b"\x01"), tlv(2, b"\x01")))
    refused(tlv(0x30, pck_extension()[4 + len(member("1", tlv(4, PPID))) :]))
