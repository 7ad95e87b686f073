"""The chain from the root to the workload, as people and programs see it."""

import json
from dataclasses import replace

from appraisal_kit import ALL, KNOWN, NOW, REFERENCE, RTMR, SNP, TDX, TDX_REFERENCE, changed

from kokon.appraisal.appraise import appraise
from kokon.appraisal.explain import explain, nearest, steps
from kokon.appraisal.policy import Policy
from kokon.tee.evidence import failed, not_checked, passed
from kokon.tee.explanation import Explanation, Finding

CHAIN = (
    passed("report-signature", "by SEV-VCEK"),
    passed("signature of SEV-VCEK", "by SEV-Milan"),
    passed("signature of SEV-Milan", "by ARK-Milan"),
    passed("signature of ARK-Milan", "by ARK-Milan"),
    passed("validity of SEV-VCEK", "until 2030-01-01"),
    not_checked("revocation of SEV-Milan", "crl-missing"),
    passed("root", "ARK-Milan"),
    passed("tcb", "snp=8"),
    passed("event log: pcr4"),
)
OTHER = bytes([5]) * 48


def test_the_chain_goes_from_the_root_to_the_workload() -> None:
    result = appraise(changed(SNP, checks=CHAIN), REFERENCE, Policy(minimum_tcb={"snp": 8}), NOW)
    found = steps(result, more=(passed("nonce"), failed("workload", "workload-unknown")))
    assert [(step.name, step.title.split(" ")[0]) for step in found if step.name == "certificate"] == [
        ("certificate", "ARK-Milan"),
        ("certificate", "ARK-Milan"),
        ("certificate", "SEV-Milan"),
    ]
    titles = [step.title for step in found if step.name == "certificate"]
    assert titles == ["ARK-Milan signed itself", "ARK-Milan signed SEV-Milan", "SEV-Milan signed SEV-VCEK"]
    names = [step.name for step in found if step.name != "certificate"]
    assert names == [
        "root",
        "revocation",
        "evidence",
        "fresh",
        "tcb",
        "configuration",
        "event-log",
        "executables",
        "host-data",
    ]
    assert found[0].name == "root"
    shown = [check for step in found for check in step.checks]
    assert sorted(map(str, shown)) == sorted(map(str, (*result.checks, passed("nonce"), shown_workload(shown))))
    by_name = {step.name: step for step in found}
    assert by_name["evidence"].outcome == "failed"
    assert by_name["executables"].outcome == "passed"
    assert dict(by_name["executables"].facts)["measurement"] == KNOWN.hex()
    assert [check.name for check in by_name["tcb"].checks] == [
        *("tcb", "tcb snp", "committed tcb snp", "launch tcb snp")
    ]


def shown_workload(shown: list[object]) -> object:
    return next(check for check in shown if getattr(check, "name", "") == "workload")


def test_no_check_is_lost_whatever_the_tee() -> None:
    for claims, reference in ALL.values():
        result = appraise(claims, reference, Policy(), NOW)
        shown = [check for step in steps(result) for check in step.checks]
        assert sorted(map(str, shown)) == sorted(map(str, result.checks))
        assert all(step.checks for step in steps(result))
        json.dumps(explain(result))


def test_registers_are_shown_unless_they_are_many() -> None:
    shown = {
        kind: [step for step in steps(appraise(*ALL[kind], Policy(), NOW)) if step.name == "executables"]
        for kind in ALL
    }
    assert dict(shown["tdx"][0].facts)["rtmr1"] == RTMR.hex()
    assert "pcr4" not in dict(shown["tpm"][0].facts)


def test_claims_alone_have_a_chain_too() -> None:
    found = steps(changed(SNP, checks=CHAIN))
    assert next(step.name for step in found) == "root"
    assert "executables" not in [step.name for step in found]


def test_broken_chains_end() -> None:
    checks = (
        failed("signature of a", "chain-broken", expected="signed by b", found="not signed by it"),
        passed("signature of b", "by a"),
        passed("validity of c"),
    )
    titles = [step.title for step in steps(changed(SNP, checks=checks))]
    assert set(titles) == {"b signed a", "a signed b", "c"}
    outcomes = {step.title: step.outcome for step in steps(changed(SNP, checks=checks))}
    assert outcomes["b signed a"] == "failed"


def test_checks_of_evidence_inside_evidence_stand_with_their_like() -> None:
    checks = (passed("snp: root", "ARK-Milan"), passed("snp: signature of SEV-VCEK", "by SEV-Milan"))
    found = steps(changed(SNP, checks=(*checks, passed("DICE quote: tcb-status"), passed("event log: pcr4"))))
    assert [step.name for step in found] == ["root", "certificate", "tcb", "event-log"]
    assert found[1].title == "SEV-Milan signed SEV-VCEK"


def test_the_nearest_reference_is_named() -> None:
    near = replace(REFERENCE, name="clinic", source="author 1")
    far = replace(REFERENCE, name="other", host_data=bytes(32), measurements=(bytes([1]) * 48,))
    result = appraise(changed(SNP, measurement=OTHER), [far, near], Policy(), NOW)
    assert nearest(result) == {
        "reference": "clinic of author 1",
        "agrees": ["reference-values", "host-data", "coverage"],
        "differs": ["measurement"],
    }
    facts = dict(next(step for step in steps(result) if step.name == "executables").facts)
    assert facts["nearest reference"] == "clinic of author 1"
    assert facts["and differs in"] == "measurement"
    assert nearest(appraise(SNP, (), Policy(), NOW)) is None
    fitting = appraise(TDX, TDX_REFERENCE, Policy(), NOW)
    assert ("reference", "given values") in next(s for s in steps(fitting) if s.name == "executables").facts


def test_what_explains_the_measurement_is_shown() -> None:
    result = appraise(changed(SNP, measurement=OTHER), REFERENCE, Policy(), NOW)
    explanation = Explanation(False, (Finding("vcpus", "1", "2"),), "1 to 256 CPUs")
    facts = next(step for step in steps(result, explanation) if step.name == "executables").facts
    assert ("explained by", "vcpus: found 2, expected 1") in facts
    found = explain(result, explanation)
    assert found["measurement"]["findings"] == [{"input": "vcpus", "expected": "1", "found": "2"}]
    assert found["reasons"][0]["code"] == "measurement-unknown"
    assert not found["ok"]
    nothing = steps(result, Explanation(False, (), "1 to 256 CPUs"))
    assert ("not explained by", "1 to 256 CPUs") in next(s for s in nothing if s.name == "executables").facts
    matching = steps(result, Explanation(True))
    assert not any(name.endswith("explained by") for step in matching for name, _ in step.facts)
