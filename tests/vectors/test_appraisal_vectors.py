"""Evidence of real machines against the strict default policy, with what it measured as reference values."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kokon.appraisal.appraise import appraise
from kokon.appraisal.explain import steps
from kokon.appraisal.policy import Policy, ReferenceValues, Tolerance
from kokon.endorsements import files
from kokon.tee.evidence import Claims
from kokon.verifier.examine import Question, examine

pytestmark = pytest.mark.vectors

LONG = datetime(2100, 1, 1, tzinfo=UTC)
STATUSES = ("OutOfDate", "SWHardeningNeeded", "ConfigurationAndSWHardeningNeeded", "TDRelaunchAdvised")
PLATFORM = Policy(allow_dynamic_platform=True, allow_cached_keys=True)
WITHOUT_LISTS = Policy(revocation="if-available")

Load = Callable[[str], tuple[Claims, datetime]]


@pytest.fixture
def load(vectors: Path, manifest: list[dict[str, Any]]) -> Load:
    entries = {entry["file"]: entry for entry in manifest}

    def loaded(name: str) -> tuple[Claims, datetime]:
        entry = entries[name]
        related = [vectors / path for path in entry["related"]]
        text = entry["expected"].get("at_time", "2026-06-01T00:00:00Z")
        now = datetime.fromisoformat(text)
        pieces = tuple(path.read_bytes() for path in related)
        question = Question(endorsements=files.load(related), pieces=pieces)
        claims = examine((vectors / name).read_bytes(), question, now).claims
        assert claims is not None
        return claims, now

    return loaded


def whole(claims: Claims) -> ReferenceValues:
    """All that was measured."""
    registers = {name: (value,) for name, value in claims.registers.items()}
    return ReferenceValues((claims.measurement,) if claims.measurement else (), registers=registers)


def refusals(claims: Claims, policy: Policy, now: datetime) -> set[str | None]:
    result = appraise(claims, whole(claims), policy, now)
    assert sum(len(step.checks) for step in steps(result)) == len(result.checks)
    return {check.code for check in result.failures}


@pytest.mark.parametrize(
    ("name", "policy", "codes"),
    [
        ("tdx/v4_dcapqvl.quote.bin", PLATFORM, set()),
        ("tdx/v4_dcapqvl.quote.bin", Policy(), {"platform-dynamic", "platform-keys-cached"}),
        ("tdx/v4_gce_cos113.quote.bin", Policy(allow_dynamic_platform=True), set()),
        ("tdx/v4_automata_outofdate.quote.bin", PLATFORM, {"tcb-status-refused", "advisory-refused"}),
        ("sgx/v3_dcapqvl.quote.bin", Policy(), {"tcb-status-refused", "advisory-refused"}),
        ("nitro/prod_dstack.cbor", Policy(), set()),
        ("snp/milan_v2_vcek_debugpolicy_gosevguest.report.bin", WITHOUT_LISTS, {"debug-enabled"}),
        ("coco/az-snp-vtpm_evidence_v1.json", WITHOUT_LISTS, set()),
        ("tpm/az_quote.bin", Policy(), set()),
    ],
)
def test_real_machines(load: Load, name: str, policy: Policy, codes: set[str]) -> None:
    claims, now = load(name)
    assert claims.ok
    assert refusals(claims, policy, now) == codes
    result = appraise(claims, whole(claims), policy, now)
    assert result.ok == (not codes)
    stranger = replace(whole(claims), measurements=(b"\1" * 48,))
    assert "measurement-unknown" in {check.code for check in appraise(claims, stranger, policy, now).failures}
    nothing = appraise(claims, (), policy, now)
    assert "reference-missing" in {check.code for check in nothing.failures}


@pytest.mark.parametrize("name", ["tdx/v4_automata_outofdate.quote.bin", "sgx/v3_dcapqvl.quote.bin"])
def test_tolerances_for_real_platforms(load: Load, name: str) -> None:
    claims, now = load(name)
    advisories = tuple(Tolerance(advisory, LONG, "test") for advisory in claims.advisories)
    policy = replace(
        PLATFORM,
        tolerated_statuses=tuple(Tolerance(status, LONG, "test") for status in STATUSES),
        tolerated_advisories=advisories,
    )
    assert advisories
    assert refusals(claims, policy, now) == set()
    ended = replace(policy, tolerated_advisories=tuple(replace(one, until=now) for one in advisories))
    assert refusals(claims, ended, now) == {"tolerance-expired"}
    assert refusals(claims, replace(policy, minimum_evaluation=10_000), now) == {"tcb-evaluation-too-low"}


def test_a_missing_list_of_amd_is_something_missing(load: Load) -> None:
    claims, now = load("snp/milan_v2_vcek_debugpolicy_gosevguest.report.bin")
    result = appraise(claims, whole(claims), Policy(allow_debug=True), now)
    assert result.failures == ()
    assert [str(need) for need in result.missing] == ["amd-crl product=Milan"]
    assert not result.ok


def test_an_old_document_is_too_old(load: Load) -> None:
    claims, now = load("nitro/prod_dstack.cbor")
    assert refusals(claims, Policy(), now + timedelta(minutes=6)) == {"evidence-too-old"}


def test_a_paravisor_without_its_guest_is_not_enough(load: Load) -> None:
    claims, now = load("coco/az-snp-vtpm_evidence_v1.json")
    result = appraise(claims, ReferenceValues((claims.measurement,)), WITHOUT_LISTS, now)
    assert [check.code for check in result.failures] == ["reference-incomplete"]
