"""Tokens of enclaves that are alike share what is said of the platform, and nothing else."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kokon.appraisal.appraise import appraise
from kokon.appraisal.policy import Policy, ReferenceValues
from kokon.appraisal.result import AttestationResult
from kokon.provisioning.token.claims import Subject, compact_ear
from kokon.tee.endorsements import Endorsements
from kokon.tee.registry import verify
from kokon.testing import FakeVendor

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
VENDOR = FakeVendor(NOW)
KNOWN = Endorsements(VENDOR.snp().certificates, accepted_simulated=frozenset({VENDOR.amd.ark("Milan").fingerprint}))
LIFETIME = timedelta(minutes=30)
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")


def results(policy: Policy, *fills: int) -> list[AttestationResult]:
    """Results of reports that differ in their report data, which share one appraisal as the server's do."""
    found = [VENDOR.snp(report_data=bytes([fill]) * 64, certificates="none") for fill in fills]
    claims = [verify(evidence, KNOWN, NOW) for evidence in found]
    first = appraise(claims[0], ReferenceValues((claims[0].measurement,)), policy, NOW)
    return [replace(first, claims=one) for one in claims]


def ear(result: AttestationResult, fill: int, **options: Any) -> dict[str, Any]:
    runtime = {"nonce": str(fill), "tee-pubkey": {"kty": "EC"}}
    subject = Subject("clinic", f"{fill:032}", str(fill), runtime)
    return compact_ear(result, subject, NOW + timedelta(seconds=fill), LIFETIME, issuer="kokon", **options)


def by_itself(result: AttestationResult) -> AttestationResult:
    """The same with claims that nothing is remembered of."""
    return replace(result, claims=replace(result.claims))


@pytest.mark.parametrize("policy", [Policy(), Policy(name="other", revocation="if-available")])
def test_each_token_is_its_own(policy: Policy) -> None:
    made = results(policy, 1, 2, 3)
    assert len({id(result.claims.alike) for result in made}) == 1
    tokens = [ear(result, fill) for fill, result in enumerate(made)]
    assert tokens == [ear(by_itself(result), fill) for fill, result in enumerate(made)]
    evidence = [token["submods"]["cpu0"]["ear.veraison.annotated-evidence"] for token in tokens]
    assert [one["report_data"] for one in evidence] == [(bytes([fill]) * 64).hex() for fill in (1, 2, 3)]
    assert [one["runtime_data_claims"]["nonce"] for one in evidence] == ["0", "1", "2"]


def test_another_verdict_about_the_same_is_another() -> None:
    strict, lax = (results(policy, 1)[0] for policy in (Policy(), Policy(name="lax", revocation="if-available")))
    assert strict.claims.alike is lax.claims.alike
    for result in (strict, lax, replace(strict, status="warning"), replace(strict, vector={"hardware": 97})):
        assert ear(result, 1) == ear(by_itself(result), 1)


def test_a_result_of_another_type_says_what_it_says() -> None:
    class Wordy(AttestationResult):
        def as_ear(self, *given: Any, **options: Any) -> dict[str, Any]:
            document = AttestationResult.as_ear(self, *given, **options)
            document["submods"]["cpu0"]["more"] = True
            return document

    plain = results(Policy(), 1)[0]
    wordy = Wordy(**{name: getattr(plain, name) for name in AttestationResult.__slots__})
    assert "more" not in ear(plain, 1)["submods"]["cpu0"]
    assert ear(wordy, 1)["submods"]["cpu0"]["more"] is True


def test_verbose_tokens_have_everything() -> None:
    result = results(Policy(), 1)[0]
    assert ear(result, 1, verbose=True) == ear(by_itself(result), 1, verbose=True) != ear(result, 1)
