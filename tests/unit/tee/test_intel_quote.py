"""Quotes: every version and body to fields and back, and whatever else bytes may be."""

import struct
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intel_kit import ENCLAVE_REPORT, TD_REPORT, TD_REPORT_1_5, make_quote

from kokon.errors import MalformedError
from kokon.tee.intel.quote import (
    PPID_PLAIN,
    PPID_RSA_3072,
    QUOTE_LIMIT,
    SGX,
    TDX,
    Certification,
    EnclaveReport,
    Header,
    PlatformId,
    Quote,
    TdReport,
    encode_enclave_report,
    encode_quote,
    encode_td_report,
    looks_like_quote,
    parse_enclave_report,
    parse_platform_id,
    parse_quote,
    parse_td_report,
)

KINDS = [
    (ENCLAVE_REPORT, 3),
    (ENCLAVE_REPORT, 4),
    (ENCLAVE_REPORT, 5),
    (TD_REPORT, 4),
    (TD_REPORT, 5),
    (TD_REPORT_1_5, 5),
]
SIZES = {3: 48 + 384, 4: 48 + 584, 5: 54 + 648}


def code(data: bytes) -> str:
    with pytest.raises(MalformedError) as caught:
        parse_quote(data)
    return caught.value.code


def changed(quote: Quote, offset: int, form: str, value: int) -> bytes:
    data = bytearray(encode_quote(quote))
    struct.pack_into(form, data, offset, value)
    return bytes(data)


@pytest.mark.parametrize(("body", "version"), KINDS)
def test_to_bytes_and_back(body: EnclaveReport | TdReport, version: int) -> None:
    quote = make_quote(body, version=version)
    data = encode_quote(quote)
    assert parse_quote(data) == quote
    assert data.startswith(quote.signed)
    padded = parse_quote(data + b"\0" * 70)
    assert padded == replace(quote, padding=b"\0" * 70)
    assert encode_quote(padded) == data
    assert looks_like_quote(data, SGX if isinstance(body, EnclaveReport) else TDX)
    assert not looks_like_quote(data, TDX if isinstance(body, EnclaveReport) else SGX)


def bodies() -> st.SearchStrategy[EnclaveReport | TdReport]:
    def octets(size: int) -> st.SearchStrategy[bytes]:
        return st.binary(min_size=size, max_size=size)

    short = st.integers(0, 0xFFFF)
    enclaves = st.builds(
        EnclaveReport,
        octets(16), octets(4), octets(16), octets(16), octets(32), octets(32), octets(64),
        short, short, short, octets(16), octets(64),
    )  # fmt: skip
    sizes = (16, 48, 48, 8, 8, 8, *(48,) * 8, 64)
    tds = st.builds(TdReport, *map(octets, sizes))
    tds_1_5 = st.builds(TdReport, *map(octets, (*sizes, 16, 48)))
    return enclaves | tds | tds_1_5


@given(bodies())
def test_bodies_to_bytes_and_back(body: EnclaveReport | TdReport) -> None:
    if isinstance(body, EnclaveReport):
        assert parse_enclave_report(encode_enclave_report(body)) == body
    else:
        assert parse_td_report(encode_td_report(body)) == body


@given(
    bodies(),
    st.binary(min_size=64, max_size=64),
    st.binary(max_size=100),
    st.binary(max_size=100),
    st.integers(0, 0xFFFF),
    st.sampled_from((4, 5)),
)
def test_quotes_to_bytes_and_back(
    body: EnclaveReport | TdReport, key: bytes, auth_data: bytes, certificates: bytes, svn: int, version: int
) -> None:
    sgx = isinstance(body, EnclaveReport)
    kind = 1 if sgx else 2 if body.tee_tcb_svn2 is None else 3  # type: ignore[union-attr]
    header = Header(5 if kind == 3 else version, 2, 0 if sgx else 0x81, svn, svn, bytes(16), bytes(20))
    quote = Quote(header, kind, body, key, key, ENCLAVE_REPORT, key, auth_data, Certification(5, certificates))
    assert parse_quote(encode_quote(quote)) == quote


@given(st.binary(max_size=2000))
def test_arbitrary_bytes(data: bytes) -> None:
    assert code(data).startswith("quote-")


QUOTES = {version: make_quote(body, version=version) for body, version in KINDS}
"""The last of each version."""


@given(st.sampled_from((3, 4, 5)), st.integers(0, 1300), st.binary(min_size=1, max_size=6))
def test_bytes_replaced(version: int, offset: int, data: bytes) -> None:
    raw = bytearray(encode_quote(QUOTES[version]))
    raw[offset : offset + len(data)] = data
    with suppress(MalformedError):
        quote = parse_quote(bytes(raw))
        assert encode_quote(quote) + quote.padding == raw


@pytest.mark.parametrize("version", [3, 4, 5])
def test_truncation_at_every_length(version: int) -> None:
    data = encode_quote(QUOTES[version])
    for size in range(len(data)):
        assert code(data[:size]).startswith("quote-")


def test_limits() -> None:
    data = encode_quote(QUOTES[4])
    assert parse_quote(data.ljust(QUOTE_LIMIT, b"\0")).padding
    assert code(data.ljust(QUOTE_LIMIT + 1, b"\0")) == "quote-too-large"


def test_header() -> None:
    for version in (0, 1, 2, 6, 0xFFFF):
        assert code(changed(QUOTES[4], 0, "<H", version)) == "quote-version"
    assert code(changed(QUOTES[4], 2, "<H", 3)) == "quote-key-type"
    assert code(changed(QUOTES[4], 2, "<H", 1)) == "quote-key-type"
    assert code(changed(QUOTES[4], 4, "<I", 1)) == "quote-tee-type"
    assert code(changed(QUOTES[3], 4, "<I", TDX)) == "quote-tee-type"


def test_types_and_sizes_of_bodies() -> None:
    for kind, size in ((1, 384), (2, 648), (3, 584), (4, 648), (0, 0), (3, 0xFFFFFFFF)):
        data = bytearray(encode_quote(QUOTES[5]))
        struct.pack_into("<HI", data, 48, kind, size)
        assert code(bytes(data)) == "quote-malformed"


@pytest.mark.parametrize("offset", [20, 31, 96, 127, 160, 191, 262, 303])
def test_reserved_bytes_of_enclave_reports(offset: int) -> None:
    assert code(changed(QUOTES[3], 48 + offset, "B", 1)) == "quote-reserved"
    after = SIZES[4] + 4 + 128 + 6
    assert code(changed(QUOTES[4], after + offset, "B", 1)) == "quote-reserved"


@pytest.mark.parametrize("version", [3, 4, 5])
def test_lengths_must_agree(version: int) -> None:
    quote = QUOTES[version]
    start = SIZES[version]
    size = struct.unpack_from("<I", encode_quote(quote), start)[0]
    for wrong in (0, size - 1, size + 1, 0xFFFFFFFF):
        assert code(changed(quote, start, "<I", wrong)) == "quote-malformed"
    if version > 3:
        assert code(changed(quote, start + 132, "<H", 5)) == "quote-malformed"
        assert code(changed(quote, start + 134, "<I", size)) == "quote-malformed"


@pytest.mark.parametrize("kind", [0, 6, 7, 0xFFFF])
def test_types_of_certification_data(kind: int) -> None:
    assert code(encode_quote(replace(QUOTES[4], certification=Certification(kind, b"")))) == "quote-malformed"


def test_platform_ids() -> None:
    plain = Certification(PPID_PLAIN, bytes(range(36)))
    found = parse_platform_id(plain)
    assert found == PlatformId(bytes(range(16)), bytes(range(16, 32)), bytes([32, 33]), bytes([34, 35]))
    assert parse_platform_id(Certification(PPID_PLAIN, bytes(34))) == PlatformId(bytes(16), bytes(16), bytes(2), b"")
    encrypted = parse_platform_id(Certification(PPID_RSA_3072, bytes(404)))
    assert encrypted is not None
    assert len(encrypted.ppid) == 384
    assert parse_platform_id(Certification(5, b"")) is None
    for wrong in (0, 33, 35, 37):
        assert code(encode_quote(replace(QUOTES[3], certification=Certification(1, bytes(wrong))))) == "quote-malformed"


def test_sizes_of_bodies_alone() -> None:
    for size in (0, 383, 385):
        with pytest.raises(MalformedError, match="quote-malformed"):
            parse_enclave_report(bytes(size))
    for size in (0, 583, 600, 649):
        with pytest.raises(MalformedError, match="quote-malformed"):
            parse_td_report(bytes(size))
