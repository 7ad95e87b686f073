"""EAR documents, and results as data."""

import json
from datetime import timedelta
from typing import Any

import pytest
from appraisal_kit import ALL, CRL_NEED, KNOWN, NOW, PCR, REFERENCE, RTMR, SNP, changed

from kokon.appraisal.appraise import appraise
from kokon.appraisal.policy import Policy
from kokon.tee.evidence import Claims

FIVE = timedelta(minutes=5)


def annotated(claims: Claims, reference: Any = REFERENCE) -> dict[str, Any]:
    ear = appraise(claims, reference, Policy(), NOW).as_ear(NOW, FIVE, issuer="Kokon")
    assert json.loads(json.dumps(ear)) == ear
    found: dict[str, Any] = ear["submods"]["cpu0"]["ear.veraison.annotated-evidence"]
    return found


def test_a_document_for_relying_parties() -> None:
    result = appraise(SNP, REFERENCE, Policy(), NOW)
    key = {"kty": "EC", "crv": "P-256", "x": "x", "y": "y"}
    ear = result.as_ear(
        NOW,
        FIVE,
        issuer="Kokon",
        runtime_data={"tee-pubkey": key, "nonce": "n"},
        extra={"kokon.workload": "clinic"},
    )
    assert json.loads(json.dumps(ear)) == ear
    assert ear["exp"] - ear["iat"] == 300
    assert ear["iss"] == "Kokon"
    assert ear["kokon.workload"] == "clinic"
    assert ear["simulated"] is False
    assert ear["eat_profile"] == "tag:github.com,2024:confidential-containers/Trustee"
    assert set(ear["ear.verifier-id"]) == {"developer", "build"}
    cpu = ear["submods"]["cpu0"]
    assert cpu["ear.status"] == "affirming"
    assert cpu["ear.trustworthiness-vector"]["hardware"] == 2
    assert cpu["ear.appraisal-policy-id"] == "strict"
    assert {check["name"] for check in cpu["kokon.checks"]} == {check.name for check in result.checks}
    assert cpu["kokon.missing"] == []
    assert cpu["kokon.reference"] == "given values"
    evidence = cpu["ear.veraison.annotated-evidence"]
    assert evidence["runtime_data_claims"]["tee-pubkey"] == key
    assert evidence["snp"]["measurement"] == KNOWN.hex()
    assert evidence["snp"]["reported_tcb_snp"] == 8
    assert evidence["snp"]["policy_debug_allowed"] is False
    assert evidence["snp"]["platform_smt_enabled"] is True
    assert evidence["init_data"] == SNP.host_data.hex()
    assert evidence["report_data"] == SNP.report_data.hex()


def test_a_short_document_has_only_what_is_wrong() -> None:
    result = appraise(changed(SNP, debug=True, needs=(CRL_NEED,)), (), Policy(name="mine"), NOW)
    cpu = result.as_ear(NOW, FIVE, issuer="Kokon", verbose=False)["submods"]["cpu0"]
    assert [check["code"] for check in cpu["kokon.checks"]] == [
        "reference-missing",
        "debug-enabled",
        "revocation-unchecked",
    ]
    assert cpu["kokon.missing"] == ["amd-crl product=Milan"]
    assert cpu["ear.appraisal-policy-id"] == "mine"
    assert "kokon.reference" not in cpu


def test_simulation_is_named_and_runtime_data_may_be_absent() -> None:
    ear = appraise(changed(SNP, simulated=True), REFERENCE, Policy(), NOW).as_ear(NOW, FIVE, issuer="Kokon")
    assert ear["simulated"] is True
    assert "runtime_data_claims" not in ear["submods"]["cpu0"]["ear.veraison.annotated-evidence"]


@pytest.mark.parametrize("kind", ALL)
def test_every_kind_has_its_claims_under_its_name(kind: str) -> None:
    evidence = annotated(*ALL[kind])
    assert set(evidence) == {kind, "report_data", "init_data"}
    assert not {"report_data", "init_data"} & set(evidence[kind])


def test_names_are_those_of_trustee() -> None:
    tdx = annotated(*ALL["tdx"])["tdx"]
    assert tdx["quote"]["body"]["mr_td"] == KNOWN.hex()
    assert tdx["quote"]["body"]["rtmr_1"] == tdx["quote"]["body"]["mr_seam"] == RTMR.hex()
    assert (tdx["tcb_status"], tdx["advisory_ids"]) == ("UpToDate", [])
    assert tdx["td_attributes"] == {"debug": False}
    assert tdx["is_smt_enabled"] is True
    sgx = annotated(*ALL["sgx"])["sgx"]["body"]
    assert (sgx["mr_signer"], sgx["isv_prod_id"], sgx["isv_svn"]) == (PCR.hex(), "0300", "0500")
    tpm = annotated(*ALL["tpm"])["tpm"]
    assert tpm["pcr00"] == tpm["pcr11"] == PCR.hex()
    azure = annotated(*ALL["az-snp-vtpm"])["az-snp-vtpm"]
    assert azure["measurement"] == KNOWN.hex()
    assert azure["tpm"]["pcr04"] == PCR.hex()
    assert annotated(*ALL["az-tdx-vtpm"])["az-tdx-vtpm"]["quote"]["body"]["mr_td"] == KNOWN.hex()
    assert annotated(*ALL["nitro"])["nitro"]["pcr0"] == KNOWN.hex()


def test_details_of_the_tee_win() -> None:
    assert annotated(changed(SNP, details={"measurement": "as given"}))["snp"]["measurement"] == "as given"
    assert "tpm" in annotated(changed(ALL["az-snp-vtpm"][0], parts=()))["az-snp-vtpm"]


def test_results_as_data() -> None:
    result = appraise(changed(SNP, debug=True), REFERENCE, Policy(), NOW)
    members = result.as_dict()
    assert json.loads(json.dumps(members)) == members
    assert members["ok"] is False
    assert [reason["code"] for reason in members["reasons"]] == ["debug-enabled"]
    assert members["reference"] == "given values"
    assert appraise(SNP, (), Policy(), NOW).as_dict()["reference"] is None
