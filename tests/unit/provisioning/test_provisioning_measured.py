"""Workloads known by their measurements: guests of any TEE that no statement of Kokon's describes."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from provisioning_factory import MEASUREMENT, attestation, launch

from kokon.appraisal.policy import Policy
from kokon.cli.main import main
from kokon.errors import DeniedError, KokonError, UntrustedError
from kokon.jose.jwe import decrypt
from kokon.provisioning.measured import match, parse_measured, references_of
from kokon.provisioning.workload import decode_workload, encode_workload
from kokon.tee.endorsements import Endorsements
from kokon.tee.registry import verify
from kokon.testing.vendor import FakeVendor

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
DOCUMENT = b'version = "0.1.0"\nalgorithm = "sha256"\n\n[data]\n"a.txt" = "hi"\n'
SECRET = "kbs:///billing/secret/db"


def body(measurement: bytes = MEASUREMENT, **changes: Any) -> dict[str, Any]:
    references = f'[[reference]]\ntee = "snp"\nmeasurement = "{measurement.hex()}"\n'
    end = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    return {"name": "billing", "references": references, "resources": [SECRET], "not_after": end, **changes}


def attest(server: Any, chip: Any, measurement: bytes = MEASUREMENT, policy: int = 0x30000) -> Any:
    nonce = server.challenge()
    guest = launch(chip.processor, DOCUMENT, measurement, policy)
    return server.guest.post("/kbs/v0/attest", json=attestation(guest, nonce, server.tee_key, DOCUMENT))


def read(server: Any) -> Any:
    return server.guest.get("/kbs/v0/resource/billing/secret/db")


def test_a_guest_is_known_by_its_measurement(server: Any, chip: Any) -> None:
    server.admin.admit(body())
    server.admin.put("billing/secret/db", b"correct horse")
    server.admin.put("billing/secret/other", b"battery")
    assert attest(server, chip).status_code == 200
    assert decrypt(read(server).content, server.tee_key) == b"correct horse"
    other = server.guest.get("/kbs/v0/resource/billing/secret/other")
    assert server.denial(other)[0] == "resource-not-granted"


def test_another_measurement_is_told_what_comes_nearest(server: Any, chip: Any) -> None:
    server.admin.admit(body())
    code, entry = server.denial(attest(server, chip, bytes(48)))
    assert code == "workload-unknown"
    checks = {check["name"]: check for check in entry["checks"]}
    assert "billing by its measurements" in checks["workload"]["expected"]
    assert checks["measurement"]["outcome"] == "failed"
    assert MEASUREMENT.hex() in checks["measurement"]["expected"]
    assert read(server).status_code in (401, 403)


def test_debug_is_refused_until_the_workloads_policy_allows_it(server: Any, chip: Any) -> None:
    debug = 0x30000 | 1 << 19
    server.admin.admit(body())
    assert attest(server, chip, policy=debug).status_code == 403
    server.admin.admit(body(policy="[allow]\ndebug = true\n"))
    assert attest(server, chip, policy=debug).status_code == 200


def test_a_new_policy_ends_the_tokens_of_the_old_one(server: Any, chip: Any) -> None:
    server.admin.admit(body())
    server.admin.put("billing/secret/db", b"x")
    assert attest(server, chip).status_code == 200
    assert read(server).status_code == 200
    server.admin.admit(body(policy="[require]\nsmt_off = true\n"))
    assert server.denial(read(server))[0] == "workload-withdrawn"


def test_no_more_activations_than_allowed(server: Any, chip: Any) -> None:
    server.admin.admit(body(max_activations=2))
    assert [attest(server, chip).status_code for _ in range(3)] == [200, 200, 403]
    denial = attest(server, chip)
    code, entry = server.denial(denial)
    assert code == "activations-exhausted"
    assert entry["checks"][0]["found"].endswith("3")
    server.admin.admit(body(max_activations=3))
    assert [attest(server, chip).status_code for _ in range(2)] == [200, 403]
    server.admin.withdraw("billing")
    server.admin.admit(body(max_activations=1))
    assert attest(server, chip).status_code == 200
    granted = [entry for entry in server.events() if entry["event"] == "attestation-granted"]
    assert len(granted) == 4


def test_what_may_not_be_admitted(server: Any) -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"name": "No/Name"}, "workload-name"),
        ({"references": "x = 1"}, "field-missing"),
        ({"references": "not toml"}, "reference-malformed"),
        ({"policy": "[allow]\neverything = true\n"}, "policy-key-unknown"),
        ({"resources": ["kbs:///a/b"]}, "resource-path"),
        ({"not_after": "2020-01-01T00:00:00+00:00"}, "workload-expired"),
        ({"not_after": "tomorrow"}, "workload-record"),
        ({"not_after": "2030-01-01T00:00:00"}, "workload-record"),
        ({"max_activations": 0}, "field-range"),
        ({"max_activations": True}, "field-type"),
        ({"more": 1}, "field-unknown"),
    ]
    for changes, code in bad:
        with pytest.raises(KokonError) as caught:
            server.admin.admit(body(**changes))
        assert caught.value.code == code
    assert server.admin.workloads() == []


def test_there_is_no_log_of_such_guests(server: Any) -> None:
    server.admin.admit(body())
    with pytest.raises(DeniedError) as caught:
        server.admin.log_token("billing")
    assert caught.value.code == "log-not-kept"


def test_records_keep_everything() -> None:
    value = {**body(), "not_after": "2030-01-01T00:00:00+00:00", "max_activations": 7, "policy": 'name = "ours"\n'}
    workload = parse_measured(value, NOW)
    again = decode_workload(encode_workload(workload))
    assert again == workload
    assert again.terms() == workload.terms()
    assert references_of(again)[0].not_after == workload.not_after


@pytest.mark.parametrize("kind", ["snp", "tdx", "sgx", "tpm", "nitro"])
def test_every_tee_is_matched_by_its_own_references(kind: str) -> None:
    """The fake vendor's evidence of each kind: its own references match, the others' and one wrong bit do not."""
    vendor = FakeVendor(NOW)
    subject = getattr(vendor, kind)()
    claims = verify(subject, vendor.endorsements(subject), NOW)
    registers = {name: value for name, value in claims.registers.items() if name.startswith(("rtmr1", "rtmr2", "pcr"))}
    if kind == "tpm":
        registers = {name: value for name, value in registers.items() if name.startswith("pcr4")} or registers

    def references(measurement: bytes) -> str:
        lines = ["[[reference]]", f'tee = "{kind}"']
        lines += [f'measurement = "{measurement.hex()}"'] if kind != "tpm" else []
        lines += ["[reference.registers]"] if registers else []
        lines += [f'"{name}" = "{value.hex()}"' for name, value in registers.items()]
        return "\n".join(lines) + "\n"

    value = {**body(), "not_after": "2030-01-01T00:00:00+00:00"}
    good = parse_measured({**value, "references": references(claims.measurement)}, NOW)
    found = match(claims, [good], Policy(), NOW)
    assert found is not None
    measured = {check.name: check.outcome for check in found[1].appraised}
    assert "failed" not in {measured[name] for name in measured if name in ("measurement", *registers)}
    other = parse_measured({**value, "references": references(claims.measurement).replace(f'"{kind}"', '"other"')}, NOW)
    wrong = match(claims, [other], Policy(), NOW)
    assert wrong is not None
    assert any(check.outcome == "failed" for check in wrong[1].appraised)
    assert match(claims, [], Policy(), NOW) is None


def test_the_first_of_several_by_name() -> None:
    vendor = FakeVendor(NOW)
    subject = vendor.snp()
    claims = verify(subject, vendor.endorsements(subject), NOW)
    value = {**body(claims.measurement), "not_after": "2030-01-01T00:00:00+00:00"}
    both = [parse_measured({**value, "name": name}, NOW) for name in ("zebra", "ape")]
    found = match(claims, both, Policy(), NOW)
    assert found is not None
    assert found[0].name == "ape"


def test_evidence_that_does_not_verify_gets_nothing(server: Any, other_chip: Any) -> None:
    server.admin.admit(body())
    assert server.denial(attest(server, other_chip))[0] == "simulated-root-refused"
    assert isinstance(Endorsements(), Endorsements)


def test_commands(server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    access = {"url": server.url, "token": server.token, "certificate": server.certificate}
    admin = tmp_path / "admin.json"
    admin.write_text(json.dumps(access))
    admin.chmod(0o600)
    references = tmp_path / "billing.toml"
    references.write_text(body()["references"])
    words = ["workload", "add", "billing", "--references", str(references), "--secret", "billing/db"]
    assert main([*words, "--max-activations", "5", "--admin", str(admin)]) == 0
    said = capsys.readouterr()
    assert "admitted billing" in said.out
    assert "still missing: kokon secret put billing/secret/db" in said.err
    assert main(["provision", "rotate", "--admin", str(admin)]) == 0
    assert "tokens are signed with key" in capsys.readouterr().out
    assert main(["workload", "list", "--admin", str(admin)]) == 0
    assert "billing  by measurement" in capsys.readouterr().out
    assert main(["workload", "list", "--admin", str(admin), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["workloads"][0]["max_activations"] == 5
    assert main(["workload", "rm", "billing", "--admin", str(admin)]) == 0
    assert main(["workload", "rm", "billing", "--admin", str(admin)]) == DeniedError.exit_status
    capsys.readouterr()
    assert main([*words, "--days", "0", "--admin", str(admin)]) == 2
    assert main(["workload", "add", "x", "--references", str(tmp_path / "none"), "--admin", str(admin)]) == 2
    err = capsys.readouterr().err
    assert "days-malformed" in err
    assert "file-unreadable" in err
    assert UntrustedError.exit_status == 4
