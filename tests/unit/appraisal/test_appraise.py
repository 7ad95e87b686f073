"""Claims against reference values and policy: every reason has a code and an aspect."""

from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from appraisal_kit import (
    ALL,
    AZURE_SNP,
    AZURE_TDX,
    CRL_NEED,
    KNOWN,
    NITRO,
    NOW,
    PCR,
    REFERENCE,
    RTMR,
    SGX,
    SGX_REFERENCE,
    SNP,
    TDX,
    TDX_REFERENCE,
    TPM,
    TPM_REFERENCE,
    changed,
)
from hypothesis import given
from hypothesis import strategies as st

from kokon.appraisal.appraise import appraise
from kokon.appraisal.platform import platforms
from kokon.appraisal.policy import STATUSES, Policy, ReferenceValues, Tolerance
from kokon.appraisal.reference import register_name
from kokon.appraisal.result import AttestationResult
from kokon.appraisal.vector import ASPECTS, tier, worst
from kokon.tee.evidence import Claims, Need, failed, not_checked, passed

LATER = NOW + timedelta(days=1)


def run(claims: Claims, reference: Any = REFERENCE, policy: Policy | None = None, now: datetime = NOW) -> Any:
    result = appraise(claims, reference, policy or Policy(), now)
    assert isinstance(result, AttestationResult)
    assert result.ok == (not result.failures and not result.missing)
    assert set(result.vector) == set(ASPECTS)
    assert result.reasons == result.failures
    assert result.checks == result.verified + result.appraised
    return result


def codes(claims: Claims, reference: Any = REFERENCE, policy: Policy | None = None) -> list[str | None]:
    return [check.code for check in run(claims, reference, policy).failures]


@pytest.mark.parametrize("kind", ALL)
def test_affirming(kind: str) -> None:
    claims, reference = ALL[kind]
    result = run(claims, reference)
    assert result.ok, list(result.failures)
    assert result.status == "affirming"
    assert result.tee == kind
    assert not result.simulated
    assert result.vector["hardware"] == result.vector["configuration"] == result.vector["instance-identity"] == 2
    assert result.vector["runtime-opaque"] == (0 if kind in ("tpm", "nitro") else 2)
    assert result.vector["executables"] == 3
    assert {result.vector[name] for name in ("file-system", "storage-opaque", "sourced-data")} == {0}
    assert result.checks[: len(claims.checks)] == claims.checks


@pytest.mark.parametrize("kind", ALL)
def test_simulation_claims_nothing_about_hardware(kind: str) -> None:
    claims, reference = ALL[kind]
    claims = changed(claims, simulated=True, parts=tuple(replace(part, simulated=True) for part in claims.parts))
    result = run(claims, reference)
    assert result.ok
    assert result.simulated
    assert result.vector["hardware"] == result.vector["runtime-opaque"] == 0


@pytest.mark.parametrize(
    ("changes", "code", "aspect", "value"),
    [
        ({"measurement": bytes(47) + b"\1"}, "measurement-unknown", "executables", 33),
        ({"host_data": bytes(32)}, "host-data-mismatch", "configuration", 96),
        ({"debug": True}, "debug-enabled", "configuration", 96),
        ({"debug": True}, "debug-enabled", "runtime-opaque", 96),
        ({"migratable": True}, "migration-allowed", "configuration", 96),
        ({"vmpl": 1}, "vmpl-not-zero", "configuration", 96),
        ({"reported_tcb": {"snp": 7}}, "tcb-too-low", "hardware", 32),
        ({"reported_tcb": {}}, "tcb-too-low", "hardware", 32),
        ({"tcbs": {"committed": {"snp": 7}, "launch": {"snp": 8}}}, "tcb-too-low", "hardware", 32),
        ({"tcbs": {"committed": {"snp": 8}, "launch": {"snp": 7}}}, "tcb-too-low", "hardware", 32),
    ],
)
def test_each_reason_on_snp(changes: dict[str, Any], code: str, aspect: str, value: int) -> None:
    result = run(changed(SNP, **changes), policy=Policy(minimum_tcb={"snp": 8}))
    assert [check.code for check in result.failures] == [code]
    assert result.vector[aspect] == value
    assert result.status == tier(value)
    assert all(check.hint for check in result.failures)


@pytest.mark.parametrize(
    ("claims", "policy", "code", "aspect", "value"),
    [
        (SNP, Policy(require_smt_off=True), "smt-enabled", "configuration", 96),
        (TDX, Policy(require_smt_off=True), "smt-enabled", "configuration", 96),
        (changed(SNP, details={"platform_smt_enabled": None}), Policy(require_smt_off=True), "smt-enabled", None, 96),
        (changed(SNP, reported_tcb={"snp": 7}), Policy(require_current_tcb=True), "tcb-not-current", "hardware", 32),
        (changed(SNP, tcbs={}), Policy(require_current_tcb=True), "tcb-not-current", "hardware", 32),
        (SNP, Policy(minimum_tcb_by_product={"Milan": {"snp": 9}}), "tcb-too-low", "hardware", 32),
        (SNP, Policy(minimum_tcb={"fmc": 1}), "tcb-too-low", "hardware", 32),
        (SNP, Policy(only_tees=("tdx", "sgx")), "tee-not-allowed", "hardware", 96),
        (SNP, Policy(only_chips=(bytes(64), b"\1\2")), "chip-not-allowed", "instance-identity", 97),
        (NITRO, Policy(only_chips=(b"\1\2",)), "chip-not-allowed", "instance-identity", 97),
        (changed(SNP, chip_id=bytes(64)), Policy(only_chips=(bytes(64),)), "chip-not-allowed", None, 97),
        (AZURE_SNP, Policy(only_chips=(b"\1\2",)), "chip-not-allowed", "instance-identity", 97),
        (changed(TDX, details={"is_dynamic_platform": True}), Policy(), "platform-dynamic", "configuration", 96),
        (changed(SGX, details={"is_cached_keys": True}), Policy(), "platform-keys-cached", "configuration", 96),
        (changed(TDX, tcb_status="OutOfDate"), Policy(), "tcb-status-refused", "hardware", 32),
        (changed(TDX, tcb_status=""), Policy(), "tcb-status-refused", "hardware", 32),
        (changed(TDX, advisories=("INTEL-SA-00615",)), Policy(), "advisory-refused", "hardware", 32),
        (TDX, Policy(minimum_evaluation=18), "tcb-evaluation-too-low", "hardware", 32),
        (
            changed(TDX, details={"tcb_eval_num": None}),
            Policy(minimum_evaluation=1),
            "tcb-evaluation-too-low",
            None,
            32,
        ),
        (TDX, Policy(minimum_tcb_date=date(2024, 3, 14)), "tcb-date-too-old", "hardware", 32),
        (
            changed(TDX, details={"tcb_date": None}),
            Policy(minimum_tcb_date=date(2024, 3, 1)),
            "tcb-date-too-old",
            None,
            32,
        ),
        (TDX, Policy(require_event_log=True), "event-log-missing", "configuration", 36),
        (TPM, Policy(required_pcrs=(0, 24)), "pcr-not-quoted", "configuration", 36),
        (changed(TPM, needs=(Need("ak", required=False),)), Policy(), "tpm-ak-unbound", "instance-identity", 97),
        (changed(NITRO, details={"timestamp": 0}), Policy(), "evidence-too-old", "instance-identity", 97),
        (changed(NITRO, details={"timestamp": None}), Policy(), "evidence-too-old", "instance-identity", 97),
        (changed(NITRO, details={"timestamp": 2**63}), Policy(), "evidence-from-the-future", "instance-identity", 97),
    ],
)
def test_each_reason_of_policy(claims: Claims, policy: Policy, code: str, aspect: str | None, value: int) -> None:
    result = run(claims, ALL[claims.tee][1], policy)
    assert {check.code for check in result.failures} == {code}
    assert aspect is None or result.vector[aspect] == value
    assert result.status == tier(value)
    assert all(check.hint and check.expected and check.found for check in result.failures)


@pytest.mark.parametrize(
    ("claims", "policy"),
    [
        (changed(SNP, debug=True), Policy(allow_debug=True)),
        (changed(SNP, migratable=True), Policy(allow_migration=True)),
        (changed(SNP, vmpl=2), Policy(allow_vmpl_nonzero=True)),
        (changed(TDX, details={"is_dynamic_platform": True}), Policy(allow_dynamic_platform=True)),
        (changed(TDX, details={"is_cached_keys": True}), Policy(allow_cached_keys=True)),
        (changed(TPM, needs=(Need("ak", required=False),)), Policy(allow_unbound_ak=True)),
    ],
)
def test_what_policy_allows(claims: Claims, policy: Policy) -> None:
    result = run(claims, ALL[claims.tee][1], policy)
    assert result.ok
    assert result.vector["configuration"] == 3
    assert result.vector["runtime-opaque"] == (0 if claims.debug or claims.tee == "tpm" else 2)
    assert any("allowed by policy" in (check.found or "") for check in result.appraised)


@pytest.mark.parametrize(
    ("claims", "policy"),
    [
        (changed(SNP, details={"platform_smt_enabled": False}), Policy(require_smt_off=True)),
        (SNP, Policy(require_current_tcb=True, minimum_tcb={"snp": 8})),
        (SNP, Policy(minimum_tcb={"snp": 9}, minimum_tcb_by_product={"Milan": {"snp": 8}, "Genoa": {"snp": 99}})),
        (SNP, Policy(only_tees=("snp",), only_chips=(bytes(range(64)),))),
        (changed(SNP, chip_id=b"\1\2".ljust(64, b"\0")), Policy(only_chips=(b"\1\2",))),
        (TDX, Policy(minimum_evaluation=17, minimum_tcb_date=date(2024, 3, 13))),
        (changed(TDX, details={"is_dynamic_platform": None, "is_cached_keys": None}), Policy()),
        (TPM, Policy(required_pcrs=())),
        (changed(NITRO, details={"timestamp": 0}), Policy(maximum_age=None)),
        (changed(SNP, simulated=True), Policy(only_simulated_roots=("ab" * 32,))),
        (SNP, Policy(only_simulated_roots=("cd" * 32,))),
    ],
)
def test_demands_that_are_met(claims: Claims, policy: Policy) -> None:
    assert codes(claims, ALL[claims.tee][1], policy) == []


def test_what_is_not_asked_for_is_shown_as_not_checked() -> None:
    anything = run(NITRO, ALL["nitro"][1], Policy(maximum_age=None))
    assert {check.code for check in anything.appraised if check.outcome == "not-checked"} == {"age-not-limited"}
    signed = run(SGX, SGX_REFERENCE)
    assert {check.code for check in signed.appraised if check.outcome == "not-checked"} == {"measurement-not-named"}


def test_simulated_roots_may_be_listed() -> None:
    simulated = changed(SNP, simulated=True)
    assert codes(simulated, policy=Policy(only_simulated_roots=("cd" * 32,))) == ["simulated-root-not-allowed"]


def test_what_the_hardware_behind_a_vtpm_says_counts() -> None:
    for changes, code in (
        ({"debug": True}, "debug-enabled"),
        ({"vmpl": 1}, "vmpl-not-zero"),
        ({"reported_tcb": {"snp": 1}}, "tcb-too-low"),
    ):
        claims = changed(AZURE_SNP, parts=(changed(SNP, **changes),))
        assert codes(claims, TPM_REFERENCE, Policy(minimum_tcb={"snp": 8})) == [code]
    claims = changed(AZURE_TDX, parts=(changed(TDX, tcb_status="OutOfDate"),))
    assert codes(claims, TPM_REFERENCE) == ["tcb-status-refused"]


def test_components_are_compared_one_by_one() -> None:
    claims = changed(SNP, reported_tcb={"bootloader": 9, "snp": 7, "microcode": 99}, tcbs={})
    policy = Policy(minimum_tcb={"bootloader": 3, "snp": 8, "microcode": 100})
    assert codes(claims, policy=policy) == ["tcb-too-low", "tcb-too-low"]
    unknown = [check.code for check in run(claims, policy=policy).checks if check.outcome == "not-checked"]
    assert unknown == ["tcb-not-reported", "tcb-not-reported"]


def test_reference_values_may_demand_a_tcb() -> None:
    reference = replace(REFERENCE, minimum_tcb={"snp": 9})
    assert codes(SNP, reference) == ["tcb-too-low"] * 3
    assert codes(SNP, reference, Policy(minimum_tcb={"snp": 3})) == ["tcb-too-low"] * 3


@pytest.mark.parametrize("status", STATUSES)
def test_tolerated_statuses_end(status: str) -> None:
    claims = changed(TDX, tcb_status=status, advisories=("INTEL-SA-1", "INTEL-SA-2"))
    policy = Policy(
        tolerated_statuses=(Tolerance(status, LATER, "no firmware yet"),),
        tolerated_advisories=(Tolerance("INTEL-SA-1", LATER, "no SMT"), Tolerance("INTEL-SA-2", LATER, "patched")),
    )
    result = run(claims, TDX_REFERENCE, policy)
    assert result.ok
    assert "no firmware yet" in str(result.appraised)
    assert run(claims, TDX_REFERENCE, policy, LATER - timedelta(microseconds=1)).ok
    late = run(claims, TDX_REFERENCE, policy, LATER)
    assert [check.code for check in late.failures] == ["tolerance-expired"] * 3
    assert codes(changed(TDX, tcb_status="Other"), TDX_REFERENCE, policy) == ["tcb-status-refused"]
    assert codes(changed(claims, advisories=("INTEL-SA-3",)), TDX_REFERENCE, policy) == ["advisory-refused"]


def test_a_status_that_collateral_would_tell_is_no_failure_but_no_success() -> None:
    need = Need("tcb-info", (("fmspc", "b0c06f000000"), ("tee", "tdx")))
    result = run(changed(TDX, tcb_status="", needs=(need,)), TDX_REFERENCE)
    assert result.failures == ()
    assert result.missing == (need,)
    assert result.status == "contraindicated"
    assert "tcb-status-unknown" in {check.code for check in result.checks}
    assert result.vector["hardware"] == 97
    assert result.vector["runtime-opaque"] == 0


@pytest.mark.parametrize(
    ("claims", "kind"),
    [
        (changed(SNP, needs=(CRL_NEED,)), "amd-crl"),
        (changed(SNP, checks=SNP.checks[:1]), "amd-crl"),
        (changed(SNP, checks=(SNP.checks[0], not_checked("revocation of SEV-Milan", "crl-missing"))), "amd-crl"),
        (changed(TDX, checks=TDX.checks[:1]), "root-crl"),
        (changed(SGX, needs=(Need("pck-crl", (("ca", "platform"),), required=False),)), "pck-crl"),
        (changed(AZURE_SNP, parts=(changed(SNP, needs=(CRL_NEED,)),)), "amd-crl"),
    ],
)
def test_missing_revocation_lists_are_needs(claims: Claims, kind: str) -> None:
    reference = ALL[claims.tee][1]
    result = run(claims, reference)
    assert result.failures == ()
    assert [need.kind for need in result.missing] == [kind]
    assert result.missing[0].required
    assert not result.ok
    assert result.status == "contraindicated"
    assert "revocation-unchecked" in {check.code for check in result.checks}
    assert run(claims, reference, Policy(revocation="if-available")).ok
    simulated = changed(claims, simulated=True, parts=tuple(replace(part, simulated=True) for part in claims.parts))
    assert "revocation-unchecked" not in {check.code for check in run(simulated, reference).checks}


def test_excused_failures_keep_their_code() -> None:
    refusal = failed("td-attributes", "tdx-debug", expected="off", found="DEBUG", waiver="allow_debug")
    claims = changed(TDX, checks=(*TDX.checks, refusal), debug=True)
    assert codes(claims, TDX_REFERENCE) == ["tdx-debug", "debug-enabled"]
    assert run(claims, TDX_REFERENCE).vector["hardware"] == 2
    result = run(claims, TDX_REFERENCE, Policy(allow_debug=True))
    assert result.ok
    excused = result.verified[-1]
    assert (excused.outcome, excused.code) == ("passed", "tdx-debug")
    assert excused.found == "DEBUG, allowed by policy (allow_debug)"
    assert result.vector["configuration"] == 3
    assert result.claims.failures == (refusal,)


@pytest.mark.parametrize(
    "waiver", ["allow_sept_ve_off", "allow_service_td", "allow_nothing", "grants", "minimum_tcb", None]
)
def test_only_switches_excuse(waiver: str | None) -> None:
    claims = changed(TDX, checks=(*TDX.checks, failed("x", "tdx-x", waiver=waiver)))
    policy = Policy(allow_debug=True, allow_sept_ve_off=True, minimum_tcb={"snp": 1})
    assert codes(claims, TDX_REFERENCE, policy) == ([] if waiver == "allow_sept_ve_off" else ["tdx-x"])


def test_what_verification_leaves_to_policy_is_refused_unless_granted() -> None:
    """On Azure a TD with SEPT_VE_DISABLE off is not refused by verification."""
    left = replace(not_checked("tdx: td-attributes", "tdx-sept-ve"), waiver="allow_sept_ve_off")
    claims = changed(AZURE_TDX, checks=(*AZURE_TDX.checks, left))
    assert codes(claims, TPM_REFERENCE) == ["tdx-sept-ve"]
    assert run(claims, TPM_REFERENCE).vector["configuration"] == 96
    assert run(claims, TPM_REFERENCE, Policy(allow_sept_ve_off=True)).ok


def test_evidence_in_a_certificate_is_judged_once_for_each_binding() -> None:
    carried = changed(TDX, parts=(TDX,))
    result = run(carried, TDX_REFERENCE)
    assert result.ok
    assert [check.name for check in result.appraised].count("tcb-status") == 1
    twice = changed(TDX, parts=(TDX, changed(TDX, tcb_status="OutOfDate")))
    assert codes(twice, TDX_REFERENCE) == ["tcb-status-refused"]
    assert platforms(carried) == (TDX,)


def test_a_key_that_was_not_given_is_missing_and_not_unbound() -> None:
    result = run(changed(TPM, needs=(Need("ak"),)), TPM_REFERENCE)
    assert result.failures == ()
    assert result.missing == (Need("ak"),)


def test_banks_of_pcrs() -> None:
    both = changed(TPM, registers={**TPM.registers, "sha384:pcr4": KNOWN, "sha256:pcr4": PCR})
    assert codes(both, ReferenceValues(registers={"SHA384:PCR04": (KNOWN,), "sha256:pcr4": (PCR,)})) == []
    assert codes(both, ReferenceValues(registers={"sha384:pcr4": (PCR,)})) == ["register-mismatch"]
    assert codes(both, ReferenceValues(registers={"sha512:pcr4": (PCR,)})) == ["register-missing"]


def test_event_logs_may_be_demanded() -> None:
    claims = changed(TDX, checks=(*TDX.checks, passed("event log: rtmr1")))
    assert run(claims, TDX_REFERENCE, Policy(require_event_log=True)).ok
    assert run(SNP, policy=Policy(require_event_log=True)).ok


def test_reference_values_end() -> None:
    end = REFERENCE.not_after
    assert end is not None
    assert run(SNP, now=end - timedelta(seconds=1)).ok
    late = run(SNP, now=end)
    assert [check.code for check in late.failures] == ["reference-expired"]
    assert late.vector["executables"] == 33
    assert codes(SNP, replace(REFERENCE, not_after=None)) == []


@pytest.mark.parametrize(
    "reference", [(), ReferenceValues(), ReferenceValues(report_data=SNP.report_data, source="the command line")]
)
def test_no_reference_value_no_trust(reference: Any) -> None:
    result = run(SNP, reference)
    assert [check.code for check in result.failures] == ["reference-missing"]
    assert result.vector["executables"] == 33
    assert result.vector["hardware"] == 2
    assert "--measurement" in (result.failures[0].hint or "")


def test_references_for_another_kind_are_unknown_measurements() -> None:
    assert codes(SNP, TDX_REFERENCE) == ["measurement-unknown"]
    assert codes(SNP, replace(REFERENCE, measurements=())) == ["measurement-unknown"]
    assert codes(SNP, replace(REFERENCE, tee="simulated")) == ["measurement-unknown"]
    assert codes(changed(SNP, simulated=True), replace(REFERENCE, tee="simulated")) == []


def test_any_document_if_none_is_named() -> None:
    assert codes(changed(SNP, host_data=bytes(32)), replace(REFERENCE, host_data=None)) == []


def test_a_document_digest_is_followed_by_zeros() -> None:
    reference = replace(TDX_REFERENCE, host_data=REFERENCE.host_data)
    assert codes(TDX, reference) == []
    assert codes(changed(TDX, host_data=TDX.host_data[:-1] + b"\1"), reference) == ["host-data-mismatch"]
    assert codes(SNP, replace(REFERENCE, host_data=bytes(range(33)))) == ["host-data-mismatch"]


@pytest.mark.parametrize(
    ("expected", "prefix", "good"),
    [
        (SNP.report_data, False, True),
        (SNP.report_data[:32], False, True),
        (SNP.report_data[:31], False, False),
        (SNP.report_data[:31], True, True),
        (b"", False, False),
        (SNP.report_data[:31] + b"\xff", True, False),
        (SNP.report_data + b"\0", False, False),
        (SNP.report_data + b"\0", True, False),
    ],
)
def test_report_data(expected: bytes, prefix: bool, good: bool) -> None:
    reference = replace(REFERENCE, report_data=expected, report_data_prefix=prefix)
    assert codes(SNP, reference) == ([] if good else ["report-data-mismatch"])


@pytest.mark.parametrize(
    ("registers", "code"),
    [
        ({"rtmr1": (bytes(48),)}, "register-mismatch"),
        ({"rtmr4": (RTMR,)}, "register-missing"),
        ({"mrseam": (bytes(48), RTMR[:-1])}, "register-mismatch"),
    ],
)
def test_registers(registers: dict[str, tuple[bytes, ...]], code: str) -> None:
    reference = replace(TDX_REFERENCE, registers={**TDX_REFERENCE.registers, **registers})
    result = run(TDX, reference)
    assert [check.code for check in result.failures] == [code]
    assert result.vector["executables"] == 33


@pytest.mark.parametrize(
    ("changes", "code", "value"),
    [
        ({"signer": bytes(32)}, "signer-unknown", 33),
        ({"signer": b""}, "signer-unknown", 33),
        ({"product_id": 4}, "product-id-mismatch", 33),
        ({"security_version": 4}, "security-version-too-low", 32),
    ],
)
def test_signers(changes: dict[str, Any], code: str, value: int) -> None:
    result = run(changed(SGX, **changes), SGX_REFERENCE)
    assert [check.code for check in result.failures] == [code]
    assert result.vector["executables"] == value
    zero = replace(SGX_REFERENCE, signers=(bytes(32),))
    assert "signer-unknown" in codes(changed(SGX, signer=bytes(32)), zero)


@pytest.mark.parametrize(
    ("kind", "reference", "complete"),
    [
        ("tdx", ReferenceValues((KNOWN,)), False),
        ("tdx", ReferenceValues(registers={"rtmr1": (RTMR,), "rtmr2": (RTMR,)}), False),
        ("tdx", ReferenceValues(registers={"mr_td": (KNOWN,), "rtmr1": (RTMR,), "rtmr2": (RTMR,)}), True),
        ("nitro", ReferenceValues(registers={"pcr3": (KNOWN,)}), False),
        ("nitro", ReferenceValues(registers={"pcr00": (KNOWN,)}), True),
        ("nitro", ReferenceValues(registers={"pcr8": (KNOWN,)}), True),
        ("nitro", ReferenceValues(registers={"pcr1": (KNOWN,), "pcr2": (KNOWN,)}), True),
        ("tpm", ReferenceValues(registers={"pcr0": (PCR,)}), False),
        ("tpm", ReferenceValues(registers={"pcr04": (PCR,)}), True),
        ("az-snp-vtpm", ReferenceValues((KNOWN,)), False),
        ("az-snp-vtpm", ReferenceValues((KNOWN,), registers={"pcr11": (PCR,)}), True),
        ("sgx", ReferenceValues(registers={"mrsigner": (PCR,)}), True),
    ],
)
def test_references_must_cover_what_runs(kind: str, reference: ReferenceValues, complete: bool) -> None:
    claims = ALL[kind][0]
    assert codes(claims, reference) == ([] if complete else ["reference-incomplete"])
    partial = run(claims, reference, Policy(allow_partial_references=True))
    assert partial.ok
    assert partial.vector["configuration"] == (2 if complete else 3)


def test_a_new_kind_of_tee_is_covered_by_anything() -> None:
    assert codes(changed(SNP, tee="toy"), ReferenceValues(registers={"measurement": (KNOWN,)})) == []


def test_one_of_several_references_must_match_as_a_whole() -> None:
    other = replace(REFERENCE, measurements=(bytes([1]) * 48,), name="other")
    elsewhere = replace(REFERENCE, host_data=bytes([1]) * 32, name="elsewhere")
    assert run(SNP, [other, REFERENCE, elsewhere]).reference == REFERENCE
    mixed = run(SNP, [other, elsewhere, TDX_REFERENCE])
    assert [check.code for check in mixed.failures] == ["host-data-mismatch"]
    assert mixed.reference == elsewhere
    stranger = changed(SNP, measurement=bytes([2]) * 48)
    assert run(stranger, [elsewhere, other]).reference == other


def test_sources_are_shown() -> None:
    reference = replace(REFERENCE, name="clinic 1.2", source="statement signed by author 1")
    shown = next(check for check in run(SNP, reference).checks if check.name == "reference-values")
    assert "clinic 1.2 of statement signed by author 1" in (shown.found or "")


def test_failed_verification_is_never_affirming() -> None:
    forged = changed(SNP, checks=(failed("report-signature", "snp-signature-invalid"),))
    for claims in (forged, changed(SNP, checks=())):
        result = run(claims)
        assert result.status == "contraindicated"
        assert {result.vector[name] for name in ASPECTS} == {99, 0}
        assert result.vector["runtime-opaque"] == 99
    assert codes(changed(SNP, checks=())) == ["evidence-unverified"]
    for code, value in (("certificate-revoked", 96), ("root-untrusted", 97), ("simulated-root-refused", 97)):
        result = run(changed(SNP, checks=(*SNP.checks, failed("root", code))))
        assert result.vector["hardware"] == value


def test_missing_endorsements_are_neither_yes_nor_no() -> None:
    need = Need("vcek", (("product", "Milan"),))
    result = run(changed(SNP, needs=(need, need, CRL_NEED)))
    assert result.failures == ()
    assert [str(one) for one in result.missing] == ["vcek product=Milan", "amd-crl product=Milan"]
    assert not result.ok


def test_all_reasons_at_once() -> None:
    worst_case = changed(
        SNP, measurement=bytes(10), host_data=b"", debug=True, migratable=True, vmpl=3, reported_tcb={}, tcbs={}
    )
    reference = replace(REFERENCE, not_after=NOW - timedelta(days=1))
    assert codes(worst_case, reference, Policy(minimum_tcb={"snp": 1}, only_tees=("sgx",))) == [
        "measurement-unknown",
        "reference-expired",
        "host-data-mismatch",
        "debug-enabled",
        "migration-allowed",
        "vmpl-not-zero",
        "tcb-too-low",
        "tee-not-allowed",
    ]


@given(st.sampled_from(sorted(ALL)), st.booleans(), st.binary(max_size=64), st.binary(max_size=64))
def test_nothing_raises_and_nothing_strange_is_accepted(kind: str, debug: bool, value: bytes, other: bytes) -> None:
    claims, reference = ALL[kind]
    strange = changed(
        claims, measurement=value, host_data=other, report_data=value, registers={"pcr1": other}, signer=value
    )
    strange = changed(strange, debug=debug, parts=())
    assert not run(strange, replace(reference, measurements=(bytes([3]) * 48,))).ok


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("RTMR_1", "rtmr1"),
        ("pcr07", "pcr7"),
        ("PCR11", "pcr11"),
        ("mr_td", "mrtd"),
        ("mr-seam", "mrseam"),
        ("pcrx", "pcrx"),
        ("SHA-256:PCR_07", "sha256:pcr7"),
    ],
)
def test_registers_have_one_spelling(name: str, plain: str) -> None:
    assert register_name(name) == plain


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
        (127, "contraindicated"),
        (-97, "contraindicated"),
        (-128, "contraindicated"),
    ],
)
def test_tiers(value: int, expected: str) -> None:
    assert tier(value) == expected


def test_worst_tier_wins() -> None:
    assert worst({"hardware": 2, "executables": 33}) == "warning"
    assert worst({"hardware": 97, "executables": 33}) == "contraindicated"
    assert worst({"hardware": 0}) == "none"
    assert worst({}) == "none"
