"""EAR documents."""

import json
from dataclasses import replace
from datetime import timedelta

from test_appraise import CLAIMS, NOW, REFERENCE

from kokon.appraisal.appraise import appraise
from kokon.appraisal.policy import Policy


def test_a_document_for_relying_parties() -> None:
    result = appraise(CLAIMS, REFERENCE, Policy(), NOW)
    key = {"kty": "EC", "crv": "P-256", "x": "x", "y": "y"}
    ear = result.as_ear(
        NOW,
        timedelta(minutes=5),
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
    cpu = ear["submods"]["cpu0"]
    assert cpu["ear.status"] == "affirming"
    assert cpu["ear.trustworthiness-vector"]["hardware"] == 2
    evidence = cpu["ear.veraison.annotated-evidence"]
    assert evidence["runtime_data_claims"]["tee-pubkey"] == key
    assert evidence["snp"]["measurement"] == CLAIMS.measurement.hex()
    assert evidence["snp"]["reported_tcb_snp"] == 8
    assert evidence["init_data"] == CLAIMS.host_data.hex()


def test_simulation_is_named_and_runtime_data_may_be_absent() -> None:
    ear = appraise(replace(CLAIMS, simulated=True), REFERENCE, Policy(), NOW).as_ear(
        NOW, timedelta(minutes=5), issuer="Kokon"
    )
    assert ear["simulated"] is True
    assert "runtime_data_claims" not in ear["submods"]["cpu0"]["ear.veraison.annotated-evidence"]
