"""Claims against reference values and policy: every reason has a code and an aspect."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from kokon.appraisal.appraise import appraise
from kokon.appraisal.policy import Policy, ReferenceValues
from kokon.appraisal.result import ASPECTS, tier, worst
from kokon.tee.evidence import Claims, failed, not_checked, passed

NOW = datetime(2026, 11, 23, tzinfo=UTC)
KNOWN = bytes(range(48))
DOCUMENT = bytes(range(32))
REFERENCE = ReferenceValues((bytes(48), KNOWN), NOW + timedelta(days=1), DOCUMENT)
CLAIMS = Claims(
    tee="snp",
    simulated=False,
    root="ab" * 32,
    product="Milan",
    measurement=KNOWN,
    host_data=DOCUMENT,
    report_data=bytes(64),
    debug=False,
    migratable=False,
    vmpl=0,
    chip_id=bytes(64),
    reported_tcb={"bootloader": 3, "tee": 0, "snp": 8, "microcode": 115},
    checks=(passed("report-signature"), not_checked("revocation", "snp-revocation-not-checked")),
)


def codes(claims: Claims, reference: ReferenceValues = REFERENCE, policy: Policy | None = None) -> list[str | None]:
    result = appraise(claims, reference, policy or Policy(), NOW)
    assert result.ok == (not result.failures)
    return [check.code for check in result.failures]


def test_affirming() -> None:
    result = appraise(CLAIMS, REFERENCE, Policy(minimum_tcb={"snp": 8, "microcode": 100}), NOW)
    assert result.ok
    assert result.status == "affirming"
    assert result.tee == "snp"
    assert not result.simulated
    assert set(result.vector) == set(ASPECTS)
    assert result.vector["hardware"] == result.vector["runtime-opaque"] == 2
    assert result.checks[: len(CLAIMS.checks)] == CLAIMS.checks


@pytest.mark.parametrize(
    ("changes", "code", "aspect", "status"),
    [
        ({"measurement": bytes(47) + b"\1"}, "measurement-unknown", "executables", "warning"),
        ({"host_data": bytes(32)}, "host-data-mismatch", "configuration", "contraindicated"),
        ({"debug": True}, "debug-enabled", "configuration", "contraindicated"),
        ({"migratable": True}, "migration-allowed", "configuration", "contraindicated"),
        ({"vmpl": 1}, "vmpl-not-zero", "configuration", "contraindicated"),
        ({"reported_tcb": {"snp": 7}}, "tcb-too-low", "hardware", "warning"),
        ({"reported_tcb": {}}, "tcb-too-low", "hardware", "warning"),
    ],
)
def test_each_reason(changes: dict[str, object], code: str, aspect: str, status: str) -> None:
    claims = replace(CLAIMS, **changes)  # type: ignore[arg-type]
    result = appraise(claims, REFERENCE, Policy(minimum_tcb={"snp": 8}), NOW)
    assert [check.code for check in result.failures] == [code]
    assert result.status == status
    assert tier(result.vector[aspect]) == status
    assert not result.ok


def test_components_are_compared_one_by_one() -> None:
    claims = replace(CLAIMS, reported_tcb={"bootloader": 9, "snp": 7, "microcode": 99})
    policy = Policy(minimum_tcb={"bootloader": 3, "snp": 8, "microcode": 100})
    assert codes(claims, policy=policy) == ["tcb-too-low", "tcb-too-low"]


def test_reference_values_end() -> None:
    end = REFERENCE.not_after
    assert end is not None
    assert appraise(CLAIMS, REFERENCE, Policy(), end).ok
    late = appraise(CLAIMS, REFERENCE, Policy(), end + timedelta(seconds=1))
    assert [check.code for check in late.failures] == ["reference-expired"]
    assert not late.ok
    assert codes(CLAIMS, replace(REFERENCE, not_after=None)) == []


def test_no_reference_value_no_trust() -> None:
    assert codes(CLAIMS, ReferenceValues(())) == ["measurement-unknown"]


def test_any_document_if_none_is_named() -> None:
    assert codes(replace(CLAIMS, host_data=bytes(32)), replace(REFERENCE, host_data=None)) == []


def test_what_policy_allows() -> None:
    weak = replace(CLAIMS, debug=True, migratable=True)
    result = appraise(weak, REFERENCE, Policy(allow_debug=True, allow_migration=True), NOW)
    assert result.ok
    assert result.vector["configuration"] == 3
    assert result.vector["runtime-opaque"] == 0


def test_failed_verification_is_never_affirming() -> None:
    forged = replace(CLAIMS, checks=(failed("report-signature", "snp-signature-invalid"),))
    for claims in (forged, replace(CLAIMS, checks=())):
        result = appraise(claims, REFERENCE, Policy(), NOW)
        assert result.status == "contraindicated"
        assert result.vector["hardware"] == result.vector["instance-identity"] == 97
        assert result.vector["runtime-opaque"] == 0
        assert not result.ok


def test_simulation_claims_nothing_about_hardware() -> None:
    result = appraise(replace(CLAIMS, simulated=True), REFERENCE, Policy(), NOW)
    assert result.ok
    assert result.simulated
    assert result.vector["hardware"] == result.vector["runtime-opaque"] == 0


def test_all_reasons_at_once() -> None:
    worst_case = replace(
        CLAIMS, measurement=bytes(10), host_data=b"", debug=True, migratable=True, vmpl=3, reported_tcb={}
    )
    found = appraise(
        worst_case,
        replace(REFERENCE, not_after=NOW - timedelta(days=1)),
        Policy(minimum_tcb={"snp": 1}),
        NOW,
    )
    assert [check.code for check in found.failures] == [
        "measurement-unknown",
        "reference-expired",
        "host-data-mismatch",
        "debug-enabled",
        "migration-allowed",
        "vmpl-not-zero",
        "tcb-too-low",
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "none"),
        (1, "none"),
        (-1, "none"),
        (2, "affirming"),
        (31, "affirming"),
        (-2, "affirming"),
        (-32, "affirming"),
        (32, "warning"),
        (95, "warning"),
        (-33, "warning"),
        (-96, "warning"),
        (96, "contraindicated"),
        (-97, "contraindicated"),
    ],
)
def test_tiers(value: int, expected: str) -> None:
    assert tier(value) == expected
    assert worst({"a": 0, "b": value}) == expected


def test_nothing_claimed() -> None:
    assert worst({}) == "none"
