"""The attacker's mutations are what they say, complete, and refused by the verifiers."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from kokon.tee.evidence import Claims, Evidence
from kokon.tee.registry import verify
from kokon.testing import FakeVendor
from kokon.testing.attacker import (
    accepted,
    extensions,
    flips,
    parts_of,
    splices,
    swaps,
    truncations,
    with_part,
    zeroed,
)
from kokon.testing.vendor.eventlog import CC_BOOT
from kokon.testing.vendor.ratls import RatlsOptions

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
VENDOR = FakeVendor(NOW)
SMALL = Evidence("snp", b"\0\1\2", (b"leaf", b"root"), {"crl": b"list"})

PIECES = {
    "snp": (VENDOR.snp(), VENDOR.snp(chip="second", measurement=b"\1" * 48)),
    "tdx": (VENDOR.tdx(log=True), VENDOR.tdx(log=True, events=CC_BOOT[:-1])),
    "sgx": (VENDOR.sgx(), VENDOR.sgx(mrenclave=b"\1" * 32)),
    "nitro": (VENDOR.nitro(), VENDOR.nitro(nonce=b"other")),
    "tpm": (VENDOR.tpm(), VENDOR.tpm(machine="second", extra_data=b"other")),
    "az-snp-vtpm": (VENDOR.azure_snp(), VENDOR.azure_snp(machine="second")),
    "az-tdx-vtpm": (VENDOR.azure_tdx(), VENDOR.azure_tdx(machine="second")),
    "ratls": (
        VENDOR.ratls(options=RatlsOptions(form="dice")),
        VENDOR.ratls(options=RatlsOptions(form="dice"), key="b"),
    ),
}


def verifier(evidence: Evidence) -> Callable[[Evidence], Claims]:
    held = VENDOR.endorsements(evidence)
    return lambda found: verify(found, held, NOW)


def test_parts() -> None:
    assert parts_of(SMALL) == {
        "report": b"\0\1\2", "certificate 0": b"leaf", "certificate 1": b"root", "crl": b"list"
    }  # fmt: skip
    assert with_part(SMALL, "report", b"x").report == b"x"
    assert with_part(SMALL, "certificate 1", b"x").certificates == (b"leaf", b"x")
    assert with_part(SMALL, "crl", b"x").parts == {"crl": b"x"}
    assert SMALL.parts == {"crl": b"list"}


def test_flips_reach_every_bit_once() -> None:
    found = list(flips(SMALL))
    assert len({mutant.evidence.report for mutant in found}) == 24
    assert all(bin(int.from_bytes(m.evidence.report) ^ 0x000102).count("1") == 1 for m in found)
    assert [mutant.what for mutant in flips(SMALL, "crl", start=1, end=2, step=3)] == [
        "crl, bit 8 flipped", "crl, bit 11 flipped", "crl, bit 14 flipped"
    ]  # fmt: skip


def test_truncations_extensions_and_zeros() -> None:
    assert [mutant.evidence.report for mutant in truncations(SMALL)] == [b"", b"\0", b"\0\1"]
    assert [mutant.evidence.report for mutant in extensions(SMALL, tails=(b"x",))] == [b"\0\1\2x"]
    assert [mutant.evidence.report for mutant in zeroed(SMALL, size=2)] == [b"\0\0\2", b"\0\1\0"]


def test_swaps_and_splices() -> None:
    other = Evidence("snp", b"\0\5\6", (b"leaf", b"ROOT"), {"crl": b"LIST"})
    assert [mutant.what for mutant in swaps(SMALL, other)] == [
        "report of other evidence", "certificate 1 of other evidence", "crl of other evidence", "without crl"
    ]  # fmt: skip
    assert [mutant.evidence.report for mutant in splices(SMALL, other, size=1)] == [b"\0\5\2", b"\0\1\6"]


def test_a_verifier_that_accepts_is_found_out() -> None:
    genuine = verifier(PIECES["snp"][0])(PIECES["snp"][0])
    assert accepted(flips(SMALL, end=1), lambda _evidence: genuine) == [
        f"report, bit {bit} flipped" for bit in range(8)
    ]
    assert accepted(flips(SMALL), lambda _evidence: genuine, genuine.canonical) == []


@pytest.mark.parametrize("tee", PIECES)
def test_no_mutation_is_accepted(tee: str) -> None:
    """A sample of each kind; the sweep over every bit of genuine evidence is `tests/vectors`'."""
    evidence, other = PIECES[tee]
    check = verifier(evidence)
    genuine = check(evidence)
    assert genuine.ok, genuine.failures
    size = len(evidence.report)
    tampered = [
        *flips(evidence, step=8 * (size // 60) + 3),
        *truncations(evidence, step=size // 20),
        *extensions(evidence),
        *zeroed(evidence, size=48),
        *splices(evidence, other, size=32),
    ]
    for part in evidence.parts:
        tampered += flips(evidence, part, step=8 * (len(evidence.parts[part]) // 12) + 3)
    if tee.startswith("az-"):
        # No quote at all is another kind of evidence: the hardware report alone, with its own report data.
        tampered = [mutant for mutant in tampered if mutant.what != "report, cut to 0 bytes"]
    assert accepted(tampered, check, genuine.canonical) == []


@pytest.mark.parametrize("tee", [name for name in PIECES if name not in ("nitro", "ratls", "sgx")])
def test_parts_of_two_machines_do_not_mix(tee: str) -> None:
    evidence, other = PIECES[tee]
    held = VENDOR.endorsements(evidence, omit=("leaf",))

    def check(found: Evidence) -> Claims:
        return verify(found, held, NOW)

    genuine = check(evidence)
    mixed = [mutant for mutant in swaps(evidence, other) if not mutant.what.startswith("without")]
    assert mixed
    assert accepted(mixed, check, genuine.canonical) == []


def test_exceptions_are_findings() -> None:
    def broken(_evidence: Evidence) -> Claims:
        raise IndexError

    with pytest.raises(IndexError):
        accepted(truncations(replace(SMALL, parts={})), broken)
