"""COSE_Sign1: every algorithm, the bytes that are signed, and forms that are refused."""

from dataclasses import replace
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from hypothesis import given, settings
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.tee.cbor import Tag, write_cbor
from kokon.tee.cose import (
    ALGORITHM,
    EDDSA,
    ES256,
    ES384,
    ES512,
    CoseSign1,
    encode_sign1,
    parse_sign1,
    sig_structure,
    sign1_from,
    verify_sign1,
)

CURVES: dict[int, tuple[ec.EllipticCurve, HashAlgorithm]] = {
    ES256: (ec.SECP256R1(), SHA256()),
    ES384: (ec.SECP384R1(), SHA384()),
    ES512: (ec.SECP521R1(), SHA512()),
}


def message(protected: bytes, payload: bytes | None, signature: bytes, **more: Any) -> CoseSign1:
    return sign1_from([protected, more.get("unprotected", {}), payload, signature])


def raw_signature(key: ec.EllipticCurvePrivateKey, digest: HashAlgorithm, signed: bytes) -> bytes:
    half = (key.curve.key_size + 7) // 8
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(digest)))
    return r.to_bytes(half, "big") + s.to_bytes(half, "big")


def signed_by(key: ec.EllipticCurvePrivateKey, algorithm: int, payload: bytes = b"payload") -> CoseSign1:
    protected = write_cbor({ALGORITHM: algorithm})
    signature = raw_signature(key, CURVES[algorithm][1], sig_structure(protected, payload))
    return message(protected, payload, signature)


@pytest.mark.parametrize("algorithm", CURVES)
def test_ecdsa(algorithm: int) -> None:
    key = ec.generate_private_key(CURVES[algorithm][0])
    good = signed_by(key, algorithm)
    assert verify_sign1(good, key.public_key())
    assert not verify_sign1(replace(good, payload=b"Payload"), key.public_key())
    assert not verify_sign1(replace(good, payload=None), key.public_key())
    assert not verify_sign1(replace(good, signature=good.signature[:-1]), key.public_key())
    assert not verify_sign1(replace(good, signature=b"\0" + good.signature), key.public_key())
    assert not verify_sign1(replace(good, signature=bytes(len(good.signature))), key.public_key())
    assert not verify_sign1(replace(good, signature=b"\xff" * len(good.signature)), key.public_key())
    assert not verify_sign1(good, ec.generate_private_key(key.curve).public_key())


def test_the_algorithm_must_fit_the_curve() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    protected = write_cbor({ALGORITHM: ES256})
    signature = raw_signature(key, SHA256(), sig_structure(protected, b"payload"))
    assert not verify_sign1(message(protected, b"payload", signature), key.public_key())


@pytest.mark.parametrize("header", [{}, {ALGORITHM: "ES384"}, {ALGORITHM: -37}, {ALGORITHM: True}, {ALGORITHM: None}])
def test_an_unknown_algorithm_verifies_nothing(header: dict[int, Any]) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    protected = write_cbor(header)
    signature = raw_signature(key, SHA384(), sig_structure(protected, b"payload"))
    assert not verify_sign1(message(protected, b"payload", signature), key.public_key())


@pytest.mark.parametrize("key", [ed25519.Ed25519PrivateKey.generate(), ed448.Ed448PrivateKey.generate()])
def test_eddsa(key: ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) -> None:
    protected = write_cbor({ALGORITHM: EDDSA})
    good = message(protected, b"payload", key.sign(sig_structure(protected, b"payload")))
    assert verify_sign1(good, key.public_key())
    assert not verify_sign1(replace(good, payload=b"other"), key.public_key())
    other = write_cbor({ALGORITHM: ES256})
    assert not verify_sign1(message(other, b"x", key.sign(sig_structure(other, b"x"))), key.public_key())


def test_rsa_signs_nothing_here() -> None:
    key = rsa.generate_private_key(65537, 2048)
    assert not verify_sign1(message(b"\xa1\x01\x38\x24", b"payload", bytes(256)), key.public_key())


def test_the_structure_that_is_signed() -> None:
    protected = bytes.fromhex("a1013822")
    assert sig_structure(protected, b"pay", b"aad") == cbor2.dumps(["Signature1", protected, b"aad", b"pay"])
    assert sig_structure(b"\xa0", b"pay") == cbor2.dumps(["Signature1", b"", b"", b"pay"])


def test_an_odd_header_is_signed_as_it_came() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    protected = bytes.fromhex("b801013822")  # the same map, its head not in the shortest form
    signature = raw_signature(key, SHA384(), sig_structure(protected, b"payload"))
    assert verify_sign1(message(protected, b"payload", signature), key.public_key())
    assert not verify_sign1(message(bytes.fromhex("a1013822"), b"payload", signature), key.public_key())


@given(st.binary(max_size=80), st.binary(max_size=80), st.booleans(), st.dictionaries(st.integers(10, 99), st.text()))
def test_parse_is_the_inverse_of_encode(payload: bytes, signature: bytes, tagged: bool, header: dict[int, str]) -> None:
    protected = write_cbor({ALGORITHM: ES384})
    made = replace(message(protected, payload, signature, unprotected=header), tagged=tagged)
    assert parse_sign1(encode_sign1(made), limit=1 << 16) == made
    items = [protected, header, payload, signature]
    assert encode_sign1(made) == cbor2.dumps(cbor2.CBORTag(18, items) if tagged else items)


@settings(max_examples=300)
@given(st.binary(max_size=120) | st.binary(max_size=60).map(lambda tail: bytes.fromhex("8444a1013822a0") + tail))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        parse_sign1(data, limit=1 << 16)
    except MalformedError as error:
        assert error.code in ("cose-malformed", "cbor-malformed")  # noqa: PT017


GOOD = [bytes.fromhex("a1013822"), {}, b"payload", bytes(96)]


@pytest.mark.parametrize(
    "value",
    [
        GOOD[:3],
        [*GOOD, b""],
        [{}, *GOOD[1:]],
        [GOOD[0], [], *GOOD[2:]],
        [*GOOD[:2], "payload", GOOD[3]],
        [*GOOD[:3], None],
        [b"\x80", *GOOD[1:]],
        [GOOD[0], {1: -7}, *GOOD[2:]],
        [GOOD[0], {2: [1]}, *GOOD[2:]],
        [bytes.fromhex("a20138220281181e"), *GOOD[1:]],
        Tag(17, GOOD),
        Tag(18, Tag(18, GOOD)),
        "text",
    ],
)
def test_what_is_no_message(value: Any) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_sign1(write_cbor(value), limit=1 << 16)
    assert caught.value.code == "cose-malformed"


@pytest.mark.parametrize("head", ["9804", "84", "d812 84"])
def test_only_the_shortest_form_of_what_is_unsigned(head: str) -> None:
    body = write_cbor(GOOD)[1:]
    data = bytes.fromhex(head) + body
    if head == "84":
        assert parse_sign1(data, limit=1 << 16).header == {ALGORITHM: ES384}
        return
    with pytest.raises(MalformedError) as caught:
        parse_sign1(data, limit=1 << 16)
    assert caught.value.code == "cose-malformed"


def test_a_message_without_protected_header_names_no_algorithm() -> None:
    assert message(b"", b"payload", bytes(96)).algorithm is None


def test_size_is_bounded() -> None:
    with pytest.raises(MalformedError) as caught:
        parse_sign1(bytes(100), limit=99)
    assert caught.value.code == "cbor-too-large"
