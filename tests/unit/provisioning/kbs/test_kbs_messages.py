"""Requests and attestations of every version, the digests of the vectors, and messages that are refused."""

import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from kbs_kit import CLIENT, DEVICE, INIT_DATA, JWK, NONCE, PRIMARY, encoded, message

from kokon.errors import KokonError, MalformedError
from kokon.jose.jwe import public_jwk
from kokon.provisioning.kbs.messages import (
    ATTEST_LIMIT,
    REQUEST_LIMIT,
    VERSIONS,
    Request,
    challenge,
    device_digest,
    new_nonce,
    parse_attestation,
    parse_request,
    primary_digest,
    runtime_data,
)

ALLOWED = ("snp", "az-snp-vtpm", "az-tdx-vtpm")
OFFER = {"supported-hash-algorithms": ["sha256", "sha384", "sha512", "sm3"]}
RSA_KEY = rsa.generate_private_key(65537, 2048)


def refusal(call: Any) -> str:
    with pytest.raises(MalformedError) as caught:
        call()
    return caught.value.code


def request(**changes: Any) -> bytes:
    return encoded({"version": "0.4.0", "tee": "snp", "extra-params": "", **changes})


# -- requests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("extra", ["", None, {}, OFFER, {"supported-hash-algorithms": ["SHA384"]}, {"newer": [1, {}]}])
def test_requests_of_every_version(version: str, extra: Any) -> None:
    sent = request(version=version, **{"extra-params": extra})
    assert parse_request(sent, ALLOWED) == Request(version, "snp")


@pytest.mark.parametrize(
    ("sent", "tee"),
    [("az-snp-vtpm", "az-snp-vtpm"), ("azsnpvtpm", "az-snp-vtpm"), ("aztdxvtpm", "az-tdx-vtpm")],
)
def test_old_spellings_of_tees(sent: str, tee: str) -> None:
    assert parse_request(request(version="0.2.0", tee=sent), ALLOWED).tee == tee


def test_a_policy_may_be_asked_for() -> None:
    assert parse_request(request(**{"extra-params": {**OFFER, "id": "gold"}}), ALLOWED).policy == "gold"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"version": "0.1.0"}, "protocol-version"),
        ({"version": "0.5.0"}, "protocol-version"),
        ({"version": "1.0.0"}, "protocol-version"),
        ({"version": "=0.4.0"}, "protocol-version"),
        ({"version": ""}, "protocol-version"),
        ({"version": 4}, "field-type"),
        ({"version": "0" * 33}, "field-too-long"),
        ({"tee": "tdx"}, "tee-unsupported"),
        ({"tee": "sample"}, "tee-unsupported"),
        ({"tee": "SNP"}, "tee-unsupported"),
        ({"tee": None}, "field-type"),
        ({"extra-params": {"supported-hash-algorithms": ["sha256", "sm3"]}}, "hash-unsupported"),
        ({"extra-params": {"supported-hash-algorithms": [384]}}, "hash-unsupported"),
        ({"extra-params": {"supported-hash-algorithms": "sha384"}}, "field-type"),
        ({"extra-params": {"supported-hash-algorithms": ["sha384"] * 17}}, "field-too-long"),
        ({"extra-params": {"id": 1}}, "field-type"),
        ({"extra-params": 1}, "field-type"),
        ({"more": 1}, "field-unknown"),
    ],
)
def test_requests_that_are_refused(changes: dict[str, Any], code: str) -> None:
    assert refusal(lambda: parse_request(request(**changes), ALLOWED)) == code


def test_requests_lack_nothing_and_are_bounded() -> None:
    for name in ("version", "tee", "extra-params"):
        members = {key: value for key, value in json.loads(request()).items() if key != name}
        assert refusal(lambda members=members: parse_request(encoded(members), ALLOWED)) == "field-missing"
    assert refusal(lambda: parse_request(b"[]", ALLOWED)) == "field-type"
    assert refusal(lambda: parse_request(b" " * (REQUEST_LIMIT + 1), ALLOWED)) == "json-too-large"
    assert refusal(lambda: parse_request(request()[:-1] + b',"tee":"snp"}', ALLOWED)) == "json-malformed"


def test_the_challenge() -> None:
    assert new_nonce(lambda size: bytes(range(size))) == NONCE
    assert challenge(NONCE) == {"nonce": NONCE, "extra-params": ""}


# -- digests -------------------------------------------------------------------------------------------------------


def test_the_digests_of_the_vectors() -> None:
    """kbs.md a.5."""
    attestation = parse_attestation(encoded(message()), "0.4.0")
    assert primary_digest(attestation, NONCE) == PRIMARY
    assert device_digest(attestation, NONCE) == DEVICE
    assert attestation.key == CLIENT.public_key()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_digest_of_each_version(version: str) -> None:
    attestation = parse_attestation(encoded(message(version)), version)
    assert primary_digest(attestation, NONCE) == (PRIMARY if version == "0.4.0" else DEVICE)
    assert device_digest(attestation, NONCE) == DEVICE
    assert attestation.nonce == (NONCE if version in ("0.3.0", "0.4.0") else None)
    assert primary_digest(attestation, new_nonce(bytes)) != primary_digest(attestation, NONCE)


def test_the_text_of_devices_is_hashed_to_the_letter() -> None:
    text = '{"sampledevice": {"svn": "2"}}\n\u00e9\U0001f600\x7f\x01'
    attestation = parse_attestation(encoded(message(additional=text)), "0.4.0")
    canonical = (
        '{"additional-evidence":"{\\"sampledevice\\": {\\"svn\\": \\"2\\"}}\\n\u00e9\U0001f600\x7f\\u0001",'
        f'"nonce":"{NONCE}","tee-pubkey":{{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC",'
        f'"x":"{JWK["x"]}","y":"{JWK["y"]}"}}}}'
    )
    assert primary_digest(attestation, NONCE) == hashlib.sha384(canonical.encode()).digest()
    assert runtime_data(attestation, NONCE) == {"nonce": NONCE, "tee-pubkey": JWK, "additional-evidence": text}
    assert device_digest(attestation, NONCE) == DEVICE


@pytest.mark.parametrize("version", VERSIONS)
def test_members_of_the_key_that_nobody_knows_do_not_count(version: str) -> None:
    jwk = {"kid": "a", "use": "enc", "x5c": ["b"], "d": "private", **JWK}
    attestation = parse_attestation(encoded(message(version, jwk=jwk)), version)
    assert attestation.jwk == JWK
    assert primary_digest(attestation, NONCE) == (PRIMARY if version == "0.4.0" else DEVICE)


@pytest.mark.parametrize(
    "key", [ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())] + [RSA_KEY]
)
def test_keys_of_every_kind(key: Any) -> None:
    attestation = parse_attestation(encoded(message(jwk=public_jwk(key))), "0.4.0")
    assert attestation.key == key.public_key()
    assert attestation.jwk == public_jwk(key)
    assert len(primary_digest(attestation, NONCE)) == 48


# -- attestations --------------------------------------------------------------------------------------------------


def test_evidence_as_a_text_before_composite_evidence() -> None:
    for version in ("0.1.1", "0.2.0", "0.3.0"):
        for sent in ({"svn": "1"}, '{"svn":"1"}', '{"svn"\n: "\\u0031"}'):
            assert parse_attestation(encoded(message(version, evidence=sent)), version).evidence == {"svn": "1"}
        assert parse_attestation(encoded(message(version)), version).additional is None
    assert refusal(lambda: parse_attestation(encoded(message(evidence='{"svn":"1"}')), "0.4.0")) == "field-type"
    doubled = encoded(message("0.2.0", evidence='{"svn":"1","svn":"2"}'))
    assert refusal(lambda: parse_attestation(doubled, "0.2.0")) == "json-malformed"
    for sent in (None, [], "[]", 1, "null"):
        data = encoded(message("0.2.0", evidence=sent))
        assert refusal(lambda data=data: parse_attestation(data, "0.2.0")) == "field-type"


@pytest.mark.parametrize("version", ["0.3.0", "0.4.0"])
def test_init_data_is_kept_to_the_byte(version: str) -> None:
    assert parse_attestation(encoded(message(version, init_data=INIT_DATA)), version).init_data == INIT_DATA
    assert parse_attestation(encoded(message(version)), version).init_data is None
    without = {name: value for name, value in message(version).items() if name != "init-data"}
    assert parse_attestation(encoded(without), version).init_data is None
    for kind, code in (("json", "init-data-format"), (1, "field-type")):
        data = encoded({**message(version), "init-data": {"format": kind, "body": ""}})
        assert refusal(lambda data=data: parse_attestation(data, version)) == code


@pytest.mark.parametrize("sent", ["0.2.0", "0.3.0", "0.4.0"])
@pytest.mark.parametrize("spoken", ["0.1.1", "0.3.0", "0.4.0"])
def test_a_session_keeps_its_version(sent: str, spoken: str) -> None:
    """A message in the form of another version is refused, or is bound in another way than its evidence was."""
    data = encoded(message(sent))
    if sent == spoken or (sent, spoken) == ("0.2.0", "0.1.1"):
        assert parse_attestation(data, spoken).evidence == {"svn": "1"}
    elif (sent, spoken) == ("0.4.0", "0.3.0"):
        assert primary_digest(parse_attestation(data, spoken), NONCE) == DEVICE
    else:
        assert refusal(lambda: parse_attestation(data, spoken)) == "field-missing"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"alg": "RSA1_5"}, "jwe-algorithm"),
        ({"alg": "ECDH-ES"}, "jwe-algorithm"),
        ({"alg": "RSA-OAEP-256"}, "jwe-algorithm"),
        ({"alg": None}, "field-type"),
        ({"kty": "OKP"}, "key-unsupported"),
        ({"kty": "AKP", "alg": "ML-KEM-768+A192KW", "pub": "AA"}, "key-unsupported"),
        ({"kty": 1}, "field-type"),
        ({"crv": "P-224"}, "key-unsupported"),
        ({"crv": "P-384"}, "size-mismatch"),
        ({"x": JWK["y"], "y": JWK["x"]}, "jwk-malformed"),
        ({"x": JWK["x"] + "="}, "base64-malformed"),
        ({"x": "AAAA" + JWK["x"]}, "size-mismatch"),
    ],
)
def test_keys_that_are_refused(changes: dict[str, Any], code: str) -> None:
    assert refusal(lambda: parse_attestation(encoded(message(jwk={**JWK, **changes})), "0.4.0")) == code


@pytest.mark.parametrize("algorithm", ["RSA1_5", "RSA-OAEP", "ECDH-ES+A256KW"])
def test_rsa_only_with_sha_256(algorithm: str) -> None:
    jwk = public_jwk(RSA_KEY, algorithm=algorithm)
    assert refusal(lambda: parse_attestation(encoded(message(jwk=jwk)), "0.4.0")) == "jwe-algorithm"


def test_a_key_lacks_nothing() -> None:
    for name in JWK:
        jwk = {key: value for key, value in JWK.items() if key != name}
        assert refusal(lambda jwk=jwk: parse_attestation(encoded(message(jwk=jwk)), "0.4.0")) == "field-missing"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (encoded({**message(), "more": 1}), "field-unknown"),
        (encoded(message(nonce="A" * 45)), "field-too-long"),
        (encoded(message(nonce=None)), "field-type"),
        (encoded(message(additional=None)), "field-type"),
        (encoded(message(additional={})), "field-type"),
        (encoded({**message(), "runtime-data": {"nonce": NONCE}}), "field-missing"),
        (encoded({**message(), "runtime-data": {"nonce": NONCE, "tee-pubkey": JWK, "x": 1}}), "field-unknown"),
        (encoded({**message(), "tee-evidence": {"primary_evidence": {}}}), "field-missing"),
        (encoded(message())[:-1] + b',"init-data":null}', "json-malformed"),
        (encoded(message()) + b" ", None),
        (encoded(message()) + b"x", "json-malformed"),
        (b" " * (ATTEST_LIMIT + 1), "json-too-large"),
        (b'"text"', "field-type"),
    ],
)
def test_attestations_that_are_refused(data: bytes, code: str | None) -> None:
    if code is None:
        assert parse_attestation(data, "0.4.0").jwk == JWK
    else:
        assert refusal(lambda: parse_attestation(data, "0.4.0")) == code


@given(st.data())
@settings(max_examples=100)
def test_damage_ends_in_our_errors_or_changes_nothing_that_counts(data: st.DataObject) -> None:
    """Whatever one byte does, the message is refused or hashes to something that the hardware did not sign."""
    version = data.draw(st.sampled_from(VERSIONS))
    sent = bytearray(encoded(message(version, init_data=INIT_DATA)))
    place = data.draw(st.integers(0, len(sent) - 1))
    sent[place] = data.draw(st.integers(0, 255))
    try:
        attestation = parse_attestation(bytes(sent), version)
    except KokonError:
        return
    bound = PRIMARY if version == "0.4.0" else DEVICE
    assert (primary_digest(attestation, NONCE) == bound) == (
        dict(attestation.jwk) == JWK and attestation.additional in ("", None)
    )
