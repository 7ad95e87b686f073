"""Every protocol version and the binding of every TEE, against a real server where evidence can be made for it."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from provisioning_factory import launch, runtime_digest

from kokon.jose.jwe import decrypt, public_jwk
from kokon.provisioning.release import launch_digest
from kokon.tee.evidence import Claims
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
def test_a_handshake_of_every_version(server: Any, chip: Any, version: str, kind: str) -> None:
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
def test_evidence_bound_as_in_another_version_is_refused(server: Any, chip: Any, version: str) -> None:
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


def test_evidence_of_another_tee_than_announced(server: Any, chip: Any) -> None:
    document = server.admit()
    request = {"version": "0.4.0", "tee": "tdx", "extra-params": ""}
    nonce = server.guest.post("/kbs/v0/auth", json=request).json()["nonce"]
    sent = message("0.4.0", nonce, KEY, launch(chip.processor, document), document)
    answer = server.guest.post("/kbs/v0/attest", json=sent)
    assert answer.status_code == 400
    assert server.events()[-1]["event"] == "attestation-denied"


def test_documents_are_not_read_before_they_are_bound(server: Any, chip: Any) -> None:
    """Dotted names that a TOML reader would spend gigabytes on: a stranger can send them."""
    document, hostile = server.admit(), b"a." * 300_000 + b"a = 1\n"
    nonce = server.challenge()
    sent = message("0.4.0", nonce, server.tee_key, launch(chip.processor, document), hostile)
    assert server.denial(server.guest.post("/kbs/v0/attest", json=sent))[0] == "init-data-mismatch"


def test_a_longer_field_holds_the_digest_and_zeros() -> None:
    digest = bytes(range(1, 33))

    def fields(host_data: bytes) -> Claims:
        return Claims("tdx", False, "", "", b"", host_data, b"", False, False, 0, b"", {}, ())

    assert launch_digest(fields(digest.ljust(48, b"\0"))) == digest
    assert launch_digest(fields(digest)) == digest
    assert launch_digest(fields(digest.ljust(47, b"\0") + b"x")) != digest
