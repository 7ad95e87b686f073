"""What ties evidence to handshake and launch document, for every TEE: what holds, and each way in which it does not."""

import hashlib
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from kbs_kit import (
    DEVICE,
    INIT_DATA,
    INIT_DIGEST,
    MAKERS,
    NONCE,
    NOW,
    PCR8,
    PRIMARY,
    claims,
    encoded,
    envelope,
    message,
    padded,
)

from kokon.errors import KokonError, MalformedError, UsageError
from kokon.provisioning.kbs.binding import (
    REPORT_DATA,
    check_binding,
    check_init_data,
    check_nonce,
    check_report_data,
    fit,
)
from kokon.provisioning.kbs.envelopes import (
    TEES,
    Device,
    allowed_tees,
    check_device,
    primary_tees,
    read_devices,
    read_evidence,
)
from kokon.provisioning.kbs.messages import VERSIONS, new_nonce, parse_attestation, primary_digest
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Check, Claims
from kokon.tee.registry import verify

QUICK = tuple(tee for tee in MAKERS if "snp" not in tee)
"""TEEs whose fake vendor needs no RSA-4096 keys; the other two are in one test of their own."""
WITH_INIT = tuple(tee for tee in QUICK if tee != "nitro")
TRIAL = Endorsements(accepted_simulated=frozenset({"sample"}))


def codes(*checks: Check) -> list[str | None]:
    return [check.code for check in checks if check.outcome == "failed"]


def bare(tee: str, **fields: Any) -> Claims:
    """Claims that nobody verified, for the fields' sake."""
    made = Claims(
        tee=tee,
        simulated=True,
        root="",
        product="",
        measurement=b"",
        host_data=b"",
        report_data=b"",
        debug=False,
        migratable=False,
        vmpl=0,
        chip_id=b"",
        reported_tcb={},
        checks=(),
    )
    return replace(made, **fields)


# -- a whole handshake of each TEE ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tee", [*QUICK, "snp", "az-snp-vtpm"])
def test_every_tee_binds(tee: str) -> None:
    text = None if tee == "nitro" else INIT_DATA
    attestation = parse_attestation(encoded(message(evidence=envelope(tee), init_data=text)), "0.4.0")
    found = claims(tee)
    assert not found.failures
    checks = check_binding(attestation, tee, NONCE, found)
    assert codes(*checks) == []
    assert [check.name for check in checks] == ["nonce", "report-data", "init-data"]
    assert {check.outcome for check in checks} == ({"passed"} if text else {"passed", "not-checked"})
    assert check_binding(attestation, tee, NONCE, found)[-1].code == (None if text else "init-data-absent")
    other = new_nonce(bytes)
    assert codes(*check_binding(attestation, tee, other, found)) == ["nonce-mismatch", "report-data-mismatch"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_binds(version: str) -> None:
    digest = PRIMARY if version == "0.4.0" else DEVICE
    attestation = parse_attestation(encoded(message(version, evidence=envelope("sgx", digest))), version)
    found = claims("sgx", digest)
    assert codes(*check_binding(attestation, "sgx", NONCE, found)) == []
    assert "report-data-mismatch" in codes(*check_binding(attestation, "sgx", new_nonce(bytes), found))
    swapped = DEVICE if digest == PRIMARY else PRIMARY
    assert codes(*check_binding(attestation, "sgx", NONCE, claims("sgx", swapped))) == ["report-data-mismatch"]


def test_another_keys_evidence() -> None:
    """Somebody in the middle puts their own key into a message with a guest's evidence."""
    from cryptography.hazmat.primitives.asymmetric import ec

    from kokon.jose.jwe import public_jwk

    jwk = public_jwk(ec.generate_private_key(ec.SECP256R1()))
    attestation = parse_attestation(encoded(message(evidence=envelope("tdx"), jwk=jwk)), "0.4.0")
    assert codes(*check_binding(attestation, "tdx", NONCE, claims("tdx"))) == ["report-data-mismatch"]


def test_devices_taken_from_or_put_into_a_message() -> None:
    for text in ('{"sampledevice":{"svn":"2"}}', " "):
        attestation = parse_attestation(encoded(message(additional=text)), "0.4.0")
        assert codes(*check_binding(attestation, "tdx", NONCE, claims("tdx"))) == ["report-data-mismatch"]
        assert codes(*check_binding(attestation, "tdx", NONCE, claims("tdx", primary_digest(attestation, NONCE)))) == []


def test_a_session_of_another_tee() -> None:
    attestation = parse_attestation(encoded(message(evidence=envelope("sgx"))), "0.4.0")
    assert codes(*check_binding(attestation, "tdx", NONCE, claims("sgx"))) == ["tee-mismatch"]


def test_the_nonce() -> None:
    assert check_nonce(NONCE, NONCE).outcome == "passed"
    for sent in ("", NONCE[:-1], NONCE.lower(), NONCE + "=", "\u00e9"):
        assert codes(check_nonce(sent, NONCE)) == ["nonce-mismatch"]


# -- report data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tee", REPORT_DATA)
def test_report_data_has_the_size_and_zeros_of_its_tee(tee: str) -> None:
    for size in (0, 20, 32, 47, 48, 49, 64, 65):
        check = check_report_data(PRIMARY, bare(tee, report_data=padded(PRIMARY, size)))
        assert codes(check) == ([] if size in REPORT_DATA[tee] else ["report-data-mismatch"]), size
    for size in REPORT_DATA[tee]:
        carried = padded(PRIMARY, size)
        for place in range(size):
            wrong = carried[:place] + bytes([carried[place] ^ 1]) + carried[place + 1 :]
            assert codes(check_report_data(PRIMARY, bare(tee, report_data=wrong))) == ["report-data-mismatch"]


@pytest.mark.parametrize("tee", ["ratls", "cca", "nvidia", ""])
def test_tees_without_a_rule_bind_nothing(tee: str) -> None:
    for data in (b"", PRIMARY, padded(PRIMARY, 64)):
        assert codes(check_report_data(PRIMARY, bare(tee, report_data=data))) == ["report-data-mismatch"]
        assert codes(check_init_data(INIT_DATA, bare(tee, host_data=padded(INIT_DIGEST, 32)))) == ["init-data-mismatch"]


# -- launch documents ----------------------------------------------------------------------------------------------


def test_the_fields_of_the_vectors() -> None:
    assert fit(INIT_DIGEST, 32) == INIT_DIGEST
    assert fit(INIT_DIGEST, 48) == INIT_DIGEST + bytes(16)
    assert fit(bytes(range(64)), 32) == bytes(range(32))
    check = check_init_data(INIT_DATA, bare("tpm", registers={"sha256:pcr8": PCR8}))
    assert (check.outcome, check.found) == ("passed", f"sha256 {PCR8.hex()}")


def placed(tee: str, digest: bytes) -> Claims:
    """Claims that say `digest` where `tee` says it."""
    if tee in ("snp", "tdx", "sgx"):
        return bare(tee, host_data=padded(digest, {"snp": 32, "tdx": 48, "sgx": 64}[tee]))
    value = hashlib.sha256(bytes(32) + padded(digest, 32)).digest()
    return bare(tee, registers={"sha256:pcr8": value, "pcr8": bytes(32)}, host_data=b"\x01" * 32)


@pytest.mark.parametrize("tee", ["snp", "tdx", "sgx", "tpm", "az-snp-vtpm", "az-tdx-vtpm"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_every_algorithm_in_every_field(tee: str, algorithm: str) -> None:
    text = INIT_DATA.replace(b"sha256", algorithm.encode())
    good = placed(tee, hashlib.new(algorithm, text).digest())
    assert check_init_data(text, good).outcome == "passed"
    assert codes(check_init_data(text + b"#", good)) == ["init-data-mismatch"]
    other = "sha384" if algorithm != "sha384" else "sha512"
    assert codes(check_init_data(text, placed(tee, hashlib.new(other, text).digest()))) == ["init-data-algorithm"]


@pytest.mark.parametrize("tee", WITH_INIT)
def test_a_document_of_another_launch(tee: str) -> None:
    assert codes(check_init_data(INIT_DATA, claims(tee, init=bytes(32)))) == ["init-data-mismatch"]
    assert codes(check_init_data(b"", claims(tee))) == ["init-data-mismatch"]


def test_fields_that_are_not_there() -> None:
    """Neither an empty field nor one of another size, nor a register that no quote covers, is a match."""
    for tee, fields in (
        ("snp", {"host_data": b""}),
        ("snp", {"host_data": padded(INIT_DIGEST, 48)}),
        ("tdx", {"host_data": INIT_DIGEST}),
        ("nitro", {"host_data": INIT_DIGEST}),
        ("nitro", {"registers": {"sha256:pcr8": PCR8, "pcr8": PCR8}}),
        ("tpm", {"host_data": INIT_DIGEST}),
        ("tpm", {"registers": {"pcr8": PCR8}}),
        ("tpm", {"registers": {"sha384:pcr8": PCR8}}),
        ("az-snp-vtpm", {"host_data": INIT_DIGEST}),
    ):
        assert codes(check_init_data(INIT_DATA, bare(tee, **fields))) == ["init-data-mismatch"], (tee, fields)


def test_a_document_that_was_launched_and_is_none() -> None:
    text = b"a." * 100_000
    assert codes(check_init_data(text, placed("snp", hashlib.sha256(text).digest()))) == ["init-data-malformed"]


def test_the_sample_says_nothing_of_its_launch() -> None:
    check = check_init_data(INIT_DATA, bare("sample"))
    assert (check.outcome, check.code) == ("not-checked", "init-data-unbound")


# -- envelopes and devices -----------------------------------------------------------------------------------------


def test_which_tees_are_taken() -> None:
    assert allowed_tees() == frozenset(TEES)
    assert "sample" not in allowed_tees()
    assert allowed_tees(("snp",), sample=True) == {"snp", "sample", "sampledevice"}
    assert primary_tees(allowed_tees(sample=True)) == {*TEES, "sample"}
    for name in ("ratls", "nvidia", "sample", ""):
        with pytest.raises(UsageError) as caught:
            allowed_tees(("snp", name))
        assert caught.value.code == "tee-unsupported"


@pytest.mark.parametrize("tee", QUICK)
def test_an_envelope_of_another_tee(tee: str) -> None:
    other = "tdx" if tee != "tdx" else "nitro"
    with pytest.raises(KokonError) as caught:
        read_evidence(other, envelope(tee))
    assert isinstance(caught.value, MalformedError)


def sample(data: bytes, svn: str = "2") -> dict[str, str]:
    from kokon.wire import b64

    return {"svn": svn, "report_data": b64(data)}


SWITCHED_ON = allowed_tees(sample=True)


def judged(text: str, endorsements: Endorsements = TRIAL, allowed: frozenset[str] = SWITCHED_ON) -> list[str | None]:
    found = []
    for device in read_devices(text, allowed):
        found += codes(*check_device(device, DEVICE, endorsements, NOW)[1])
    return found


def test_a_device_is_verified_with_the_device_digest() -> None:
    text = encoded({"sampledevice": sample(DEVICE)}).decode()
    [device] = read_devices(text, SWITCHED_ON)
    found, checks = check_device(device, DEVICE, TRIAL, NOW)
    assert found is not None
    assert found.details["svn"] == "2"
    assert [check.name for check in checks] == ["device sampledevice: signature", "device sampledevice: report-data"]
    assert judged(text) == []
    for wrong in (PRIMARY, b"", padded(DEVICE, 64), bytes(48)):
        assert judged(encoded({"sampledevice": sample(wrong)}).decode()) == ["report-data-mismatch"]


def test_the_sample_device_needs_both_switches() -> None:
    text = encoded({"sampledevice": sample(DEVICE)}).decode()
    assert judged(text, Endorsements()) == ["sample-refused"]
    assert judged(text, allowed=allowed_tees()) == ["device-unsupported"]


@pytest.mark.parametrize("name", ["nvidia", "hygondcu", "nvidia-dpu", "ratls", "", "x" * 100])
def test_devices_without_a_verifier_are_never_passed_over(name: str) -> None:
    text = encoded({name: {"device_evidence_list": []}, "sampledevice": sample(DEVICE)}).decode()
    assert judged(text) == ["device-unsupported"]
    [unknown, _] = read_devices(text, SWITCHED_ON)
    assert unknown == Device(name[:64], None)
    assert check_device(unknown, DEVICE, TRIAL, NOW)[0] is None


def test_a_device_that_is_verified_like_a_guest() -> None:
    """A TPM beside the machine: its quote carries the device digest, and lacks nothing that it needs."""
    from kbs_kit import VENDOR, _tpm

    evidence = _tpm(DEVICE, INIT_DIGEST)
    text = encoded({"tpm": VENDOR.envelope(evidence)}).decode()
    [device] = read_devices(text, SWITCHED_ON)
    found, checks = check_device(device, DEVICE, VENDOR.endorsements(evidence), NOW)
    assert found is not None
    assert codes(*checks) == codes(*verify(device.evidence or evidence, VENDOR.endorsements(evidence), NOW).checks)
    quoted = VENDOR.envelope(VENDOR.sgx(report_data=padded(DEVICE, 64)))
    [device] = read_devices(encoded({"sgx": quoted}).decode(), SWITCHED_ON)
    without = check_device(device, DEVICE, Endorsements(accepted_simulated=VENDOR.elliptic_roots), NOW)[1]
    assert codes(*without) == ["device-incomplete"]


def test_no_devices() -> None:
    assert read_devices(None, SWITCHED_ON) == ()
    assert read_devices("", SWITCHED_ON) == ()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{}", "devices-malformed"),
        ("[]", "devices-malformed"),
        ('"x"', "devices-malformed"),
        (encoded({str(number): {} for number in range(17)}).decode(), "devices-malformed"),
        ('{"azsnpvtpm":1,"az-snp-vtpm":1}', "devices-malformed"),
        ('{"nvidia":{},"nvidia":{}}', "json-malformed"),
        ("x", "json-malformed"),
        ('{"sampledevice":{"svn":1}}', "field-type"),
        ('{"sampledevice":{"quote":""}}', "sample-malformed"),
    ],
)
def test_devices_that_are_malformed(text: str, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        read_devices(text, SWITCHED_ON)
    assert caught.value.code == code


def test_time_is_that_of_the_caller() -> None:
    evidence = envelope("nitro")
    read = read_evidence("nitro", evidence)
    from kbs_kit import VENDOR

    late = verify(read, VENDOR.endorsements(read), NOW + timedelta(days=1))
    assert "certificate-expired" in codes(*late.checks)
