"""The certificate binds evidence to its key, and every other shape of it is refused."""

from datetime import UTC, datetime, timedelta
from hashlib import sha384

import cbor2
import pytest
from channel_world import unsigned_evidence
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kokon.channel import certificate as subject
from kokon.channel import mint
from kokon.channel.certificate import (
    EVIDENCE_OID,
    read_certificate,
)
from kokon.channel.mint import (
    EVIDENCE_TAG,
    claims_report_data,
    key_claims,
    make_certificate,
    spki_of,
)
from kokon.errors import KokonError, MalformedError, UntrustedError
from kokon.tee.evidence import Evidence
from kokon.tee.snp.certtable import encode_extended

NOW = datetime(2026, 11, 23, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP384R1())
GOOD = make_certificate(KEY, unsigned_evidence, NOW)


def forged(value: bytes | None, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = KEY) -> bytes:
    """A certificate with anything in its extension."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "forged")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
    )
    if value is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(EVIDENCE_OID, value), critical=False)
    return builder.sign(key, hashes.SHA384()).public_bytes(Encoding.DER)


def tagged(claims: bytes, evidence: Evidence | None = None, tag: int = EVIDENCE_TAG) -> bytes:
    evidence = evidence or unsigned_evidence(claims_report_data(claims))
    return cbor2.dumps(cbor2.CBORTag(tag, [encode_extended(evidence), claims]))


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP256R1()])
def test_certificate_carries_bound_evidence(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    peer = read_certificate(make_certificate(key, unsigned_evidence, NOW, name="clinic"))
    assert peer.spki == spki_of(key)
    assert peer.report_data == claims_report_data(key_claims(spki_of(key)))
    assert peer.report_data[32:] == bytes(32)
    assert len(peer.key_digest) == 48


def test_certificate_never_expires() -> None:
    assert x509.load_der_x509_certificate(GOOD).not_valid_after_utc.year == 9999


def test_evidence_for_another_key_is_refused() -> None:
    other = key_claims(spki_of(ec.generate_private_key(ec.SECP384R1())))
    with pytest.raises(UntrustedError) as caught:
        read_certificate(forged(tagged(other)))
    assert caught.value.code == "certificate-key-mismatch"


def test_claims_that_the_evidence_does_not_cover_are_refused() -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    stolen = read_certificate(make_certificate(other, unsigned_evidence, NOW)).evidence
    with pytest.raises(UntrustedError) as caught:
        read_certificate(forged(tagged(key_claims(spki_of(KEY)), stolen)))
    assert caught.value.code == "certificate-key-mismatch"


def test_report_data_must_end_in_zeros() -> None:
    claims = key_claims(spki_of(KEY))
    evidence = unsigned_evidence(claims_report_data(claims)[:32] + b"\1" * 32)
    with pytest.raises(UntrustedError, match="another TLS key"):
        read_certificate(forged(tagged(claims, evidence)))


def test_ordinary_certificate_is_refused() -> None:
    with pytest.raises(MalformedError) as caught:
        read_certificate(forged(None))
    assert caught.value.code == "certificate-without-evidence"


CLAIMS = key_claims(spki_of(KEY))
MALFORMED = {
    "not CBOR": b"\xff",
    "empty": b"",
    "another tag": tagged(CLAIMS, tag=60001),
    "no tag": cbor2.dumps([b"a", b"b"]),
    "one member": cbor2.dumps(cbor2.CBORTag(EVIDENCE_TAG, [b"a"])),
    "texts": cbor2.dumps(cbor2.CBORTag(EVIDENCE_TAG, ["a", "b"])),
    "trailing bytes": tagged(CLAIMS) + b"\0",
    "long form": b"\xda\x00\x00\xea\x60" + tagged(CLAIMS)[3:],
    "no claims": tagged(b""),
    "claims of another kind": tagged(cbor2.dumps([1])),
    "extra claim": tagged(cbor2.dumps({"pubkey-hash": b"", "nonce": b""})),
    "no hash": tagged(cbor2.dumps({"pubkey-hash": 1})),
    "weaker hash": tagged(cbor2.dumps({"pubkey-hash": cbor2.dumps([1, bytes(32)])})),
    "short hash": tagged(cbor2.dumps({"pubkey-hash": cbor2.dumps([7, bytes(47)])})),
    "large claims": tagged(cbor2.dumps({"pubkey-hash": bytes(2000)})),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_extension_is_refused(name: str) -> None:
    with pytest.raises(MalformedError) as caught:
        read_certificate(forged(MALFORMED[name]))
    assert caught.value.code == "certificate-malformed"


def test_other_keys_and_other_bytes_are_refused() -> None:
    rsa_key = rsa.generate_private_key(65537, 2048)
    broken = bytearray(GOOD)
    broken[-1] ^= 1
    wrong_curve = ec.generate_private_key(ec.SECP521R1())
    for der in (b"", b"junk", bytes(200_000), bytes(broken), forged(b"", rsa_key), forged(b"", wrong_curve)):
        with pytest.raises(MalformedError) as caught:
            read_certificate(der)
        assert caught.value.code == "certificate-malformed"
    with pytest.raises(MalformedError, match="P-384"):
        make_certificate(wrong_curve, unsigned_evidence, NOW)


def test_evidence_that_fills_the_certificate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mint, "CERTIFICATE_LIMIT", 1000)
    with pytest.raises(MalformedError, match="too large"):
        make_certificate(KEY, unsigned_evidence, NOW)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300))
def test_any_extension_is_read_or_refused_with_a_code(value: bytes) -> None:
    with pytest.raises(KokonError):
        read_certificate(forged(value))


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=120))
def test_any_cbor_is_read_or_refused_with_a_code(value: bytes) -> None:
    for parse in (subject._claimed_key, subject._tagged_evidence):
        with pytest.raises(MalformedError):
            parse(value)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_no_flipped_byte_passes(position: int, flip: int) -> None:
    changed = bytearray(GOOD)
    changed[position] ^= flip
    with pytest.raises(KokonError):
        read_certificate(bytes(changed))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
@pytest.mark.parametrize("now", [NOW, datetime(2051, 1, 2, tzinfo=UTC)])
def test_the_certificate_is_what_others_read(curve: ec.EllipticCurve, now: datetime) -> None:
    key = ec.generate_private_key(curve)
    made = x509.load_der_x509_certificate(make_certificate(key, unsigned_evidence, now, name="x" * 70))
    made.verify_directly_issued_by(made)
    assert made.public_bytes(Encoding.DER) == made.public_bytes(Encoding.DER)
    assert made.version is x509.Version.v3
    assert (made.not_valid_before_utc, made.not_valid_after_utc.year) == (now, 9999)
    assert made.subject == x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x" * 64)])
    assert made.serial_number.bit_length() == 127
    constraints = made.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca
    assert len(list(made.extensions)) == 2


@given(st.sampled_from([0, 23, 24, 255, 256, 65535, 65536, 100000]) | st.integers(0, 100000))
def test_cbor_and_der_are_in_their_shortest_form(size: int) -> None:
    assert mint._cbor_bytes(bytes(size)) == cbor2.dumps(bytes(size))
    der = mint._der(0x04, bytes(size))
    assert der.endswith(bytes(size))
    assert len(der) == size + 2 + (0 if size < 128 else 1 if size < 256 else 2 if size < 65536 else 3)


def test_claims_are_canonical() -> None:
    digest = cbor2.dumps([7, sha384(spki_of(KEY)).digest()])
    assert key_claims(spki_of(KEY)) == cbor2.dumps({"pubkey-hash": digest})
