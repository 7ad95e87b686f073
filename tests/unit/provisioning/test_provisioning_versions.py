"""Every protocol version and the binding of every TEE, against a real server where evidence can be made for it."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from provisioning_factory import launch

from conftest import Chip, Server
from kokon.appraisal.policy import Policy
from kokon.errors import MalformedError
from kokon.jose.jwe import decrypt, public_jwk
from kokon.provisioning.protocol import TEES, Hello, Session, parse_attestation, runtime_digest
from kokon.provisioning.release import Attempt, judge, launch_digest
from kokon.tee.evidence import Claims, Evidence, passed
from kokon.tee.snp.envelope import to_envelope

NOW = datetime(2026, 11, 27, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
FLAT = ("0.1.1", "0.2.0")


def message(version: str, nonce: str, key: Any, guest: Any, document: bytes, *, text: bool = False) -> dict[str, Any]:
    """What a client of `version` sends, its evidence bound as that version does."""
    jwk = public_jwk(key)
    additional = "" if version == "0.4.0" else None
    evidence: Any = to_envelope(guest.evidence(runtime_digest(jwk, nonce, additional) + bytes(16)))
    if version in FLAT:
        return {"tee-pubkey": jwk, "tee-evidence": json.dumps(evidence) if text else evidence}
    if version == "0.4.0":
        evidence = {"primary_evidence": evidence, "additional_evidence": ""}
    sent = {"format": "toml", "body": document.decode()}
    return {"init-data": sent, "runtime-data": {"nonce": nonce, "tee-pubkey": jwk}, "tee-evidence": evidence}


@pytest.mark.parametrize("version", ["0.1.1", "0.2.0", "0.3.0", "0.4.0"])
@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "RSA"])
def test_a_handshake_of_every_version(server: Server, chip: Chip, version: str, kind: str) -> None:
    curves = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
    key: Any = ec.generate_private_key(curves[kind]) if kind in curves else rsa.generate_private_key(65537, 2048)
    document = server.admit()
    request = {"version": version, "tee": "snp", "extra-params": ""}
    nonce = server.guest.post("/kbs/v0/auth", json=request).json()["nonce"]
    sent = message(version, nonce, key, launch(chip.processor, document), document, text=version == "0.1.1")
    answer = server.guest.post("/kbs/v0/attest", json=sent)
    assert answer.status_code == 200, answer.text
    released = server.guest.get("/kbs/v0/resource/clinic/secret/db-password")
    assert decrypt(released.content, key) == b"correct horse"


@pytest.mark.parametrize("version", ["0.1.1", "0.2.0", "0.3.0"])
def test_evidence_bound_as_in_another_version_is_refused(server: Server, chip: Chip, version: str) -> None:
    """Neither another session's nonce nor the newest version's binding passes for an older version's."""
    document = server.admit()
    guest = launch(chip.processor, document)
    for wrong in ("nonce", "binding"):
        nonce = server.guest.post("/kbs/v0/auth", json={"version": version, "tee": "snp", "extra-params": ""}).json()[
            "nonce"
        ]
        sent = message(version, "AAAA" if wrong == "nonce" else nonce, KEY, guest, document)
        if wrong == "binding":
            other = guest.evidence(runtime_digest(public_jwk(KEY), nonce, "") + bytes(16))
            sent["tee-evidence"] = to_envelope(other)
        code, entry = server.denial(server.guest.post("/kbs/v0/attest", json=sent))
        assert "report-data-mismatch" in [check.get("code") for check in entry["checks"]]
        assert code in ("report-data-mismatch", "nonce-mismatch")


def test_the_form_of_one_version_is_not_anothers() -> None:
    jwk = public_jwk(KEY)
    flat = json.dumps({"tee-pubkey": jwk, "tee-evidence": {}}).encode()
    members: dict[str, Any] = {"runtime-data": {"nonce": "n", "tee-pubkey": jwk}, "tee-evidence": {}}
    third = json.dumps(members).encode()
    fourth = json.dumps({**members, "tee-evidence": {"primary_evidence": {}, "additional_evidence": ""}}).encode()
    good = {"0.1.1": flat, "0.2.0": flat, "0.3.0": third, "0.4.0": fourth}
    for version, body in good.items():
        assert parse_attestation(body, version).jwk == jwk
    for version, other in (("0.1.1", third), ("0.2.0", fourth), ("0.3.0", flat), ("0.4.0", flat), ("0.4.0", third)):
        with pytest.raises(MalformedError):
            parse_attestation(other, version)


def test_evidence_of_another_tee_than_announced(server: Server, chip: Chip) -> None:
    document = server.admit()
    request = {"version": "0.4.0", "tee": "tdx", "extra-params": ""}
    nonce = server.guest.post("/kbs/v0/auth", json=request).json()["nonce"]
    sent = message("0.4.0", nonce, KEY, launch(chip.processor, document), document)
    answer = server.guest.post("/kbs/v0/attest", json=sent)
    assert answer.status_code == 403
    assert server.events()[-1]["event"] == "attestation-denied"


def claims(tee: str, report_data: bytes, host_data: bytes = b"", pcr8: bytes | None = None) -> Claims:
    registers = {} if pcr8 is None else {"pcr8": pcr8}
    return Claims(
        tee, False, "", "", bytes(48), host_data, report_data, False, False, 0, b"", {}, (passed("x"),), registers
    )


def outcomes(found: Claims, document: bytes | None = None, announced: str | None = None) -> dict[str, str]:
    sent = None if document is None else {"format": "toml", "body": document.decode()}
    body = {
        "init-data": sent,
        "runtime-data": {"nonce": "n", "tee-pubkey": public_jwk(KEY)},
        "tee-evidence": {"primary_evidence": {}, "additional_evidence": ""},
    }
    attestation = parse_attestation(json.dumps(body).encode())
    attempt = Attempt(attestation, Session("id", "n", announced or found.tee, NOW), Evidence(found.tee, b"x"))
    verdict = judge(attempt, found, lambda _: None, {}, Policy(), NOW)
    return {check.name: check.code or check.outcome for check in verdict.checks}


def test_claims_of_another_tee_than_the_session_is_for() -> None:
    assert outcomes(claims("snp", b""), announced="sgx")["tee"] == "tee-mismatch"
    assert "tee" not in outcomes(claims("snp", b""))


DIGEST = runtime_digest(public_jwk(KEY), "n", "")


@pytest.mark.parametrize("tee", TEES)
def test_report_data_of_every_tee(tee: str) -> None:
    forms = {"tpm": DIGEST[:32], "az-snp-vtpm": DIGEST, "az-tdx-vtpm": DIGEST, "nitro": DIGEST}
    good = forms.get(tee, DIGEST.ljust(64, b"\0"))
    assert outcomes(claims(tee, good))["report-data"] == "passed"
    for bad in (b"", good[:-1], good + b"\0", bytes(len(good)), bytes([good[0] ^ 1]) + good[1:]):
        assert outcomes(claims(tee, bad))["report-data"] == "report-data-mismatch"


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize(("tee", "size"), [("snp", 32), ("tdx", 48), ("sgx", 64)])
def test_launch_documents_are_bound_to_the_hardware_field(tee: str, size: int, algorithm: str) -> None:
    document = f'version = "0.1.0"\nalgorithm = "{algorithm}"\n\n[data]\n"a.txt" = "hi"\n'.encode()
    digest = hashlib.new(algorithm, document).digest()
    field = digest[:size].ljust(size, b"\0")
    assert outcomes(claims(tee, b"", field), document)["init-data"] == "passed"
    assert outcomes(claims(tee, b"", field), document + b"\n")["init-data"] == "init-data-mismatch"
    assert outcomes(claims(tee, b"", bytes(size)), document)["init-data"] == "init-data-mismatch"
    assert outcomes(claims(tee, b"", b""), document)["init-data"] == "init-data-mismatch"


def test_the_vector_of_initdata() -> None:
    """The digest and PCR 8 of kbs.md g.5; a longer hash does not fit into PCR 8 and is refused."""
    document = b"version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\n\"a.txt\" = '''hi'''\n"
    host_data = bytes.fromhex("fd03e8704ab12bd9f7a4525a1f6fcc5ba96969454d7a0855117493a4033df660")
    pcr8 = bytes.fromhex("36a1c654ee0348eb944c44eb9eeeb6e2f09b0243d342abdc43a10ec17ee50b8f")
    assert outcomes(claims("snp", b"", host_data), document)["init-data"] == "passed"
    assert launch_digest(claims("tdx", b"", host_data.ljust(48, b"\0"))) == host_data
    for tee in ("tpm", "az-snp-vtpm", "az-tdx-vtpm"):
        assert outcomes(claims(tee, b"", pcr8=pcr8), document)["init-data"] == "passed"
        assert outcomes(claims(tee, b"", pcr8=bytes(32)), document)["init-data"] == "init-data-mismatch"
        assert outcomes(claims(tee, b""), document)["init-data"] == "init-data-mismatch"
        longer = document.replace(b"sha256", b"sha384")
        assert outcomes(claims(tee, b"", pcr8=pcr8), longer)["init-data"] == "init-data-mismatch"


def test_documents_are_not_read_before_they_are_bound() -> None:
    """Dotted names that a TOML reader would spend gigabytes on: a stranger can send them."""
    hostile = b"a." * 300_000 + b"a = 1\n"
    assert outcomes(claims("snp", b"", bytes(32)), hostile)["init-data"] == "init-data-mismatch"


def test_rsa1_5_is_refused() -> None:
    jwk = public_jwk(rsa.generate_private_key(65537, 2048)) | {"alg": "RSA1_5"}
    body = {"tee-pubkey": jwk, "tee-evidence": {}}
    with pytest.raises(MalformedError) as caught:
        parse_attestation(json.dumps(body).encode(), "0.2.0")
    assert caught.value.code == "jwe-algorithm"
    assert Hello("0.2.0", "snp").version in FLAT
