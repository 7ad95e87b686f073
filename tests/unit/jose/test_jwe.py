"""JWE: the protocol's vector, joserfc as oracle in both directions, and hostile input."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwe as oracle
from joserfc.jwk import ECKey, RSAKey

from kokon.errors import KokonError, MalformedError, UntrustedError
from kokon.jose.jwe import (
    ECDH,
    PLAINTEXT_LIMIT,
    decrypt,
    encrypt_to,
    from_jwk,
    public_jwk,
    seal_ec,
    thumbprint,
)
from kokon.wire import b64url, unb64url

CLIENT = ec.derive_private_key(int.from_bytes(bytes(range(1, 33)), "big"), ec.SECP256R1())
EPHEMERAL = ec.derive_private_key(int.from_bytes(bytes(range(0x21, 0x41)), "big"), ec.SECP256R1())
# kbs.md a.6, checked there against joserfc.
VECTOR = {
    "protected": "eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImVuYyI6IkEyNTZHQ00iLCJlcGsiOnsiY3J2IjoiUC0yNTYiLCJrdHkiOiJFQyIsIn"
    "giOiJIeFFCUnIteHNsSDRUMDNiNE5UTno5ZDZfWmhLbFNEalY1UUNINE1TdTU0IiwieSI6IjdKbGFDTEg2ZHdUZlBjd0xVS2xtVW1QN2R4SDVY"
    "NS1LUkp4UWx1UjhpU3MifX0",
    "encrypted_key": "d2l_gRSETiaIBH5gru-MB5YUMdW5QYrH8kNVUj0EAnByxqz-gIsOPQ",
    "iv": "AAECAwQFBgcICQoL",
    "ciphertext": "e4bafxSDXpZn",
    "tag": "9CD0xMphkYAidkV9Tx1PkA",
}
RSA = rsa.generate_private_key(65537, 2048)
CURVES = [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()]
ALGORITHMS = [ECDH, "RSA-OAEP-256", "RSA-OAEP", "A256GCM"]


def oracle_key(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> ECKey | RSAKey:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return ECKey.import_key(pem) if isinstance(key, ec.EllipticCurvePrivateKey) else RSAKey.import_key(pem)


def recode(message: dict[str, str], **changes: object) -> dict[str, str]:
    header = json.loads(unb64url(message["protected"], what="header"))
    header.update(changes)
    header = {name: value for name, value in header.items() if value is not None}
    return {**message, "protected": b64url(json.dumps(header).encode())}


def test_vector_is_written_and_read() -> None:
    made = seal_ec(CLIENT.public_key(), b"hello kbs", EPHEMERAL, b"\x11" * 32, bytes(range(12)))
    assert made == VECTOR
    assert list(made) == ["protected", "encrypted_key", "iv", "ciphertext", "tag"]
    assert decrypt(VECTOR, CLIENT) == b"hello kbs"


def test_public_jwk_has_the_vector_coordinates() -> None:
    jwk = public_jwk(CLIENT)
    assert jwk == {
        "kty": "EC",
        "crv": "P-256",
        "alg": "ECDH-ES+A256KW",
        "x": "UVw9brnjlrkE0_7Kf1T9zQzB6Ze_N13KUVrQpsO0A18",
        "y": "RTa-OlDzGPv5pUdZAqIhUCvvDVfgjFOyzApW8X2fk1Q",
    }
    assert from_jwk({**jwk, "kid": "a", "use": "enc"}) == CLIENT.public_key()
    assert thumbprint(jwk) == oracle_key(CLIENT).thumbprint()
    assert thumbprint(public_jwk(RSA)) == oracle_key(RSA).thumbprint()


@pytest.mark.parametrize("key", [*(ec.generate_private_key(curve) for curve in CURVES), RSA])
def test_header_is_what_stock_clients_write_anew(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    """They parse the header and serialise it again to get the AAD (kbs.md a.6): alg, enc, then epk with sorted members,
    compact, and nothing else."""
    for recipient in (key.public_key(), public_jwk(key)):
        text = unb64url(encrypt_to(recipient, b"secret")["protected"], what="header").decode()
        header = json.loads(text)
        epk = header.pop("epk", None)
        again = {"alg": header.pop("alg"), "enc": header.pop("enc")} | ({} if epk is None else {"epk": epk})
        assert not header
        assert epk is None or list(epk) == ["crv", "kty", "x", "y"]
        assert (epk is None) == isinstance(key, rsa.RSAPrivateKey)
        assert json.dumps(again, separators=(",", ":")) == text


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_round_trip_and_oracle_on_every_curve(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    message = encrypt_to(key.public_key(), b"secret")
    header = unb64url(message["protected"], what="header").decode()
    assert list(json.loads(header)) == ["alg", "enc", "epk"]
    assert list(json.loads(header)["epk"]) == ["crv", "kty", "x", "y"]
    assert " " not in header
    assert decrypt(message, key) == b"secret"
    assert oracle.decrypt_json(message, oracle_key(key), algorithms=ALGORITHMS).plaintext == b"secret"
    compact = oracle.encrypt_compact({"alg": ECDH, "enc": "A256GCM"}, b"back", oracle_key(key), ALGORITHMS)
    assert decrypt(compact, key) == b"back"
    assert from_jwk(public_jwk(key)) == key.public_key()


@pytest.mark.parametrize("algorithm", ["RSA-OAEP-256", "RSA-OAEP"])
def test_rsa_against_the_oracle(algorithm: str) -> None:
    message = encrypt_to(RSA.public_key(), b"secret", algorithm=algorithm)
    assert decrypt(message, RSA) == b"secret"
    assert oracle.decrypt_json(message, oracle_key(RSA), algorithms=ALGORITHMS).plaintext == b"secret"
    compact = oracle.encrypt_compact({"alg": algorithm, "enc": "A256GCM"}, b"back", oracle_key(RSA), ALGORITHMS)
    assert decrypt(compact.encode(), RSA) == b"back"
    assert decrypt(encrypt_to(public_jwk(RSA, algorithm=algorithm), b"x"), RSA) == b"x"


def test_general_form_with_mixed_recipients() -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    message = oracle.GeneralJSONEncryption({"enc": "A256GCM"}, b"shared")
    message.add_recipient({"alg": "RSA-OAEP"}, oracle_key(RSA))
    message.add_recipient({"alg": ECDH}, oracle_key(CLIENT))
    general = oracle.encrypt_json(message, None, ALGORITHMS)
    assert decrypt(general, RSA) == b"shared"
    assert decrypt(general, CLIENT) == b"shared"
    assert decrypt(json.dumps({**general, "encrypted_key": "AA"}), CLIENT) == b"shared"
    with pytest.raises(MalformedError):
        decrypt({**general, "recipients": [{"encrypted_key": "AA", "header": {"enc": "A256GCM"}}]}, CLIENT)
    for key in (other, ec.generate_private_key(ec.SECP256R1())):
        with pytest.raises(KokonError):
            decrypt(general, key)


def test_content_key_shorter_than_the_algorithm_demands_does_not_open() -> None:
    message = seal_ec(CLIENT.public_key(), b"secret", ec.generate_private_key(ec.SECP256R1()), bytes(16), bytes(12))
    with pytest.raises(UntrustedError) as caught:
        decrypt(message, CLIENT)
    assert caught.value.code == "jwe-not-opened"


def test_altered_or_foreign_message_does_not_open() -> None:
    for name, text in VECTOR.items():
        raw = bytearray(unb64url(text, what=name))
        raw[-1 if name != "protected" else raw.index(b"P-256"[1])] ^= 1
        with pytest.raises(KokonError):
            decrypt({**VECTOR, name: b64url(bytes(raw))}, CLIENT)
    with pytest.raises(UntrustedError) as caught:
        decrypt(VECTOR, EPHEMERAL)
    assert caught.value.code == "jwe-not-opened"
    with pytest.raises(UntrustedError):
        decrypt(VECTOR, ec.generate_private_key(ec.SECP521R1()))
    with pytest.raises(UntrustedError):
        decrypt(encrypt_to(RSA.public_key(), b"x"), rsa.generate_private_key(65537, 2048))


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (recode(VECTOR, alg="RSA1_5"), "jwe-algorithm"),
        (recode(VECTOR, alg="dir"), "jwe-algorithm"),
        (recode(VECTOR, enc="A128CBC-HS256"), "jwe-algorithm"),
        (recode(VECTOR, zip="DEF"), "field-unknown"),
        (recode(VECTOR, crit=["x"]), "field-unknown"),
        (recode(VECTOR, epk=None), "field-missing"),
        (recode(VECTOR, epk={"kty": "OKP", "crv": "X25519"}), "jwe-malformed"),
        ({**VECTOR, "protected": b64url(b"[]")}, "jwe-malformed"),
        ({**VECTOR, "aad": "AA"}, "field-unknown"),
        ({**VECTOR, "iv": "AAAA"}, "size-mismatch"),
        ("a.b.c", "jwe-malformed"),
        ("{", "json-malformed"),
        ("{" + " " * (3 << 20), "jwe-too-large"),
    ],
)
def test_malformed_messages(message: dict[str, str] | str, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        decrypt(message, CLIENT)
    assert caught.value.code == code


def test_rsa1_5_is_refused_for_rsa_keys_too() -> None:
    with pytest.raises(MalformedError) as caught:
        decrypt(recode(encrypt_to(RSA.public_key(), b"x"), alg="RSA1_5"), RSA)
    assert caught.value.code == "jwe-algorithm"
    with pytest.raises(MalformedError) as caught:
        encrypt_to({**public_jwk(RSA), "alg": "RSA1_5"}, b"x")
    assert caught.value.code == "jwe-algorithm"


def jwk_with(**changes: object) -> dict[str, object]:
    return {**public_jwk(CLIENT), **changes}


@pytest.mark.parametrize(
    ("jwk", "code"),
    [
        ({"kty": "oct", "k": "AA"}, "key-unsupported"),
        (jwk_with(crv="secp256k1"), "key-unsupported"),
        (jwk_with(crv="P-384"), "size-mismatch"),
        (jwk_with(x=b64url(bytes(32))), "jwk-malformed"),
        (jwk_with(d="AA"), "field-unknown"),
        (jwk_with(alg="ECDH-ES"), "jwe-algorithm"),
        ({**public_jwk(RSA), "e": b64url(b"\x01")}, "key-unsupported"),
        ({**public_jwk(RSA), "n": b64url(b"\xff" * 128)}, "key-unsupported"),
        ({**public_jwk(RSA), "n": b64url(b"\xff" * 255 + b"\xfe")}, "key-unsupported"),
    ],
)
def test_malformed_jwk(jwk: dict[str, object], code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        from_jwk(jwk)
    assert caught.value.code == code


def test_unsupported_keys_and_sizes() -> None:
    for call in (
        lambda: public_jwk(ed25519.Ed25519PrivateKey.generate()),  # type: ignore[arg-type]
        lambda: public_jwk(ec.generate_private_key(ec.SECP256K1())),
    ):
        with pytest.raises(MalformedError) as caught:
            call()
        assert caught.value.code == "key-unsupported"
    with pytest.raises(MalformedError) as caught:
        encrypt_to(CLIENT.public_key(), bytes(PLAINTEXT_LIMIT + 1))
    assert caught.value.code == "jwe-too-large"


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=300))
def test_property_round_trip(plaintext: bytes) -> None:
    assert decrypt(json.dumps(encrypt_to(CLIENT.public_key(), plaintext)), CLIENT) == plaintext


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200),
        st.lists(st.text("AZaz09-_", max_size=20), min_size=5, max_size=5).map(".".join),
        st.fixed_dictionaries(
            {}, optional={name: st.one_of(st.just(VECTOR[name]), st.text(max_size=8), st.none()) for name in VECTOR}
        ),
    )
)
def test_property_hostile_input_ends_in_our_errors(message: bytes | str | dict[str, str]) -> None:
    try:
        assert decrypt(message, CLIENT) == b"hello kbs"
    except KokonError:
        pass
