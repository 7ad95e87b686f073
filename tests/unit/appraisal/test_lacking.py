"""What is worth asking a vendor for, and what is said if it could not be had."""

from dataclasses import replace
from datetime import UTC, datetime

from kokon.appraisal.appraise import appraise
from kokon.appraisal.lacking import check_missing, worth_fetching
from kokon.appraisal.policy import Policy
from kokon.tee.evidence import Claims, Need, failed, not_checked, passed

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
VCEK = Need("vcek", (("product", "Milan"),))
CRL = Need("amd-crl", (("product", "Milan"),), required=False)
CLAIMS = Claims(
    tee="snp",
    simulated=False,
    root="ab",
    product="Milan",
    measurement=b"m" * 48,
    host_data=bytes(32),
    report_data=bytes(64),
    debug=False,
    migratable=False,
    vmpl=0,
    chip_id=b"c" * 64,
    reported_tcb={},
    checks=(passed("size"), passed("revocation of SEV-Milan")),
)


def test_what_is_lacking_is_worth_fetching() -> None:
    assert worth_fetching(CLAIMS) == ()
    assert worth_fetching(replace(CLAIMS, needs=(VCEK, CRL))) == (VCEK, CRL)


def test_simulation_is_asked_about_only_if_it_must_be() -> None:
    assert worth_fetching(replace(CLAIMS, simulated=True, needs=(CRL,))) == ()
    assert worth_fetching(replace(CLAIMS, simulated=True, needs=(VCEK, CRL))) == (VCEK,)


def test_nothing_is_fetched_for_bad_evidence() -> None:
    bad = failed("root", "root-untrusted")
    assert worth_fetching(replace(CLAIMS, checks=(bad,), needs=(VCEK,))) == ()
    excusable = failed("debug", "tdx-debug", waiver="allow_debug")
    assert worth_fetching(replace(CLAIMS, checks=(excusable,), needs=(VCEK,))) == (VCEK,)


def test_what_is_missing_is_one_failed_check_with_a_hint() -> None:
    open_ = replace(CLAIMS, checks=(passed("size"), not_checked("revocation", "crl-missing")), needs=(CRL, CRL))
    (check,) = check_missing(appraise(open_, (), Policy(), NOW))
    assert (check.name, check.outcome, check.code) == ("endorsements", "failed", "endorsement-missing")
    assert check.found == "without amd-crl"
    assert check.hint
    assert "--endorsements" in check.hint
    unmet = not_checked("fetching amd-crl", "endorsement-unavailable", "plug the cable in", found="no route")
    (check,) = check_missing(appraise(replace(open_, checks=(*open_.checks, unmet)), (), Policy(), NOW), "other")
    assert (check.name, check.hint) == ("other", "plug the cable in")
    assert check_missing(appraise(open_, (), Policy(revocation="if-available"), NOW)) == ()


def test_bad_evidence_is_not_said_to_miss_something() -> None:
    bad = replace(CLAIMS, checks=(failed("root", "root-untrusted"),), needs=(VCEK,))
    assert check_missing(appraise(bad, (), Policy(), NOW)) == ()
