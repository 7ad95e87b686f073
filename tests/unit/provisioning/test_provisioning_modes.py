"""What can be switched on: open for development, sample evidence, the statuses of the reference key broker."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from kokon.jose.jwe import public_jwk
from kokon.provisioning.bearer import claims_of
from kokon.tee.endorsements import Endorsements


@pytest.fixture
def accepted(chip: Any) -> Endorsements:
    return Endorsements(accepted_simulated=frozenset({chip.root}))


def test_open_for_development(start_server: Any, accepted: Endorsements, chip: Any) -> None:
    server = start_server(accepted, development=True)
    answer = server.guest.post("/kbs/v0/resource/clinic/secret/db-password", content=b"x")
    assert answer.status_code == 200
    assert answer.headers["kokon-mode"] == "development"
    token = server.attest(chip, server.admit()).json()["token"]
    assert claims_of(token)["kokon.development"] is True
    assert server.guest.get("/kbs/v0/resource/clinic/secret/db-password").headers["kokon-mode"] == "development"
    marked = {one["event"] for one in [*server.events(), *server.server_events()] if one.get("development")}
    assert marked == {"server-started", "attestation-granted", "resource-released"}
    headers = {"Authorization": "Bearer wrong"}
    assert server.guest.get("/kokon/v1/secrets", headers=headers).status_code == 401, "a wrong token stays wrong"


def test_closed_otherwise(server: Any, chip: Any) -> None:
    answer = server.guest.post("/kbs/v0/resource/clinic/secret/db-password", content=b"x")
    assert (answer.status_code, "kokon-mode" in answer.headers) == (401, False)
    assert "kokon.development" not in claims_of(server.attest(chip, server.admit()).json()["token"])


def sample(server: Any) -> Any:
    begun = server.guest.post("/kbs/v0/auth", json={"version": "0.4.0", "tee": "sample", "extra-params": {}})
    if begun.status_code != 200:
        return begun
    import hashlib

    from kokon.wire import canonical_json

    runtime = {"nonce": begun.json()["nonce"], "tee-pubkey": public_jwk(ec.generate_private_key(ec.SECP256R1()))}
    digest = hashlib.sha384(canonical_json({**runtime, "additional-evidence": ""})).digest()
    evidence = {"svn": "1", "report_data": base64.b64encode(digest).decode()}
    message = {"primary_evidence": evidence, "additional_evidence": ""}
    return server.guest.post("/kbs/v0/attest", json={"runtime-data": runtime, "tee-evidence": message})


def test_sample_evidence_is_off(server: Any) -> None:
    answer = sample(server)
    assert (answer.status_code, answer.json()["detail"]) == (400, "tee-unsupported")


def test_sample_evidence_is_never_affirming(start_server: Any) -> None:
    server = start_server(Endorsements(), sample=True)
    server.admit()
    answer = sample(server)
    assert answer.status_code == 403
    server.admin.set_policy("attestation", "default", 'package policy\ntrust_claims := {"executables": 3}\n')
    answer = sample(server)
    assert answer.status_code == 403, "whatever a policy says"
    assert server.denial(answer)[0]


def test_what_is_counted(server: Any, chip: Any) -> None:
    server.attest(chip, server.admit())
    assert server.guest.get("/kbs/v0/resource/clinic/secret/db-password").status_code == 200
    assert server.guest.get("/kbs/v0/resource/clinic/secret/none").status_code == 403
    figures = server.guest.get("/metrics").text
    for line in (
        'kokon_handshakes_total{outcome="granted",tee="simulated"} 1.0',
        "kokon_releases_total 1.0",
        'kokon_denials_total{code="resource-not-granted"} 1.0',
        'kokon_http_requests_total{operation="get-resource",status="200"} 1.0',
        "kokon_policy_workers_lost 0.0",
    ):
        assert line in figures.splitlines()
    assert "kokon_commit_seconds_count 0.0" not in figures
    assert server.guest.get("/readyz").json() == {"ready": True, "checks": {"database": "ok"}}
    assert server.guest.get("/openapi.json").json()["openapi"] == "3.1.0"


def test_literal_statuses(start_server: Any, accepted: Endorsements, chip: Any) -> None:
    server = start_server(accepted, literal_statuses=True)
    document = server.admit()
    refused = server.attest(chip, document, measurement=bytes(48))
    assert refused.status_code == 401
    assert "request unauthorized" in refused.json()["detail"]
    missing = server.guest.get("/kbs/v0/resource/clinic/secret/none")
    assert missing.status_code == 401
    assert server.guest.get("/kbs/v0/nothing").status_code == 404
    headers = {"Authorization": f"Bearer {server.token}"}
    assert server.guest.delete("/kbs/v0/resource/a/b/c", headers=headers).status_code == 404, (
        "of admins nothing changes"
    )
    assert json.loads(refused.content)["type"].endswith("AttestationError")
