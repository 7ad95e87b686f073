"""What stands in tokens: Trustee's names and places, digests where evidence was, small enough for a header."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kokon.appraisal.result import AttestationResult
from kokon.appraisal.vector import ASPECTS, NO_CLAIM
from kokon.provisioning.token.claims import Subject, audience_of, compact_ear, tee_pubkey
from kokon.provisioning.token.keys import generate_keys
from kokon.provisioning.token.sign import sign
from kokon.provisioning.token.verify import TokenVerifier
from kokon.tee.evidence import Check, Claims, passed
from kokon.tee.registry import tee
from kokon.testing import FakeVendor
from kokon.testing.vendor.eventlog import BOOT, CC_BOOT

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
LIFETIME = timedelta(minutes=30)
VENDOR = FakeVendor(NOW)
JWK = {"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW", "x": "A" * 43, "y": "B" * 43}
NONCE = "A" * 43 + "="
SUBJECT = Subject(
    "default", "0123456789abcdef" * 2, NONCE, {"nonce": NONCE, "tee-pubkey": JWK, "additional-evidence": ""}
)
EXTRA = {"kokon.workload": "clinic", "kokon.host-data": "ab" * 32, "kokon.terms": "cd" * 32}
FAILED = Check("coverage", "not-checked", "some-code", "x" * 100, "y" * 100, "a long hint " * 20)


def described(evidence: Any) -> Claims:
    """Claims with everything that the TEE's package says of evidence; nothing is verified."""
    return Claims(
        tee=evidence.tee,
        simulated=False,
        root="ab" * 32,
        product="Milan",
        measurement=bytes(range(48)),
        host_data=bytes(range(32)),
        report_data=bytes(range(64)),
        debug=False,
        migratable=False,
        vmpl=0,
        chip_id=bytes(range(64)),
        reported_tcb={"bootloader": 4, "tee": 0, "snp": 22, "microcode": 213},
        checks=(passed("report-signature", "by SEV-VCEK"), FAILED),
        details=tee(evidence.tee).describe(evidence),
        canonical=bytes(range(32)),
    )


def result(claims: Claims) -> AttestationResult:
    return AttestationResult("affirming", dict.fromkeys(ASPECTS, NO_CLAIM), claims.checks, claims)


SNP = result(described(VENDOR.snp(certificates="none")))
TDX = result(described(VENDOR.tdx(log=True, events=CC_BOOT)))
TPM = result(described(VENDOR.tpm(certified=False, events=BOOT)))
NITRO = result(described(VENDOR.nitro(nonce=bytes(48))))


def made(found: AttestationResult = SNP, subject: Subject = SUBJECT, **options: Any) -> dict[str, Any]:
    return compact_ear(found, subject, NOW, LIFETIME, issuer="kokon", extra=EXTRA, **options)


def annotated(claims: dict[str, Any]) -> Any:
    return claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]


@pytest.mark.parametrize("verbose", [False, True])
def test_what_relying_parties_look_for(verbose: bool) -> None:
    claims = made(verbose=verbose)
    assert claims["eat_profile"] == "tag:github.com,2024:confidential-containers/Trustee"
    assert (claims["iat"], claims["exp"]) == (int(NOW.timestamp()), int(NOW.timestamp()) + 1800)
    assert (claims["iss"], claims["aud"], claims["jti"]) == ("kokon", "default", SUBJECT.identity)
    assert claims["eat_nonce"] == NONCE
    assert claims["kokon.evidence"] == bytes(range(32)).hex()
    assert set(claims["ear.verifier-id"]) == {"developer", "build"}
    submodule = claims["submods"]["cpu0"]
    assert submodule["ear.status"] == "affirming"
    assert set(submodule["ear.trustworthiness-vector"]) == set(ASPECTS)
    assert submodule["ear.appraisal-policy-id"] == "strict"
    found = annotated(claims)
    assert found["report_data"] == bytes(range(64)).hex()
    assert found["init_data"] == bytes(range(32)).hex()
    assert found["runtime_data_claims"]["tee-pubkey"] == JWK == tee_pubkey(claims)
    assert found["runtime_data_claims"]["nonce"] == NONCE
    assert {name: claims[name] for name in EXTRA} == EXTRA


def test_every_name_that_trustee_has_for_snp() -> None:
    """deps/verifier/src/snp: the claims that its default policy and others ask about, in compact tokens too."""
    names = {
        *("policy_abi_major", "policy_abi_minor", "policy_smt_allowed", "policy_migrate_ma", "policy_debug_allowed"),
        *("policy_single_socket", "reported_tcb_bootloader", "reported_tcb_tee", "reported_tcb_snp"),
        *("reported_tcb_microcode", "platform_tsme_enabled", "platform_smt_enabled", "measurement"),
    }
    full, compact = annotated(made(verbose=True))["snp"], annotated(made())["snp"]
    assert names <= set(compact)
    assert {name: compact[name] for name in names} == {name: full[name] for name in names}


def test_every_name_that_trustee_has_for_tdx() -> None:
    full, compact = annotated(made(TDX, verbose=True))["tdx"], annotated(made(TDX))["tdx"]
    assert compact["quote"] == full["quote"]
    assert compact["td_attributes"] == full["td_attributes"]
    assert {"mr_td", "rtmr_1", "rtmr_2", "xfam"} <= set(compact["quote"]["body"])
    assert compact["quote"]["header"]["vendor_id"] == "939a7233f79c4ca9940a0db3957f0607"


def test_registers_of_a_tpm_stand_there_once() -> None:
    claims = annotated(made(TPM))["tpm"]
    assert {"pcrs", "quotes", "tpm"} & set(claims) == set()
    assert claims["ak_public"] == annotated(made(TPM, verbose=True))["tpm"]["ak_public"]


def test_evidence_gives_way_to_its_digest() -> None:
    log = annotated(made(TPM, verbose=True))["tpm"]["uefi_event_logs"]
    compact = annotated(made(TPM))["tpm"]
    assert "uefi_event_logs" not in compact
    encoded = json.dumps(log, separators=(",", ":"), ensure_ascii=False).encode()
    assert compact["uefi_event_logs_sha256"] == hashlib.sha256(encoded).hexdigest()
    assert {"certificate_sha256", "cabundle_sha256"} <= set(annotated(made(NITRO))["nitro"])
    assert {"certificate", "cabundle"} & set(annotated(made(NITRO))["nitro"]) == set()


def test_what_devices_sent_gives_way_to_its_digest() -> None:
    text = '{"nvidia":{}}' * 1000
    subject = replace(SUBJECT, runtime_data={**SUBJECT.runtime_data, "additional-evidence": text})
    runtime = annotated(made(subject=subject))["runtime_data_claims"]
    assert runtime == {
        "nonce": NONCE,
        "tee-pubkey": JWK,
        "additional-evidence_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    assert annotated(made(subject=subject, verbose=True))["runtime_data_claims"]["additional-evidence"] == text
    assert set(annotated(made())["runtime_data_claims"]) == {"nonce", "tee-pubkey"}
    assert subject.runtime_data["additional-evidence"] == text


def test_digests_of_keys_that_there_are() -> None:
    assert {"id_key_digest", "author_key_digest"} & set(annotated(made())["snp"]) == set()
    signed = result(described(VENDOR.snp(certificates="none", id_key_digest=b"\x01" * 48)))
    assert annotated(made(signed))["snp"]["id_key_digest"] == "01" * 48


def test_checks_are_told_in_short() -> None:
    submodule = made()["submods"]["cpu0"]
    assert submodule["kokon.checks"] == [{"name": "coverage", "outcome": "not-checked", "code": "some-code"}]
    assert "kokon.missing" not in submodule
    assert len(made(verbose=True)["submods"]["cpu0"]["kokon.checks"]) == 2
    good = replace(SNP, checks=SNP.checks[:1])
    assert "kokon.checks" not in made(good)["submods"]["cpu0"]


def test_extra_claims_overwrite_nothing() -> None:
    hostile = dict.fromkeys(("iss", "aud", "exp", "jti", "submods", "eat_nonce", "kokon.evidence"), "mine")
    claims = compact_ear(SNP, SUBJECT, NOW, LIFETIME, issuer="kokon", extra=hostile)
    assert "mine" not in claims.values()


def test_a_portable_token_has_no_aud() -> None:
    """Trustee's key broker refuses every token that has one."""
    claims = made(portable=True)
    assert "aud" not in claims
    assert audience_of(claims) == audience_of(made()) == "default"
    assert audience_of({}) == ""


def test_tokens_are_small() -> None:
    """A header of 4 KiB must do, with cookies beside it; for SNP it is less than 3 KiB."""
    keys = generate_keys(NOW)
    affirmed = replace(SNP, checks=SNP.checks[:1])
    assert len(sign(made(affirmed), keys)) < 3072
    for found in (TDX, TPM, NITRO):
        assert len(sign(made(found), keys)) < 6144


def test_a_whole_turn() -> None:
    keys = generate_keys(NOW)
    verifier = TokenVerifier(keys, "kokon", lambda claims: (claims["kokon.workload"], dict(tee_pubkey(claims))))
    for options in ({}, {"verbose": True}, {"portable": True}):
        token = sign(made(**options), keys)
        assert verifier.verify(token, "default", NOW) == ("clinic", JWK)
