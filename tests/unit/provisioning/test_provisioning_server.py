"""The protocol against a real server: what is released, to whom, what is refused, and what the log tells of it."""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from provisioning_factory import DEBUG, KEK, MEASUREMENT, POLICY, attestation, launch, runtime_digest
from sqlalchemy import event as engine_event

from kokon.errors import DeniedError, UntrustedError
from kokon.image.statement import ReferenceEntry
from kokon.jose.jwe import decrypt, public_jwk, thumbprint
from kokon.provisioning.access.bearer import make_token
from kokon.provisioning.database.values import Entry, Put, Work
from kokon.provisioning.guests import Guests
from kokon.provisioning.kbs.answers import ERROR_PREFIX
from kokon.provisioning.kbs.session import SessionSealer
from kokon.provisioning.token.verify import TokenVerifier
from kokon.provisioning.workload import encode_workload
from kokon.tee.snp.envelope import to_envelope

SECRET = "/kbs/v0/resource/clinic/secret/db-password"


def test_secrets_reach_the_attested_enclave_and_everything_is_logged(server, chip) -> None:
    document = server.admit()
    answer = server.attest(chip, document)
    assert answer.status_code == 200, answer.text
    token = answer.json()["token"]
    got = server.guest.get(SECRET)
    assert got.headers["content-type"] == "application/json"
    assert decrypt(got.json(), server.tee_key) == b"correct horse"
    with server.client() as stranger:
        bearer = {"Authorization": f"Bearer {token}"}
        kek = stranger.get("/kbs/v0/resource/default/kek/0123456789abcdef", headers=bearer)
        assert decrypt(kek.json(), server.tee_key) == KEK
        volume = decrypt(stranger.get("/kbs/v0/resource/clinic/volume/data", headers=bearer).json(), server.tee_key)
        log = decrypt(stranger.get("/kbs/v0/resource/clinic/log/token", headers=bearer).json(), server.tee_key)
        event = stranger.post("/kokon/v1/events", headers=bearer, json={"code": "started", "text": "it runs"})
        assert event.status_code == 200
    assert len(volume) == 32
    assert len(bytes.fromhex(log.decode())) == 32
    assert server.admin.log_token("clinic") == log.decode()
    events = server.events()
    assert [entry["event"] for entry in events] == [
        "workload-admitted",
        "resource-put",
        "attestation-granted",
        *["resource-released"] * 4,
        "guest-event",
        "log-token-read",
    ]
    granted = events[2]
    assert granted["workload"] == "clinic"
    assert granted["simulated"] is True
    assert granted["root"] == chip.root
    assert len(granted["evidence"]) == 64
    assert len(granted["chip_id"]) == 128
    assert granted["tee_key"] == thumbprint(public_jwk(server.tee_key)) == events[3]["tee_key"]
    assert events[7]["code"] == "started"
    everything = json.dumps(events)
    for secret in (token, log.decode(), server.token, "correct horse"):
        assert secret not in everything


def test_token_is_an_ear_bound_to_the_key_and_the_workload(server, chip) -> None:
    document = server.admit()
    token = server.attest(chip, document).json()["token"]
    claims = TokenVerifier(server.core.tokens._keys, "kokon", dict).verify(token, "default", server.clock())
    assert claims["kokon.workload"] == "clinic"
    assert claims["simulated"] is True
    cpu = claims["submods"]["cpu0"]
    assert cpu["ear.status"] == "affirming"
    runtime = cpu["ear.veraison.annotated-evidence"]["runtime_data_claims"]
    assert runtime["tee-pubkey"] == public_jwk(server.tee_key)


OTHER_REFERENCE = {"reference": (ReferenceEntry("simulated", 1, "max,-cx16", bytes(48)),)}
ATTACKS: list[tuple[str, dict[str, Any]]] = [
    ("measurement-unknown", {"measurement": bytes(48)}),
    ("debug-enabled", {"policy": POLICY | DEBUG}),
    ("migration-allowed", {"policy": POLICY | 1 << 18}),
]


@pytest.mark.parametrize(("code", "options"), ATTACKS, ids=[code for code, _ in ATTACKS])
def test_denied_enclaves_get_nothing_but_a_code(server, chip, code: str, options: dict[str, Any]) -> None:
    document = server.admit()
    answer = server.attest(chip, document, **options)
    assert answer.status_code == 403
    assert answer.json()["type"] == ERROR_PREFIX + "AttestationError"
    assert set(answer.json()) == {"type", "detail"}
    told, entry = server.denial(answer)
    assert told == code == entry["code"]
    assert entry["event"] == "attestation-denied"
    failed = [check for check in entry["checks"] if check["outcome"] == "failed"]
    assert failed[0]["expected"]
    assert failed[-1]["code"] == "not-affirming"
    assert any(check["outcome"] == "passed" for check in entry["checks"])
    assert server.guest.get(SECRET).status_code == 401


def test_debug_is_allowed_only_when_the_owner_says_so(server, chip) -> None:
    document = server.admit(policy={"allow_debug": True, "minimum_tcb": {}})
    assert server.attest(chip, document, policy=POLICY | DEBUG).status_code == 200


def test_minimum_tcb(server, chip) -> None:
    document = server.admit(policy={"allow_debug": False, "minimum_tcb": {"snp": 200}})
    assert server.denial(server.attest(chip, document))[0] == "tcb-too-low"


def test_root_of_another_vendor_is_refused(server, other_chip) -> None:
    document = server.admit()
    code, entry = server.denial(server.attest(other_chip, document))
    assert code == "simulated-root-refused"
    assert entry["root"] == other_chip.root


def test_another_launch_document_is_unknown(server, chip) -> None:
    document = server.admit()
    changed = document.replace(b"port = 8080", b"port = 8081")
    code, entry = server.denial(server.attest(chip, changed))
    assert code == "workload-unknown"
    (check,) = [check for check in entry["checks"] if check["name"] == "workload"]
    assert "clinic" in check["expected"]


def test_a_sent_document_must_be_the_launched_one(server, chip) -> None:
    document = server.admit()
    nonce = server.challenge()
    message = attestation(launch(chip.processor, document), nonce, server.tee_key, b"a = 1")
    code, _ = server.denial(server.guest.post("/kbs/v0/attest", json=message))
    assert code == "init-data-mismatch"


def test_replayed_message_is_refused_and_logged(server, chip) -> None:
    document = server.admit()
    nonce = server.challenge()
    message = attestation(launch(chip.processor, document), nonce, server.tee_key)
    assert server.guest.post("/kbs/v0/attest", json=message).status_code == 200
    again = server.guest.post("/kbs/v0/attest", json=message)
    assert again.status_code == 401
    code, entry = server.denial(again)
    assert code == "nonce-used"
    assert entry["event"] == "attestation-denied"


def test_a_failed_attestation_uses_the_session_up(server, chip) -> None:
    document = server.admit()
    nonce = server.challenge()
    bad = attestation(launch(chip.processor, document, bytes(48)), nonce, server.tee_key)
    good = attestation(launch(chip.processor, document), nonce, server.tee_key)
    assert server.guest.post("/kbs/v0/attest", json=bad).status_code == 403
    assert server.denial(server.guest.post("/kbs/v0/attest", json=good))[0] == "nonce-used"


def test_old_evidence_in_a_new_session_is_refused(server, chip) -> None:
    document = server.admit()
    old = attestation(launch(chip.processor, document), server.challenge(), server.tee_key)
    nonce = server.challenge()
    assert server.denial(server.guest.post("/kbs/v0/attest", json=old))[0] == "nonce-mismatch"
    nonce = server.challenge()
    thief = public_jwk(ec.generate_private_key(ec.SECP256R1()))
    for jwk in (thief, public_jwk(server.tee_key)):
        stolen = {**old, "runtime-data": {"nonce": nonce, "tee-pubkey": jwk}}
        assert server.denial(server.guest.post("/kbs/v0/attest", json=stolen))[0] == "report-data-mismatch"
        nonce = server.challenge()


def test_unknown_and_expired_sessions(server, chip) -> None:
    document = server.admit()
    message = attestation(launch(chip.processor, document), "x", server.tee_key)
    with server.client() as stranger:
        answer = stranger.post("/kbs/v0/attest", json=message)
        assert answer.status_code == 401
        assert server.denial(answer)[0] == "session-unknown"
    nonce = server.challenge()
    server.clock.offset = timedelta(minutes=6)
    late = attestation(launch(chip.processor, document), nonce, server.tee_key)
    assert server.denial(server.guest.post("/kbs/v0/attest", json=late))[0] == "session-unknown"


def test_device_evidence_is_refused(server, chip) -> None:
    document = server.admit()
    nonce = server.challenge()
    jwk = public_jwk(server.tee_key)
    for additional, code in (("{}", "devices-malformed"), ('{"nvidia":{}}', "device-unsupported")):
        evidence = launch(chip.processor, document).evidence(runtime_digest(jwk, nonce, additional) + bytes(16))
        message = {
            "runtime-data": {"nonce": nonce, "tee-pubkey": jwk},
            "tee-evidence": {"primary_evidence": to_envelope(evidence), "additional_evidence": additional},
        }
        assert server.denial(server.guest.post("/kbs/v0/attest", json=message))[0] == code


def test_one_flipped_bit_in_the_evidence_is_enough(server, chip) -> None:
    document = server.admit()
    for position in (0, 40, 63):
        nonce = server.challenge()
        message = attestation(launch(chip.processor, document), nonce, server.tee_key)
        message["tee-evidence"]["primary_evidence"]["attestation_report"]["chip_id"][position] ^= 1
        answer = server.guest.post("/kbs/v0/attest", json=message)
        assert answer.status_code == 403, answer.text
        assert server.guest.get(SECRET).status_code == 401


def test_expired_statement_stops_attestation_and_release(server, chip) -> None:
    document = server.admit()
    answer = server.attest(chip, document)
    bearer = {"Authorization": f"Bearer {answer.json()['token']}"}
    server.clock.offset = timedelta(days=31)
    assert server.denial(server.attest(chip, document))[0] == "reference-expired"
    with server.client() as stranger:
        refused = stranger.get(SECRET, headers=bearer)
    assert refused.status_code == 401
    assert server.denial(refused)[0] == "token-expired"


def test_statement_that_ends_while_a_token_lives(server, chip) -> None:
    from kokon.provisioning.release import check_release
    from kokon.provisioning.workload import Workload

    server.admit()
    workload: Workload = server.core.catalogue("default").workloads["clinic"]
    from kokon.errors import StaleError

    with pytest.raises(StaleError) as caught:
        check_release(workload, workload.terms(), workload.resources[0], workload.not_after)
    assert caught.value.code == "reference-expired"


def test_release_is_bound_to_the_workload(server, chip) -> None:
    document = server.admit()
    server.admin.put("other/secret/db-password", b"not yours")
    assert server.attest(chip, document).status_code == 200
    for path, status, code in (
        ("other/secret/db-password", 403, "resource-not-granted"),
        ("clinic/secret/unknown", 403, "resource-not-granted"),
        ("clinic/secret/.hidden", 404, "resource-path"),
    ):
        answer = server.guest.get(f"/kbs/v0/resource/{path}")
        assert (answer.status_code, server.denial(answer)[0]) == (status, code), answer.text
    for path in ("clinic/secret", "clinic/secret/..%2f", "clinic/secret/a/b"):
        answer = server.guest.get(f"/kbs/v0/resource/{path}")
        assert (answer.status_code, set(answer.json()) >= {"type", "detail"}) == (404, True)
    server.admin.delete("clinic/secret/db-password")
    answer = server.guest.get(SECRET)
    assert answer.status_code == 404
    assert server.denial(answer)[0] == "resource-unknown"


def test_withdrawn_and_replaced_workloads_get_nothing(server, chip) -> None:
    document = server.admit()
    assert server.attest(chip, document).status_code == 200
    server.admit(document={"port": 9090})
    answer = server.guest.get(SECRET)
    assert answer.status_code == 403
    assert server.denial(answer)[0] == "workload-withdrawn"
    server.admin.withdraw("clinic")
    assert server.denial(server.guest.get(SECRET))[0] == "workload-withdrawn"
    assert server.denial(server.attest(chip, document))[0] == "workload-unknown"
    assert server.admin.workloads() == []
    for call in (server.admin.withdraw, server.admin.log_token):
        with pytest.raises(DeniedError) as caught:
            call("clinic")
        assert caught.value.code == "workload-not-found"


def test_a_policy_taken_back_ends_what_was_allowed_under_it(server, chip) -> None:
    lax = {"allow_debug": True, "minimum_tcb": {}}
    document = server.admit(policy=lax)
    assert server.attest(chip, document, policy=POLICY | DEBUG).status_code == 200
    assert server.guest.get(SECRET).status_code == 200
    server.admit(policy=lax, statement={"not_after": server.clock() + timedelta(days=9)})
    assert server.guest.get(SECRET).status_code == 200, "admitted anew under the same terms"
    for changes in ({}, {"policy": {**lax, "minimum_tcb": {"snp": 1}}}, {"policy": lax, "statement": OTHER_REFERENCE}):
        assert server.admit(**changes) == document
        answer = server.guest.get(SECRET)
        assert (answer.status_code, server.denial(answer)[0]) == (403, "workload-withdrawn")
    server.admit(policy=lax)
    assert server.guest.get(SECRET).status_code == 200


def test_refusals_of_strangers_do_not_fill_the_log(server, chip) -> None:
    from kokon.provisioning.throttle import BURST, REFILL

    document = server.admit()
    answers = [server.guest.get(SECRET) for _ in range(BURST + 5)]
    assert {answer.status_code for answer in answers} == {401}
    for _ in range(BURST + 7):
        server.guest.get("/kokon/v1/log")
    with pytest.raises(DeniedError) as caught:
        server.denial(answers[-1])
    assert caught.value.code == "denial-unknown"
    events = server.events()
    assert [entry["event"] for entry in events].count("resource-denied") == BURST
    counted = {entry["code"]: entry for entry in events if entry["event"] == "refusals-counted"}
    assert {code: entry["count"] for code, entry in counted.items()} == {"token-missing": 5}
    told = [entry for entry in server.server_events() if entry["event"] == "refusals-counted"]
    assert [(entry["code"], entry["count"]) for entry in told] == [("admin-token", 7)]
    assert counted["token-missing"]["refused"] == "resource-denied"
    server.guest.get(SECRET)
    server.clock.offset = REFILL
    assert server.denial(server.guest.get(SECRET))[0] == "token-missing"
    assert [entry["event"] for entry in server.events()[-2:]] == ["refusals-counted", "resource-denied"]
    assert server.attest(chip, document).status_code == 200
    for _ in range(BURST + 1):
        answer = server.guest.get("/kbs/v0/resource/clinic/secret/unknown")
        assert answer.status_code == 403
    assert server.denial(answer)[0] == "resource-not-granted", "what an attested enclave asks for is always kept"


def test_bad_tokens(server) -> None:
    server.admit()
    for headers, code in (
        ({}, "token-missing"),
        ({"Authorization": "Basic abc"}, "token-missing"),
        ({"Authorization": "Bearer abc"}, "token-malformed"),
        ({"Authorization": "Bearer a.b.c"}, "token-malformed"),
        ({"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30."}, "token-key-unknown"),
        ({"Authorization": f"Bearer {server.token}"}, "token-malformed"),
    ):
        answer = server.guest.get(SECRET, headers=headers)
        assert answer.status_code == 401
        assert server.denial(answer)[0] == code
    answer = server.guest.post("/kokon/v1/events", json={"code": "a"})
    assert answer.status_code == 401
    assert server.denial(answer)[0] == "token-missing"


def test_malformed_messages(server, chip) -> None:
    document = server.admit()
    for body, code in (
        (b"{", "json-malformed"),
        (b"{}", "field-missing"),
        (json.dumps({"version": "0.1.0", "tee": "snp", "extra-params": ""}).encode(), "protocol-version"),
    ):
        answer = server.guest.post("/kbs/v0/auth", content=body)
        assert (answer.status_code, answer.json()["detail"]) == (400, code)
        assert answer.json()["type"] == ERROR_PREFIX + "SerdeError"
    server.challenge()
    answer = server.guest.post("/kbs/v0/attest", content=b"{}")
    assert server.denial(answer)[0] == "field-missing"
    token = server.attest(chip, document).json()["token"]
    bearer = {"Authorization": f"Bearer {token}"}
    for event in ({"code": "a", "text": "x" * 501}, {"code": "a", "more": 1}, {"code": "\ud800"}):
        answer = server.guest.post("/kokon/v1/events", content=json.dumps(event).encode(), headers=bearer)
        assert answer.status_code == 400, answer.text


def test_body_limits(server) -> None:
    for path, size in (("/kbs/v0/auth", 65 << 10), ("/kbs/v0/attest", (1 << 20) + 1), ("/kokon/v1/events", 65 << 10)):
        answer = server.guest.post(path, content=b"x" * size)
        assert answer.status_code == 413, path
        assert answer.json()["detail"] == "body-too-large"
        chunked = server.guest.post(path, content=iter([b"x" * size]))
        assert chunked.status_code == 413
    with pytest.raises(Exception, match="too large") as caught:
        server.admin.put("a/b/c", bytes((1 << 20) + 1))
    assert caught.value.code == "resource-size"
    with pytest.raises(Exception, match="empty") as caught:
        server.admin.put("a/b/c", b"")
    assert caught.value.code == "resource-size"
    assert server.admin.put("a/b/c", bytes(1 << 20)) == 1


def test_unknown_paths_have_error_documents(server) -> None:
    answer = server.guest.get("/kbs/v0/nothing")
    assert answer.status_code == 404
    assert answer.json()["type"] == ERROR_PREFIX + "PluginNotFound"
    assert server.guest.put("/kbs/v0/auth").status_code == 405
    assert server.guest.get("/nothing").json()["error"]["code"] == "no-such-path"
    assert server.guest.get("/healthz").status_code == 200
    assert server.guest.get("/kokon/v1/owner-key").json()["jwk"]["crv"] == "P-256"


def test_admin_needs_the_token(server) -> None:
    calls = (
        ("POST", "/kbs/v0/resource/a/b/c"),
        ("DELETE", "/kbs/v0/resource/a/b/c"),
        ("GET", "/kokon/v1/secrets"),
        ("PUT", "/kokon/v1/secrets/a/b/c"),
        ("POST", "/kokon/v1/secrets/a/b/c/rotate"),
        ("DELETE", "/kokon/v1/secrets/a/b/c"),
        ("GET", "/kokon/v1/policies"),
        ("PUT", "/kokon/v1/policies/platform/default"),
        ("GET", "/kokon/v1/projects"),
        ("POST", "/kokon/v1/principals"),
        ("GET", "/kokon/v1/status"),
        ("POST", "/kokon/v1/data-key"),
        ("GET", "/kokon/v1/server/log"),
        ("GET", "/kokon/v1/workloads"),
        ("POST", "/kokon/v1/workloads"),
        ("DELETE", "/kokon/v1/workloads/clinic"),
        ("POST", "/kokon/v1/workloads/clinic/log-token"),
        ("GET", "/kokon/v1/log"),
        ("GET", "/kokon/v1/denials/x"),
    )
    for method, path in calls:
        stranger = make_token(os.urandom(40)).text
        for shown, code in ((None, "admin-token"), ("wrong", "admin-token-malformed"), (stranger, "principal-unknown")):
            headers = {"Authorization": f"Bearer {shown}"} if shown else {}
            answer = server.guest.request(method, path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, code), path
            assert answer.headers["www-authenticate"] == "Bearer"
    assert [entry["event"] for entry in server.server_events()].count("admin-denied") == 3 * len(calls)


def test_admin_errors_are_told_in_full(server) -> None:
    with pytest.raises(DeniedError) as caught:
        server.admin.delete("a/b/c")
    assert caught.value.code == "resource-unknown"
    with pytest.raises(DeniedError) as caught:
        server.admin.denial("nothing")
    assert caught.value.code == "denial-unknown"
    with pytest.raises(Exception, match="three plain segments") as error:
        server.admin.put("a/b", b"x")
    assert error.value.code == "resource-path"
    answer = server.guest.get(
        "/kokon/v1/log", params={"start": "x"}, headers={"Authorization": f"Bearer {server.token}"}
    )
    assert answer.json()["error"]["code"] == "query-malformed"


def test_refused_admission_is_logged_and_keeps_nothing(server) -> None:
    request = server.author.request(signer=ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(UntrustedError) as caught:
        server.admin.admit(request)
    assert caught.value.code == "image-author-unknown"
    assert server.admin.workloads() == []
    assert server.admin.secrets() == []
    assert server.events()[-1]["code"] == "image-author-unknown"


def test_generated_keys_survive_admission_again(server, chip) -> None:
    server.admit()
    before = {one["path"]: one["version"] for one in server.admin.secrets()}
    answer = server.admin.admit(server.author.request(document={"port": 8081}))
    assert answer["generated"] == []
    assert answer["replaced"]
    assert {one["path"]: one["version"] for one in server.admin.secrets()} == before


def test_key_id_of_another_image_and_twin_workloads(server) -> None:
    server.admit()
    server.author.kek = bytes(32)
    with pytest.raises(UntrustedError) as caught:
        server.admin.admit(server.author.request(document={"port": 8081}))
    assert caught.value.code == "kek-conflict"
    server.author.kek = KEK
    twin = replace(server.core.catalogue("default").workloads["clinic"], name="twin")
    record = encode_workload(twin)
    server.store.commit(Work("default", (Entry("test", {}),), (Put("workload", "twin", record),)))
    with pytest.raises(Exception, match="another workload") as error:
        server.admin.admit(server.author.request())
    assert error.value.code == "workload-duplicate"


def test_log_is_paged_and_verified(server, monkeypatch) -> None:
    from kokon.provisioning.admin import logs

    monkeypatch.setattr(logs, "PAGE", 3)
    for number in range(8):
        server.admin.put("a/b/c", str(number).encode())
    entries, head = server.admin.log()
    assert head.size == len(entries) == 9
    tail, again = server.admin.log(last=2)
    assert (tail, again) == (entries[-2:], head)


def test_a_server_that_lies_about_its_log_is_caught(server, monkeypatch) -> None:
    server.admin.put("a/b/c", b"1")
    real = server.store.entries
    entries = real("default", 0, 10)
    for lie in (entries[:-1], entries[1:], [entries[0], entries[0]], [entries[0], entries[1].replace(b"put", b"got")]):
        monkeypatch.setattr(server.store, "entries", lambda *_, lie=lie: lie[_[1] :])
        with pytest.raises(UntrustedError) as caught:
            server.admin.log()
        assert caught.value.code == "log-broken"


def test_a_full_disk_answers_503_and_releases_nothing(server, chip) -> None:
    document = server.admit()
    server.attest(chip, document)
    connections: list[sqlite3.Connection] = []
    engine_event.listen(
        server.store.backend.engine, "begin", lambda one: connections.append(one.connection.driver_connection)
    )
    server.admin.put("clinic/secret/other", b"x")
    for database in connections:
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count={pages}")
    statuses = set()
    for _ in range(400):
        answer = server.guest.get(SECRET)
        statuses.add(answer.status_code)
        if answer.status_code == 503:
            assert answer.headers["retry-after"]
            assert answer.json()["detail"] == "disk-full"
            break
    assert 503 in statuses
    for database in connections:
        database.execute("PRAGMA max_page_count=100000")
    assert server.guest.get(SECRET).status_code == 200


def test_measurement_of_the_real_kind_does_not_admit_a_simulated_enclave(server, chip) -> None:
    reference = (ReferenceEntry("snp", 1, "EPYC-v4", MEASUREMENT),)
    document = server.admit(statement={"reference": reference})
    assert server.denial(server.attest(chip, document))[0] == "measurement-unknown"


def test_the_agent_of_the_guest_is_a_client(server, chip) -> None:
    from kokon.guest.agent.kbs import Connection, KeyBroker
    from kokon.launch.document import Provisioning

    document = server.admit()
    guest = launch(chip.processor, document)
    where = Provisioning(server.url, server.certificate)
    connection = Connection(where, lambda host, port: (host, port))
    broker = KeyBroker(connection, guest.evidence, document.decode())
    broker.attest()
    assert broker.resource("kbs:///clinic/secret/db-password") == b"correct horse"
    assert broker.resource("kbs:///default/kek/0123456789abcdef") == KEK
    assert broker.report("layer-digest-mismatch", "the registry lies")
    with pytest.raises(DeniedError) as caught:
        broker.resource("kbs:///other/secret/x")
    assert caught.value.found == "resource-not-granted"
    assert server.events()[-2]["text"] == "the registry lies"
    foreign = KeyBroker(connection, launch(chip.processor, document, bytes(48)).evidence, document.decode())
    with pytest.raises(DeniedError) as denied:
        foreign.attest()
    assert denied.value.found == "measurement-unknown"
    assert server.events()[-1]["denial"] in (denied.value.hint or "")
    assert server.events()[-1]["workload"] == "clinic"
    connection.close()


def test_evidence_of_hostile_shape(server, chip) -> None:
    document = server.admit()
    for evidence in (None, [], {"attestation_report": {}}, {"attestation_report": 1, "cert_chain": None}):
        nonce = server.challenge()
        message = attestation(launch(chip.processor, document), nonce, server.tee_key)
        message["tee-evidence"]["primary_evidence"] = evidence
        answer = server.guest.post("/kbs/v0/attest", json=message)
        assert answer.status_code == 400
        assert server.denial(answer)[0].startswith("field-")


def test_a_bug_answers_without_details(server, monkeypatch) -> None:
    def broken(*_: object) -> tuple[str, str]:
        raise RuntimeError("geheim")

    monkeypatch.setattr(Guests, "auth", broken)
    answer = server.guest.post("/kbs/v0/auth", content=b"{}")
    assert answer.status_code == 500
    assert answer.json()["detail"] == "internal"
    assert "geheim" not in answer.text


def test_log_token_that_was_deleted(server) -> None:
    server.admit()
    server.admin.delete("clinic/log/token")
    with pytest.raises(DeniedError) as caught:
        server.admin.log_token("clinic")
    assert caught.value.code == "resource-unknown"
    assert server.admin.owner_key()["jwk"]["kty"] == "EC"


@pytest.mark.parametrize("path", ["a%2Fb%2Fc", "a/b/%63", "a/b/c/", "/a/b/c", "a/b/c%0a", "a/b/c%00"])
def test_a_resource_has_one_name(server: Any, path: str) -> None:
    """What is percent-encoded is not decoded: no second name, for guests and for the owner."""
    server.admin.put("a/b/c", b"x")
    headers = {"Authorization": f"Bearer {server.token}"}
    for method in ("POST", "DELETE"):
        answer = server.guest.request(method, f"/kbs/v0/resource/{path}", content=b"y", headers=headers)
        if "%0" in path:  # no target of a request at all
            assert (answer.status_code, answer.json()["detail"]) == (400, "bad-request")
            continue
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "resource-path"
    assert [one["version"] for one in server.admin.secrets()] == [1]


def test_anyone_can_verify_tokens(server: Any, chip: Any) -> None:
    from joserfc import jwt as jose
    from joserfc.jwk import KeySet

    token = server.attest(chip, server.admit()).json()["token"]
    keys = server.guest.get("/.well-known/jwks.json").json()
    decoded = jose.decode(token, KeySet.import_key_set(keys), algorithms=["ES256"])
    assert (decoded.claims["iss"], decoded.claims["aud"]) == ("kokon", "default")
    assert [set(key) & {"d", "k"} for key in keys["keys"]] == [set()]
    assert len(token) < 4096


def test_a_new_token_key_and_the_one_before(server: Any, chip: Any) -> None:
    """Rotated by the owner, and after a month by itself; old tokens stay good until they expire."""
    document = server.admit()
    first = server.attest(chip, document).json()["token"]

    def read(token: str) -> int:
        with server.client() as client:
            headers = {"Authorization": f"Bearer {token}"}
            return int(client.get("/kbs/v0/resource/clinic/secret/db-password", headers=headers).status_code)

    def known() -> list[str]:
        return [key["kid"] for key in server.guest.get("/.well-known/jwks.json").json()["keys"]]

    assert server.guest.post("/kokon/v1/token-key").status_code == 401
    kid = server.admin.rotate_token_key()
    assert known()[0] == kid
    assert len(known()) == 2
    assert read(first) == 200
    second = server.attest(chip, document).json()["token"]
    assert second.partition(".")[0] != first.partition(".")[0]
    server.clock.offset = timedelta(minutes=29)
    assert (read(first), read(second)) == (200, 200)
    server.clock.offset = timedelta(minutes=31)
    assert read(first) == 401
    server.clock.offset = timedelta(days=31)
    assert server.admit(statement={"not_after": datetime.now(UTC).replace(microsecond=0) + timedelta(days=90)})
    third = server.attest(chip, document).json()["token"]
    assert third.partition(".")[0] not in (first.partition(".")[0], second.partition(".")[0])
    assert known()[0] != kid
    assert "token-key-rotated" in [entry["event"] for entry in server.server_events()]


def test_sessions_survive_a_restart_and_know_no_other_server(server: Any) -> None:
    """The guest carries its session: a server with the same master key goes on with it, another one does not."""
    nonce = server.challenge()
    value = server.guest.cookies["kbs-session-id"]
    again = SessionSealer(server.store.ring.subkey("session"), os.urandom)
    assert again.open(value, "default", server.clock()).nonce == nonce
    other = SessionSealer(bytes(32), os.urandom)
    for sealer, project in ((other, "default"), (again, "clinic")):
        with pytest.raises(DeniedError) as caught:
            sealer.open(value, project, server.clock())
        assert caught.value.code == "session-unknown"
