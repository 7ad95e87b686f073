"""Genuine quotes, changed in every way: no change is accepted that changes what was said."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from intel_vectors import Case, cases

from kokon.errors import MalformedError
from kokon.tee.evidence import Claims

NAMES = ["v3_dcapqvl", "v4_dcapqvl", "v5_gotdxguest"]


@pytest.fixture(scope="module")
def known(vectors: Path) -> dict[str, Case]:
    return cases(vectors)


def body_end(quote: bytes) -> int:
    """Where the signed part of a quote ends and the length of its signature begins."""
    (version,) = struct.unpack_from("<H", quote)
    if version == 5:
        return 54 + int.from_bytes(quote[50:54], "little")
    return 48 + (584 if quote[4] else 384)


def signed_ranges(quote: bytes) -> Iterator[range]:
    """Header and body, signature and key, quoting enclave's report and its signature."""
    end = body_end(quote)
    yield range(end)
    signature = end + 4
    yield range(signature, signature + 128)
    inner = signature + 128 + (6 if quote[0] > 3 else 0)
    yield range(inner, inner + 448)


def judged(case: Case, quote: bytes) -> Claims | None:
    try:
        return case.claims(quote)
    except MalformedError:
        return None


@pytest.mark.parametrize("name", NAMES)
def test_no_bit_of_what_is_signed_can_be_changed(known: dict[str, Case], name: str) -> None:
    case = known[name]
    assert case.claims().ok
    flipped = 0
    for positions in signed_ranges(case.quote):
        for position in positions:
            for bit in range(8):
                quote = bytearray(case.quote)
                quote[position] ^= 1 << bit
                claims = judged(case, bytes(quote))
                assert claims is None or not claims.ok, (position, bit)
                flipped += 1
    assert flipped > 6000


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_signed_does_not_change_the_meaning(known: dict[str, Case], name: str) -> None:
    case = known[name]
    genuine = case.claims()
    start = max(positions.stop for positions in signed_ranges(case.quote))
    accepted = 0
    for position in range(start, len(case.quote)):
        quote = bytearray(case.quote)
        quote[position] ^= 1 << position % 8
        claims = judged(case, bytes(quote))
        if claims is not None and claims.ok:
            accepted += 1
            assert claims.canonical == genuine.canonical, position
            assert (claims.measurement, claims.registers) == (genuine.measurement, genuine.registers)
            assert (claims.tcb_status, claims.advisories) == (genuine.tcb_status, genuine.advisories)
            assert (claims.chip_id, claims.reported_tcb) == (genuine.chip_id, genuine.reported_tcb)
    assert accepted < (len(case.quote) - start) // 4


@pytest.mark.parametrize("name", NAMES)
def test_every_truncation(known: dict[str, Case], name: str) -> None:
    case = known[name]
    for length in range(len(case.quote.rstrip(b"\0")) - 1):
        claims = judged(case, case.quote[:length])
        assert claims is None or not claims.ok, length


@pytest.mark.parametrize("name", NAMES)
def test_padding_has_one_canonical_form(known: dict[str, Case], name: str) -> None:
    case = known[name]
    genuine = case.claims()
    for padding in (b"\0", b"\0" * 3000):
        claims = judged(case, case.quote + padding)
        assert claims is not None
        assert (claims.ok, claims.canonical) == (True, genuine.canonical)


def test_parts_of_another_quote(known: dict[str, Case]) -> None:
    same = [case for case in known.values() if case.tee == "tdx" and case.quote[0] == 4]
    first = known["v4_dcapqvl"]
    for other in same:
        for positions in signed_ranges(first.quote):
            for start in range(positions.start, positions.stop, 16):
                part = slice(start, min(start + 16, positions.stop))
                if first.quote[part] == other.quote[part]:
                    continue
                quote = first.quote[: part.start] + other.quote[part] + first.quote[part.stop :]
                claims = judged(first, quote)
                assert claims is None or not claims.ok, (other.name, part)


def test_nobody_elses_collateral(known: dict[str, Case]) -> None:
    first = known["v4_dcapqvl"]
    fmspc = first.claims().product
    others = [case for case in known.values() if case.tee == first.tee]
    for other in others:
        if other.claims().product != fmspc:
            claims = other.claims(first.quote)
            assert not claims.ok, other.name
