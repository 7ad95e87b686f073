"""What the suite sends and reads, held against the protocol's vectors and against the code that it must not share."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from conformance_kit import CHIP
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey

from kokon.conformance import tokens
from kokon.conformance.case import FOUND_LIMIT, Notes, Skip, Violation
from kokon.conformance.connection import Answer
from kokon.conformance.evidence import Sample, Snp, envelope, fitted_digest, foreign
from kokon.conformance.keys import MEMBERS, TeeKey, check_header, check_members, make_key, unlock
from kokon.conformance.messages import (
    ERROR_PREFIX,
    attestation,
    b64,
    b64url,
    device_digest,
    jcs,
    request,
    runtime_digest,
    selected_hash,
    unb64url,
)
from kokon.errors import UsageError
from kokon.jose.jwe import encrypt_to, public_jwk, thumbprint
from kokon.tee.snp.envelope import from_envelope, to_envelope
from kokon.wire import canonical_json

NONCE = b64(bytes(range(32)))
SCALAR = int.from_bytes(bytes(range(1, 33)), "big")
GUEST = TeeKey("P-256", ec.derive_private_key(SCALAR, ec.SECP256R1()), "ECDH-ES+A256KW")
JWE = {
    "protected": "eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImVuYyI6IkEyNTZHQ00iLCJlcGsiOnsiY3J2IjoiUC0yNTYiLCJrdHkiOiJFQyIsIngi"
    "OiJIeFFCUnIteHNsSDRUMDNiNE5UTno5ZDZfWmhLbFNEalY1UUNINE1TdTU0IiwieSI6IjdKbGFDTEg2ZHdUZlBjd0xVS2xtVW1QN2R4SDVYNS1LUk"
    "p4UWx1UjhpU3MifX0",
    "encrypted_key": "d2l_gRSETiaIBH5gru-MB5YUMdW5QYrH8kNVUj0EAnByxqz-gIsOPQ",
    "iv": "AAECAwQFBgcICQoL",
    "ciphertext": "e4bafxSDXpZn",
    "tag": "9CD0xMphkYAidkV9Tx1PkA",
}


def test_the_binding_of_each_version() -> None:
    """The first two digests are vectors of the protocol's facts, made with other software."""
    primary = runtime_digest("0.4.0", GUEST.jwk, NONCE, "", "sha384").hex()
    assert primary.startswith("c97fc717bffcdca39b3485d4019c1de4133fc9622ba484e947b417b83ffbae1a")
    device = device_digest(GUEST.jwk, NONCE, "sha384").hex()
    assert device.startswith("e350679595854437e84f52e9a82671d2b81e0cce5ff82fb3511fad532d2ef9c2")
    for version in ("0.3.0", "0.2.0", "0.1.1"):
        assert runtime_digest(version, GUEST.jwk, NONCE, "ignored", "sha384").hex() == device


def test_the_resource_vector_opens() -> None:
    check_members(JWE)
    check_header(JWE, GUEST)
    assert unlock(JWE, GUEST) == b"hello kbs"
    with pytest.raises(Violation):
        unlock(JWE, make_key())
    for name in MEMBERS:
        broken = {**JWE, name: b64url(bytes([unb64url(JWE[name], name)[0] ^ 1]) + unb64url(JWE[name], name)[1:])}
        with pytest.raises(Violation):
            unlock(broken, GUEST)


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "RSA"])
def test_every_kind_of_key_opens_what_the_library_encrypts(kind: str) -> None:
    key = make_key(kind)
    assert key.jwk == public_jwk(key.private)
    message: dict[str, Any] = encrypt_to(key.jwk, b"value")
    check_members(message)
    check_header(message, key)
    assert unlock(message, key) == b"value"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"aad": ""}, "members"),
        ({"iv": "AAAA"}, "iv has 3 bytes"),
        ({"tag": b64url(bytes(12))}, "tag has 12 bytes"),
        ({"ciphertext": "e4bafxSDXpZn=="}, "base64url"),
        ({"encrypted_key": None}, "not text"),
    ],
)
def test_answers_of_another_form_are_told(change: dict[str, Any], said: str) -> None:
    with pytest.raises(Violation, match=said):
        check_members({**JWE, **change})
    with pytest.raises(Violation, match="members"):
        check_members([])


def test_headers_that_clients_write_otherwise_are_told() -> None:
    header = json.loads(unb64url(JWE["protected"], "header"))
    odd: list[Any] = [
        {"enc": header["enc"], "alg": header["alg"], "epk": header["epk"]},
        {**header, "epk": {name: header["epk"][name] for name in ("kty", "crv", "x", "y")}},
        {**header, "typ": "JOSE"},
        {"alg": header["alg"], "enc": header["enc"]},
        [],
    ]
    texts = [tokens.dump(one) for one in odd] + [json.dumps(header).encode(), b"{", b"\xff"]
    for text in texts:
        with pytest.raises(Violation, match="header"):
            check_header({**JWE, "protected": b64url(text)}, GUEST)


def test_messages_of_each_version() -> None:
    evidence = {"svn": "1"}
    newest = attestation("0.4.0", "n", GUEST.jwk, evidence, "", None)
    assert list(newest) == ["init-data", "runtime-data", "tee-evidence"]
    assert newest["tee-evidence"] == {"primary_evidence": evidence, "additional_evidence": ""}
    assert attestation("0.3.0", "n", GUEST.jwk, evidence, "", None)["tee-evidence"] == evidence
    assert attestation("0.2.0", "n", GUEST.jwk, evidence, "", None) == {
        "tee-pubkey": GUEST.jwk,
        "tee-evidence": evidence,
    }
    assert attestation("0.1.1", "n", GUEST.jwk, evidence, "", None)["tee-evidence"] == '{"svn": "1"}'
    assert request("0.4.0", "snp")["extra-params"] == {"supported-hash-algorithms": ["sha256", "sha384", "sha512"]}
    assert request("0.1.1", "snp")["extra-params"] == ""


def test_the_hash_that_a_server_chooses() -> None:
    assert selected_hash("") == "sha384"
    assert selected_hash({"selected-hash-algorithm": "SHA512"}) == "sha512"
    with pytest.raises(Skip):
        selected_hash({"selected-hash-algorithm": "sm3"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcXYZ-_.0", max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(JSON)
def test_canonical_json_agrees_with_the_library(value: Any) -> None:
    assert jcs(value) == canonical_json(value)


def test_canonical_json_sorts_by_utf16() -> None:
    """RFC 8785 section 3.2.3: a surrogate pair sorts before U+FB33."""
    assert jcs({"\ufb33": 1, "\U0001f600": 2}) == '{"\U0001f600":2,"\ufb33":1}'.encode()


@given(st.binary(max_size=80))
def test_base64url_is_read_back(data: bytes) -> None:
    assert unb64url(b64url(data), "data") == data


@given(st.text(max_size=12))
def test_only_the_canonical_base64url_is_read(text: str) -> None:
    try:
        data = unb64url(text, "text")
    except Violation:
        return
    assert b64url(data) == text


def test_the_report_is_taken_apart_as_the_library_does() -> None:
    chip = replace(CHIP, certificates=(b"vcek", b"ask", b"ark"))
    guest = Snp(chip, bytes(range(32)), bytes(range(48)))
    evidence = guest.evidence(b"\7" * 48)
    parsed = from_envelope(evidence)
    expected = to_envelope(parsed)
    expected["attestation_report"] |= {"signature": evidence["attestation_report"]["signature"]}
    assert evidence == expected
    assert envelope(parsed.report, ()) == {**evidence, "cert_chain": None}
    assert guest.altered(bytes(48)) != guest.evidence(bytes(48))
    assert set(guest.truncated(bytes(48))["attestation_report"]["signature"]["s"]) == {0}


def test_sample_evidence() -> None:
    assert Sample().evidence(b"\1\2") == {"svn": "1", "report_data": "AQI="}
    assert Sample().truncated(bytes(48)) == Sample().evidence(bytes(24))
    with pytest.raises(Skip):
        Sample().altered(bytes(48))
    assert set(foreign("sample")) != set(Sample().evidence(b""))
    assert set(foreign("snp")) == set(Sample().evidence(b""))


def test_the_digest_of_a_launch_document() -> None:
    """The first is a vector of the protocol's facts."""
    text = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n\n[data]\n\"a.txt\" = '''hi'''\n"
    assert fitted_digest(text).hex() == "fd03e8704ab12bd9f7a4525a1f6fcc5ba96969454d7a0855117493a4033df660"
    other = text.replace("sha256", "sha384")
    assert fitted_digest(other) == hashlib.sha384(other.encode()).digest()[:32]
    assert fitted_digest(text, 48).endswith(bytes(16))
    for bad in ("= nonsense", 'algorithm = "md5"', ""):
        with pytest.raises(UsageError) as caught:
            fitted_digest(bad)
        assert caught.value.code == "conformance-initdata"


# -- tokens --------------------------------------------------------------------------------------------------------


def make_token() -> tuple[str, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    jwk = public_jwk(key.public_key(), algorithm="ES256")
    header = {"typ": "JWT", "alg": "ES256", "kid": thumbprint(jwk), "jwk": jwk}
    return jws.serialize_compact(header, b'{"exp":1,"submods":{}}', ECKey.import_key(pem), ["ES256"]), key


def test_a_token_of_the_library_verifies() -> None:
    text, key = make_token()
    token = tokens.read(text)
    jwk = public_jwk(key)
    assert token.verifies(jwk)
    assert token.verifies(token.header["jwk"])
    assert not token.verifies(public_jwk(ec.generate_private_key(ec.SECP256R1())))
    for bad in (None, {}, {**jwk, "y": jwk["x"]}, {**jwk, "crv": "P-384"}, {**jwk, "x": "="}):
        assert not token.verifies(bad)


def test_no_forged_token_is_genuine() -> None:
    text, key = make_token()
    token = tokens.read(text)
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert tokens.public_pem(public_jwk(key)) == pem
    assert tokens.public_pem({}) == b""
    forged = [
        tokens.with_claims(token, {**token.claims, "exp": 2}),
        tokens.unsigned(token),
        tokens.stripped(token),
        tokens.zero_signature(token),
        tokens.by_stranger(token, keep_kid=True),
        tokens.by_stranger(token, keep_kid=False),
        tokens.by_public_key(token, pem),
    ]
    assert len({*forged, text}) == 8
    for one in forged:
        assert not tokens.read(one).verifies(public_jwk(key))
    assert tokens.read(forged[4]).header["kid"] == thumbprint(public_jwk(key))
    stranger = tokens.read(forged[5])
    assert stranger.verifies(stranger.header["jwk"]), "properly signed, by somebody else"


@given(st.text(max_size=60))
def test_what_is_no_token_is_told(text: str) -> None:
    with pytest.raises(Violation):
        tokens.read(text)


def test_tokens_of_odd_form_are_told() -> None:
    good = b64url(b"{}")
    twice = b64url(b'{"a":1,"a":2}')
    for header, claims in (("e30=", good), (b64url(b"[]"), good), (good, b64url(b"{")), (good, twice)):
        with pytest.raises(Violation):
            tokens.read(f"{header}.{claims}.")


@pytest.mark.parametrize(
    ("vector", "tier"),
    [
        ({}, "none"),
        ({"hardware": 0, "configuration": 1, "executables": -1}, "none"),
        ({"hardware": 2, "configuration": 0}, "affirming"),
        ({"hardware": 31}, "affirming"),
        ({"hardware": -32}, "affirming"),
        ({"hardware": 2, "configuration": 32}, "warning"),
        ({"hardware": -96}, "warning"),
        ({"hardware": 95}, "warning"),
        ({"hardware": 96, "configuration": 2}, "contraindicated"),
        ({"hardware": -97}, "contraindicated"),
    ],
)
def test_the_worst_claim_decides(vector: dict[str, int], tier: str) -> None:
    assert tokens.tier(vector) == tier


# -- answers and notes ---------------------------------------------------------------------------------------------


def make_answer(status: int, body: bytes = b"") -> Answer:
    return Answer("GET", "/x", status, (("Set-Cookie", "a"), ("set-cookie", "b")), body)


def test_error_documents_are_recognised() -> None:
    good = {"type": ERROR_PREFIX + "PolicyDeny", "detail": "no"}
    assert make_answer(403, tokens.dump(good)).error() == ("PolicyDeny", "no")
    assert make_answer(403, tokens.dump(good)).summary() == "403 PolicyDeny"
    assert make_answer(403, tokens.dump(good)).summary(detail=True) == "403 PolicyDeny (no)"
    for bad in ({"type": "PolicyDeny", "detail": "no"}, {"type": good["type"]}, {**good, "detail": 1}, [], "x"):
        assert make_answer(403, tokens.dump(bad)).error() is None
    for body in (b"", b"<html>", b"\xff", b"[" * 100_000):
        assert make_answer(403, body).error() is None
    assert make_answer(403).all("set-cookie") == ["a", "b"]
    assert make_answer(403).header("none") == ""
    with pytest.raises(Violation, match="not JSON"):
        make_answer(200, b'{"a":1,"a":1}').json()


def test_notes_weigh_what_was_found() -> None:
    notes = Notes()
    notes.refused(make_answer(404), "it", 404)
    notes.refused(make_answer(401), "that", 404)
    assert (notes.said, notes.tolerable) == (["404"], ["that: 401, better 404"])
    assert notes.text() == "that: 401, better 404; 404"
    for status in (200, 204, 302):
        with pytest.raises(Violation, match="accepted"):
            notes.refused(make_answer(status), "it")
    for status in (500, 502):
        with pytest.raises(Violation, match="broke"):
            notes.refused(make_answer(status), "it")
    notes.tolerate("x" * 1000)
    assert len(notes.text()) == FOUND_LIMIT
