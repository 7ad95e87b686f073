"""Revocation lists: current, old, forged, missing."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from unit_x509 import NOW, Authority

from kokon.errors import MalformedError
from kokon.tee.revocation import CRL_LIMIT, check_path_revoked, check_revoked, parse_crl

ROOT = Authority("root")
LEAF = Authority("leaf", ROOT, ca=False, serial=42)
DAY = timedelta(days=1)


def outcome(*lists: object, required: bool = True) -> tuple[str, str | None]:
    check = check_revoked(LEAF.certificate, ROOT.certificate, lists, NOW, required=required)  # type: ignore[arg-type]
    return check.outcome, check.code


def test_on_no_list() -> None:
    assert outcome(ROOT.crl(1, 2)) == ("passed", None)
    assert outcome(ROOT.crl()) == ("passed", None)


def test_on_the_list() -> None:
    assert outcome(ROOT.crl(42)) == ("failed", "certificate-revoked")


def test_once_revoked_always_revoked() -> None:
    old = ROOT.crl(42, start=NOW - 9 * DAY, end=NOW - 8 * DAY)
    assert outcome(old, ROOT.crl(), required=False) == ("failed", "certificate-revoked")


def test_no_list() -> None:
    assert outcome() == ("not-checked", "crl-missing")
    assert outcome(Authority("another").crl(42), required=False) == ("not-checked", "crl-missing")


def test_only_an_old_or_a_future_list() -> None:
    old, future = ROOT.crl(start=NOW - 9 * DAY, end=NOW), ROOT.crl(start=NOW + DAY, end=NOW + 9 * DAY)
    for crl in (old, future):
        assert outcome(crl) == ("failed", "crl-expired")
        assert outcome(crl, required=False) == ("not-checked", "crl-expired")
    assert outcome(old, ROOT.crl()) == ("passed", None)


def test_a_forged_list_neither_clears_nor_revokes() -> None:
    forger = Authority("root")
    assert outcome(ROOT.crl(42, signer=forger)) == ("failed", "crl-untrusted")
    assert outcome(ROOT.crl(42, signer=forger), ROOT.crl()) == ("passed", None)


def test_who_may_not_sign_lists() -> None:
    weak = replace(ROOT, lists=False)
    check = check_revoked(LEAF.certificate, weak.certificate, [ROOT.crl()], NOW, required=True)
    assert check.code == "crl-untrusted"


def test_a_path_is_checked_by_each_issuer() -> None:
    middle = Authority("middle", ROOT)
    leaf = Authority("leaf", middle, ca=False, serial=42)
    path = (leaf.certificate, middle.certificate, ROOT.certificate)
    found = list(check_path_revoked(path, [ROOT.crl(), middle.crl(42)], NOW, required=True))
    assert [check.code for check in found] == ["certificate-revoked", None]


def test_lists_that_are_none() -> None:
    der = ROOT.crl(1).der
    partial = x509.IssuingDistributionPoint(None, None, True, False, None, False, False)
    for data in (b"", der[:-1], der + b"\0", bytes(CRL_LIMIT + 1)):
        with pytest.raises(MalformedError, match="crl-malformed"):
            parse_crl(data)
    with pytest.raises(MalformedError, match="crl-malformed"):
        ROOT.crl(extra=((partial, True),))
    with pytest.raises(MalformedError, match="crl-malformed"):
        ROOT.crl(extra=((x509.DeltaCRLIndicator(3), True),))


def test_no_bit_of_a_list_can_be_changed() -> None:
    der = ROOT.crl(41).der
    for position in range(len(der) * 8):
        flipped = bytearray(der)
        flipped[position // 8] ^= 1 << position % 8
        try:
            crl = parse_crl(bytes(flipped))
        except MalformedError:
            continue
        assert not crl.signed_by(ROOT.certificate), position


@given(st.binary(max_size=400))
def test_any_bytes_are_a_list_or_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_crl(data)
