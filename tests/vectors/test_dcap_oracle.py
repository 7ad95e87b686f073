"""Our verification beside dcap-qvl's: on every real quote, and on what random changes make of them.

Where dcap-qvl refuses, so must we; what we refuse beyond it is listed by code.
"""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from intel_vectors import Case, cases

from kokon.errors import MalformedError

dcap_qvl = pytest.importorskip(
    "dcap_qvl", reason="DCAP-QVL IS MISSING: Intel verification is not compared with an independent one in this run"
)

STRICTER = {"pem-malformed", "quote-malformed", "certificate-malformed", "chain-broken", "intel-chain-altered"}
"""Codes with which we refuse what the oracle accepts: changes to what stands outside every signature, the text around
certificates and the quote's own copies of authorities' certificates."""


@pytest.fixture(scope="module")
def known(vectors: Path) -> dict[str, Case]:
    return cases(vectors)


def oracle(case: Case, quote: bytes) -> Any:
    """The oracle's report, or its complaint as text."""
    collateral = dcap_qvl.QuoteCollateralV3.from_json(case.collateral)
    try:
        return dcap_qvl.verify(quote, collateral, case.now)
    except ValueError as error:
        return str(error)


def ours(case: Case, quote: bytes) -> tuple[bool, str, tuple[str, ...], set[str | None]]:
    try:
        claims = case.claims(quote)
    except MalformedError as error:
        return False, "", (), {error.code}
    return claims.ok, claims.tcb_status, claims.advisories, {check.code for check in claims.failures}


def test_every_quote(known: dict[str, Case]) -> None:
    assert len(known) > 20
    for case in known.values():
        theirs = oracle(case, case.quote)
        ok, status, advisories, codes = ours(case, case.quote)
        assert ok == (not isinstance(theirs, str)), (case.name, theirs, codes)
        if ok:
            assert status == theirs.status, case.name
            assert sorted(set(advisories)) == sorted(set(theirs.advisory_ids)), case.name


@pytest.mark.parametrize("name", ["v4_dcapqvl", "v5_gotdxguest", "v3_dcapqvl"])
def test_changed_quotes(known: dict[str, Case], name: str) -> None:
    case, dice = known[name], random.Random(name)
    beyond: dict[str, int] = {}
    for _ in range(400):
        quote = bytearray(case.quote)
        for _ in range(dice.choice((1, 1, 1, 2, 8))):
            quote[dice.randrange(len(quote))] ^= 1 << dice.randrange(8)
        theirs = oracle(case, bytes(quote))
        ok, _, _, codes = ours(case, bytes(quote))
        if isinstance(theirs, str):
            assert not ok, theirs
        elif not ok:
            beyond |= {str(code): beyond.get(str(code), 0) + 1 for code in codes}
    assert set(beyond) <= STRICTER


def test_other_times(known: dict[str, Case]) -> None:
    for name in ("v4_dcapqvl", "v3_dcapqvl", "v4_oasis_outofdate"):
        for days in (-2000, -300, -40, -5, -1, 1, 5, 20, 40, 300, 4000):
            case = replace(known[name], now=known[name].now + days * 86400)
            theirs = oracle(case, case.quote)
            ok, _, _, codes = ours(case, case.quote)
            assert ok == (not isinstance(theirs, str)), (name, days, theirs, codes)


def test_other_platforms_collateral(known: dict[str, Case]) -> None:
    for case in known.values():
        for other in known.values():
            if other.tee == case.tee and other.collateral != case.collateral:
                mixed = replace(case, collateral=other.collateral, now=other.now)
                theirs = oracle(mixed, mixed.quote)
                assert ours(mixed, mixed.quote)[0] == (not isinstance(theirs, str)), (case.name, other.name, theirs)
