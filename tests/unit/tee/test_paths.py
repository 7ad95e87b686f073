"""Certification paths: what makes one, and every way in which one is broken."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import SignatureAlgorithmOID
from hypothesis import given, settings
from hypothesis import strategies as st
from unit_x509 import NOW, YEAR, Authority

from kokon.errors import MalformedError
from kokon.tee.anchors import AMD, VENDORS, check_root, is_simulated
from kokon.tee.certificates import CERTIFICATE_LIMIT, parse_certificate, verify_signature
from kokon.tee.path import build_path, check_leaf, check_path

ROOT = Authority("root")
MIDDLE = Authority("middle", ROOT)
LEAF = Authority("leaf", MIDDLE, ca=False)


def codes(leaf: Authority, *pool: Authority, now: object = NOW) -> list[str | None]:
    path = build_path(leaf.certificate, [authority.certificate for authority in pool], now)  # type: ignore[arg-type]
    return [check.code for check in check_path(path, now) if check.outcome == "failed"]  # type: ignore[arg-type]


def test_a_good_path_in_any_order() -> None:
    assert codes(LEAF, ROOT, MIDDLE) == codes(LEAF, MIDDLE, ROOT) == []
    path = build_path(LEAF.certificate, [Authority("noise").certificate, ROOT.certificate, MIDDLE.certificate], NOW)
    assert [certificate.name for certificate in path] == ["leaf", "middle", "root"]


def test_an_incomplete_path() -> None:
    assert codes(LEAF, MIDDLE) == ["chain-incomplete"]
    assert codes(LEAF) == ["chain-incomplete"]


def test_a_root_of_the_same_name_with_another_key() -> None:
    assert codes(LEAF, MIDDLE, Authority("root")) == ["chain-broken"]
    # With both at hand the one that signed is found.
    assert codes(LEAF, MIDDLE, Authority("root"), ROOT) == []


def test_of_two_certificates_for_one_key_the_valid_one_is_taken() -> None:
    old = replace(ROOT, end=NOW - timedelta(days=1))
    assert codes(LEAF, MIDDLE, old, ROOT) == codes(LEAF, MIDDLE, ROOT, old) == []
    assert codes(LEAF, MIDDLE, old) == ["certificate-expired"]


@pytest.mark.parametrize("change", [{"ca": False}, {"signs": False}, {"path_length": None, "ca": False}])
def test_what_may_not_sign_certificates(change: dict[str, bool]) -> None:
    middle = replace(MIDDLE, **change)
    assert "not-an-authority" in codes(replace(LEAF, parent=middle), middle, ROOT)


def test_path_lengths() -> None:
    short = replace(ROOT, path_length=0)
    middle = replace(MIDDLE, parent=short)
    assert codes(replace(LEAF, parent=middle), middle, short) == ["not-an-authority"]
    assert codes(middle, short) == []


def test_an_authority_is_no_leaf() -> None:
    assert [check.code for check in check_leaf(MIDDLE.certificate)] == ["not-an-authority"]
    assert list(check_leaf(LEAF.certificate)) == []


def test_dates_include_the_first_moment_and_not_the_last() -> None:
    assert codes(LEAF, MIDDLE, ROOT, now=NOW - YEAR) == []
    assert "certificate-not-yet-valid" in codes(LEAF, MIDDLE, ROOT, now=NOW - YEAR - timedelta(seconds=1))
    assert codes(LEAF, MIDDLE, ROOT, now=NOW + YEAR - timedelta(seconds=1)) == []
    assert codes(LEAF, MIDDLE, ROOT, now=NOW + YEAR) == ["certificate-expired"] * 3


def test_a_circle_ends() -> None:
    one, two = Authority("one"), Authority("two")
    first, second = replace(one, parent=two), replace(two, parent=one)
    assert codes(first, second, first) == ["chain-incomplete"]


def test_keys_and_algorithms_that_do_not_count() -> None:
    small = Authority("root", key=rsa.generate_private_key(65537, 1024))
    assert "chain-broken" in codes(replace(MIDDLE, parent=small), small)
    curve = Authority("root", key=ec.generate_private_key(ec.SECP256K1()))
    assert "chain-broken" in codes(replace(MIDDLE, parent=curve), curve)
    sound = Authority("root", key=rsa.generate_private_key(65537, 2048))
    assert codes(replace(MIDDLE, parent=sound), sound) == []
    other = Authority("root", key=ed25519.Ed25519PrivateKey.generate(), digest=None)  # type: ignore[arg-type]
    assert "chain-broken" in codes(replace(MIDDLE, parent=other, digest=None), other)  # type: ignore[arg-type]


def test_roots_are_known_by_their_keys() -> None:
    named = Authority("ARK-Milan").certificate
    assert check_root(named, VENDORS, frozenset()).code == "root-untrusted"
    assert check_root(named, {named.fingerprint: "ours"}, frozenset()).outcome == "passed"
    pretended = Authority("Kokon simulated root").certificate
    assert check_root(pretended, AMD, frozenset()).code == "simulated-root-refused"
    assert check_root(pretended, AMD, frozenset({pretended.fingerprint})).outcome == "passed"
    assert is_simulated(pretended, AMD, frozenset())
    assert is_simulated(named, AMD, frozenset({named.fingerprint}))
    assert not is_simulated(named, AMD, frozenset())
    assert not is_simulated(pretended, {pretended.fingerprint: "pinned"}, frozenset({pretended.fingerprint}))


def test_certificates_that_are_none() -> None:
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x")
    assert replace(LEAF, extra=((odd, False),)).certificate.unknown == {"1.2.3.4": b"x"}
    for der in (b"", b"\x30\x00", LEAF.der[:-1], LEAF.der + b"\0", bytes(CERTIFICATE_LIMIT + 1)):
        with pytest.raises(MalformedError, match="certificate-malformed"):
            parse_certificate(der)
    with pytest.raises(MalformedError, match="certificate-malformed"):
        parse_certificate(replace(LEAF, extra=((odd, True),)).der)


def test_a_name_without_a_common_name_is_shown_whole() -> None:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Chips")])
    builder = (
        x509.CertificateBuilder(subject, subject, ROOT.key.public_key(), 1, NOW - YEAR, NOW + YEAR)
        .sign(ROOT.key, ROOT.digest)
        .public_bytes(Encoding.DER)
    )
    assert parse_certificate(builder).name == "O=Chips"


def test_no_bit_of_a_certificate_can_be_changed() -> None:
    der = LEAF.der
    for position in range(len(der) * 8):
        flipped = bytearray(der)
        flipped[position // 8] ^= 1 << position % 8
        try:
            certificate = parse_certificate(bytes(flipped))
        except MalformedError:
            continue
        path = build_path(certificate, [MIDDLE.certificate, ROOT.certificate], NOW)
        assert any(check.outcome == "failed" for check in check_path(path, NOW)), position


@given(st.binary(max_size=400))
@settings(max_examples=200)
def test_any_bytes_parse_or_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_certificate(data)


def test_sha1_signatures_do_not_count() -> None:
    root = ROOT.certificate
    for algorithm in (SignatureAlgorithmOID.ECDSA_WITH_SHA1, SignatureAlgorithmOID.RSA_WITH_SHA1):
        assert not verify_signature(root.key, algorithm, root.signature, root.signed)
    assert verify_signature(root.key, root.algorithm, root.signature, root.signed)


def test_an_altered_copy_does_not_stand_in_the_way() -> None:
    altered = bytearray(MIDDLE.der)
    altered[-1] ^= 1
    copy = parse_certificate(bytes(altered))
    for pool in ([copy, MIDDLE.certificate, ROOT.certificate], [MIDDLE.certificate, ROOT.certificate, copy]):
        path = build_path(LEAF.certificate, pool, NOW)
        assert all(check.outcome == "passed" for check in check_path(path, NOW))
    path = build_path(LEAF.certificate, [copy, ROOT.certificate], NOW)
    assert [check.code for check in check_path(path, NOW) if check.outcome == "failed"] == ["chain-broken"]


def test_keys_that_take_long_are_refused_unseen() -> None:
    key = rsa.generate_private_key(65537, 2048)
    numbers = rsa.RSAPublicNumbers((1 << 2047) + 1, key.public_key().public_numbers().n)
    slow = numbers.public_key()
    signature = key.sign(b"x", PKCS1v15(), SHA256())
    assert verify_signature(key.public_key(), SignatureAlgorithmOID.RSA_WITH_SHA256, signature, b"x")
    assert not verify_signature(slow, SignatureAlgorithmOID.RSA_WITH_SHA256, signature, b"x")
