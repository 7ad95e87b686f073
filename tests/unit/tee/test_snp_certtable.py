"""The GHCB certificate table and the extended report."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tee_kit import Chip
from test_snp_report import any_report

from kokon.errors import MalformedError
from kokon.tee.evidence import Evidence
from kokon.tee.snp.certtable import decode_extended, decode_table, encode_extended, encode_table
from kokon.tee.snp.report import Report, encode_report

CHAIN = (b"leaf", b"authority", b"root")
OTHER = bytes.fromhex("9f4116cdc5034f5a8f6fae4bce3b4bb5")
CRL = bytes.fromhex("92f81bc358114d3d97ffd19f88dc67ea")


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=3), st.booleans())
def test_table_there_and_back(chain: list[bytes], vlek: bool) -> None:
    assert decode_table(encode_table(tuple(chain), vlek=vlek)) == tuple(chain)


@given(any_report(), st.lists(st.binary(min_size=1, max_size=50), max_size=3))
def test_extended_there_and_back(report: Report, chain: list[bytes]) -> None:
    evidence = Evidence("snp", encode_report(report), tuple(chain))
    assert decode_extended(encode_extended(evidence)) == evidence


@given(st.binary(max_size=300))
def test_any_bytes_are_a_table_or_malformed(data: bytes) -> None:
    try:
        decode_table(data)
    except MalformedError:
        return


@given(st.integers(0, 88), st.integers(1, 255))
def test_a_changed_byte_never_goes_unnoticed(position: int, change: int) -> None:
    table = bytearray(encode_table(CHAIN))
    table[position] ^= change
    try:
        assert decode_table(bytes(table)) != CHAIN
    except MalformedError:
        return


def test_hosts_identifiers_in_their_byte_order() -> None:
    table = encode_table(CHAIN)
    assert table[:16].hex() == "63da758de6644564adc5f4b93be8accd"
    assert table[24:40].hex() == "4ab7b379bbac4fe4a02f05aef327c782"
    assert table[48:64].hex() == "c0b406a4a80349529743" + "3fb6014cd0ae"
    assert encode_table(CHAIN, vlek=True)[:16].hex() == "a8074bc2a25a483eaae639c045a0b8a1"


def test_pages_of_zeros_mean_nothing_and_padding_is_allowed() -> None:
    assert decode_table(b"") == decode_table(bytes(4096)) == ()
    assert decode_table(encode_table(CHAIN).ljust(4096, b"\0")) == CHAIN


def test_revocation_lists_are_passed_over() -> None:
    table = encode_table(CHAIN)
    offset = len(table) + 24
    entries = [struct.unpack_from("<16sII", table, 24 * i) for i in range(3)]
    shifted = b"".join(struct.pack("<16sII", guid, place + 24, size) for guid, place, size in entries)
    with_crl = shifted + struct.pack("<16sII", CRL, offset, 3) + bytes(24) + b"".join(CHAIN) + b"crl"
    assert decode_table(with_crl) == CHAIN
    assert decode_table(with_crl.replace(CRL, OTHER)) == CHAIN


def test_a_revocation_list_of_the_table_comes_with_the_evidence(chip: Chip) -> None:
    report = chip.evidence().report
    table = struct.pack("<16sII", CRL, 48, 3) + bytes(24) + b"crl"
    assert decode_extended(report + table) == Evidence("snp", report, (), {"crl": b"crl"})


def test_entries_in_any_order_are_sorted() -> None:
    table = encode_table(CHAIN)
    entries = [table[24 * index : 24 * index + 24] for index in range(3)]
    assert decode_table(b"".join(reversed(entries)) + table[72:]) == CHAIN


@pytest.mark.parametrize(
    "table",
    [
        b"x",
        encode_table(CHAIN) + b"x",
        encode_table(CHAIN)[:-1],
        encode_table(CHAIN)[24:],
        struct.pack("<16sII", CRL, 72, 1) + struct.pack("<16sII", CRL, 73, 1) + bytes(24) + b"xx",
        struct.pack("<16sII", CRL, 24, 1) * 17,
        bytes.fromhex("63da758de6644564adc5f4b93be8accd") + struct.pack("<II", 48, 0) + bytes(24),
        bytes.fromhex("63da758de6644564adc5f4b93be8accd") + struct.pack("<II", 49, 1) + bytes(24) + b"xy",
        bytes.fromhex("4ab7b379bbac4fe4a02f05aef327c782") + struct.pack("<II", 24, 1) + bytes(24) + b"x",
    ],
)
def test_malformed_tables(table: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        decode_table(table)
    assert caught.value.code == "certificate-table"


def test_bounds(chip: Chip) -> None:
    report = chip.evidence().report
    with pytest.raises(MalformedError) as caught:
        encode_extended(Evidence("snp", report, (b"x",) * 4))
    assert caught.value.code == "certificate-count"
    with pytest.raises(MalformedError) as caught:
        encode_extended(Evidence("snp", report, (bytes(65536),)))
    assert caught.value.code == "evidence-too-large"
    with pytest.raises(MalformedError) as caught:
        decode_extended(report + bytes(65536))
    assert caught.value.code == "evidence-too-large"
    with pytest.raises(MalformedError) as caught:
        decode_extended(report[:-1])
    assert caught.value.code == "report-size"
