"""What is remembered of SNP reports that are alike: it never says more than looking anew would."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence, mark_alike
from kokon.tee.registry import verify
from kokon.tee.snp import verify as subject
from kokon.testing import FakeVendor
from kokon.testing.vendor.authority import Span

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)
VENDOR = FakeVendor(NOW)
SPAN = Span(NOW - DAY, 2 * DAY)
KNOWN = Endorsements(
    VENDOR.snp(span=SPAN).certificates,
    (VENDOR.amd.crl("Milan", frozenset(), VENDOR.lists_span),),
    accepted_simulated=frozenset({VENDOR.amd.ark("Milan").fingerprint}),
)
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")


def report(fill: int = 1, **fields: Any) -> Evidence:
    return VENDOR.snp(report_data=bytes([fill]) * 64, certificates="none", span=SPAN, **fields)


def anew(evidence: Evidence, known: Endorsements, now: datetime) -> Claims:
    """The claims with nothing remembered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "_since", lambda *_: None)
        return verify(evidence, known, now)


def test_reports_of_one_image_on_one_machine_are_alike() -> None:
    one, two = (verify(report(fill), KNOWN, NOW) for fill in (1, 2))
    assert one.alike is not None
    assert one.alike is two.alike
    assert one.report_data != two.report_data
    assert one.canonical != two.canonical
    for fill, claims in ((1, one), (2, two)):
        assert claims == anew(report(fill), KNOWN, NOW)
        assert claims.details["report_data"] == (bytes([fill]) * 64).hex()


@pytest.mark.parametrize(
    "fields", [{"measurement": bytes(48)}, {"host_data": b"\1" * 32}, {"debug": True}, {"report_id_ma": bytes(32)}]
)
def test_all_others_are_not(fields: dict[str, Any]) -> None:
    usual, other = verify(report(), KNOWN, NOW), verify(report(**fields), KNOWN, NOW)
    assert other.alike is not usual.alike
    assert other == anew(report(**fields), KNOWN, NOW)


def test_a_changed_copy_of_the_claims_is_like_none() -> None:
    claims = verify(report(), KNOWN, NOW)
    assert replace(claims, checks=()).alike is None
    assert mark_alike(replace(claims), claims.alike).alike is claims.alike


@given(st.integers(0, 8 * 0x2A0 - 1))
@settings(max_examples=60)
def test_no_changed_bit_profits_from_what_is_remembered(bit: int) -> None:
    good = report()
    assert verify(good, KNOWN, NOW).ok
    raw = bytearray(good.report)
    raw[bit // 8] ^= 1 << bit % 8
    try:
        claims = verify(replace(good, report=bytes(raw)), KNOWN, NOW)
    except MalformedError:
        return
    assert not claims.ok
    assert claims.alike is None


@pytest.mark.parametrize(
    "moment", [SPAN.start, SPAN.end - timedelta(microseconds=1), NOW, SPAN.end, SPAN.start - timedelta(microseconds=1)]
)
def test_a_certificate_ends_to_the_microsecond(moment: datetime) -> None:
    assert verify(report(), KNOWN, NOW).ok
    claims = verify(report(2), KNOWN, moment)
    assert claims == anew(report(2), KNOWN, moment)
    assert claims.ok == (SPAN.start <= moment < SPAN.end)


@given(st.integers(-400, 400), st.booleans())
@settings(max_examples=60)
def test_lists_count_from_when_they_are_there(hours: int, with_lists: bool) -> None:
    known = KNOWN if with_lists else replace(KNOWN, crls=())
    moment = NOW + timedelta(hours=hours)
    verify(report(), known, NOW)
    assert verify(report(3), known, moment) == anew(report(3), known, moment)


def test_a_revoked_authority_is_seen_at_once() -> None:
    assert verify(report(), KNOWN, NOW).ok
    crl = VENDOR.amd.crl("Milan", frozenset({"ask"}), VENDOR.lists_span)
    for known, parts in ((replace(KNOWN, crls=(crl,)), {}), (KNOWN, {"crl": crl})):
        claims = verify(replace(report(), parts=parts), known, NOW)
        assert [check.code for check in claims.failures] == ["certificate-revoked"]
        assert claims.alike is None
