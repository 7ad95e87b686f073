"""RA-TLS certificates: both forms, every binding, and Kokon's own with real SNP verification."""

import hashlib
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from ratls_kit import (
    END,
    KEY,
    NOW,
    Maker,
    bound,
    dice,
    element,
    gramine,
    key_claims,
    quote,
    spki,
    stand_in,
    with_null_parameters,
)
from tee_kit import Chip

from kokon.channel.mint import make_certificate
from kokon.errors import MalformedError
from kokon.tee import registry
from kokon.tee.cbor import Tag, write_cbor
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence
from kokon.tee.ratls.certificate import DICE_OID, LEGACY_OIDS, parse_ratls
from kokon.tee.ratls.entry import RATLS, from_envelope, recognise, to_envelope
from kokon.tee.ratls.verify import verify_ratls
from kokon.tee.recognise import recognise as recognise_file
from kokon.tee.registry import verify


def claims_of(maker: Maker, now: datetime = NOW) -> Claims:
    return verify_ratls(Evidence("ratls", maker.make()), Endorsements(), now, inner=stand_in)


def failures(claims: Claims) -> list[str | None]:
    return [check.code for check in claims.failures]


def only_dice(claims: bytes, **options: Any) -> Maker:
    return gramine(legacy=None, dice=dice(quote(bound(claims)), claims), **options)


def refused(maker: Maker) -> str:
    with pytest.raises(MalformedError) as caught:
        parse_ratls(maker.make())
    return caught.value.code


def test_gramines_certificate() -> None:
    claims = claims_of(gramine())
    assert claims.ok
    assert claims.tee == "sgx"
    assert claims.measurement == b"\1" * 32
    assert [part.report_data[:32] for part in claims.parts] == [
        hashlib.sha256(key_claims()).digest(),
        hashlib.sha256(spki()).digest(),
    ]
    assert claims.canonical == claims.parts[0].canonical
    assert claims.details["mr_enclave"] == "01" * 32
    assert [item["kind"] for item in claims.details["certificate"]["evidence"]] == ["dice", "legacy"]
    names = [check.name for check in claims.checks]
    assert "dice quote: quote" in names
    assert "legacy quote: report data" in names


@pytest.mark.parametrize("oid", LEGACY_OIDS)
def test_the_legacy_form_alone(oid: str) -> None:
    claims = claims_of(Maker({oid: quote(bound(spki()))}))
    assert claims.ok
    assert len(claims.parts) == 1


@pytest.mark.parametrize("algorithm", [1, 7, 8])
def test_the_dice_form_alone(algorithm: int) -> None:
    claims = claims_of(only_dice(key_claims(algorithm=algorithm, nonce=b"fresh")))
    assert claims.ok
    assert claims.details["certificate"]["evidence"][0]["claims"]["nonce"] == b"fresh".hex()


@pytest.mark.parametrize(("version", "number"), [(4, 0x81), (5, 0x81), (4, 0)])
def test_quotes_of_a_trust_domain(version: int, number: int) -> None:
    report_data = bound(key_claims())
    maker = gramine(legacy=None, dice=dice(quote(report_data, version=version, tee=number), key_claims()))
    assert claims_of(maker).tee == ("tdx" if number else "sgx")


def test_a_broken_quote_inside() -> None:
    assert failures(claims_of(gramine(enclave=99))) == ["test-broken", "test-broken"]


def test_debug_inside() -> None:
    assert claims_of(gramine(enclave=66)).debug


def test_the_evidence_must_be_bound_to_the_key() -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    legacy = gramine(dice=None, legacy=quote(bound(spki(other))))
    assert failures(claims_of(legacy)) == ["ratls-binding-mismatch"]
    claims = key_claims(other)
    assert failures(claims_of(only_dice(claims))) == ["ratls-key-mismatch"]
    swapped = gramine(legacy=None, dice=dice(quote(bound(claims)), key_claims()))
    assert failures(claims_of(swapped)) == ["ratls-binding-mismatch"]


def test_both_forms_must_be_right() -> None:
    other = spki(ec.generate_private_key(ec.SECP384R1()))
    assert failures(claims_of(gramine(legacy=quote(bound(other))))) == ["ratls-binding-mismatch"]
    bad = dice(quote(bound(b"other claims")), key_claims())
    assert failures(claims_of(gramine(dice=bad))) == ["ratls-binding-mismatch"]


def test_both_forms_must_name_one_enclave() -> None:
    claims = claims_of(gramine(legacy=quote(bound(spki()), enclave=2)))
    assert failures(claims) == ["ratls-quotes-differ"]
    assert "measurement" in (claims.failures[0].found or "")


@pytest.mark.parametrize("upper", [b"\0" * 31 + b"\1", b"\1" + b"\0" * 31])
def test_all_of_the_report_data_counts(upper: bytes) -> None:
    maker = gramine(dice=None, legacy=quote(bound(spki(), upper)))
    assert failures(claims_of(maker)) == ["ratls-report-data-excess"]


@pytest.mark.parametrize("more", [{}, {"nonce": b"n"}, {"other": b"o"}])
def test_the_key_must_be_among_the_claims(more: dict[str, bytes]) -> None:
    assert failures(claims_of(only_dice(write_cbor(more)))) == ["ratls-key-unbound"]


def test_unknown_claims_are_told() -> None:
    claims = claims_of(only_dice(key_claims(colour=b"red")))
    assert claims.ok
    assert [check.code for check in claims.checks if check.outcome == "not-checked"] == ["ratls-claims-unknown"]


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP521R1()), rsa.generate_private_key(65537, 2048)])
def test_kinds_of_keys(key: Any) -> None:
    assert failures(claims_of(gramine(key=key))) == ["ratls-key-kind"]


def test_a_key_on_p256() -> None:
    assert claims_of(gramine(key=ec.generate_private_key(ec.SECP256R1()))).ok


def test_the_certificate_is_self_signed() -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    assert failures(claims_of(gramine(signer=other))) == ["ratls-not-self-signed"]
    assert failures(claims_of(gramine(issuer="someone"))) == ["ratls-not-self-signed"]


def test_dates() -> None:
    assert failures(claims_of(gramine(), END)) == ["certificate-expired"]
    assert claims_of(gramine(), END - timedelta(seconds=1)).ok
    assert failures(claims_of(gramine(start=NOW + timedelta(days=1)))) == ["certificate-not-yet-valid"]


@pytest.mark.parametrize(
    ("extensions", "code"),
    [
        ({}, "ratls-without-evidence"),
        ({"1.2.3.4": quote(bytes(64))}, "ratls-without-evidence"),
        (dict.fromkeys(LEGACY_OIDS, quote(bytes(64))), "ratls-malformed"),
        ({LEGACY_OIDS[0]: b""}, "ratls-malformed"),
        ({LEGACY_OIDS[0]: quote(bytes(64), version=2)}, "ratls-malformed"),
        ({LEGACY_OIDS[0]: quote(bytes(64), version=3, tee=0x81)}, "ratls-malformed"),
        ({LEGACY_OIDS[0]: quote(bytes(64), tee=7)}, "ratls-malformed"),
        ({LEGACY_OIDS[0]: quote(bytes(64))[:47]}, "ratls-malformed"),
        ({DICE_OID: b""}, "cbor-malformed"),
        ({DICE_OID: dice(b"", key_claims()) + b"\0"}, "cbor-malformed"),
        ({DICE_OID: write_cbor([b"", b""])}, "ratls-malformed"),
        ({DICE_OID: dice(b"", b"", tag=60003)}, "ratls-malformed"),
        ({DICE_OID: dice(b"", b"", tag=60001)}, "ratls-local-report"),
        ({DICE_OID: dice(b"", b"", tag=60002)}, "ratls-local-report"),
        ({DICE_OID: write_cbor(Tag(60000, [b""]))}, "ratls-malformed"),
        ({DICE_OID: write_cbor(Tag(60000, [b"", b"", b""]))}, "ratls-malformed"),
        ({DICE_OID: write_cbor(Tag(60000, ["", b""]))}, "ratls-malformed"),
        ({DICE_OID: dice(quote(bytes(64)), b"\x80")}, "ratls-malformed"),
        ({DICE_OID: dice(quote(bytes(64)), write_cbor({1: b""}))}, "ratls-malformed"),
        ({DICE_OID: dice(quote(bytes(64)), write_cbor({"pubkey-hash": "text"}))}, "ratls-malformed"),
        ({DICE_OID: dice(quote(bytes(64)), write_cbor({"pubkey-hash": b"\x80"}))}, "ratls-malformed"),
        ({DICE_OID: dice(quote(bytes(64)), write_cbor({"pubkey-hash": write_cbor([2, b"x"])}))}, "ratls-malformed"),
        ({DICE_OID: dice(quote(bytes(64)), write_cbor({"pubkey-hash": write_cbor([1, b"x"])}))}, "ratls-malformed"),
        ({DICE_OID: dice(quote(bytes(64)), write_cbor({"pubkey-hash": write_cbor([True, b"x"])}))}, "ratls-malformed"),
        ({DICE_OID: dice(quote(bytes(64)), write_cbor({"pubkey-hash": b"\xff"}))}, "cbor-malformed"),
        ({DICE_OID: dice(quote(bytes(64)), bytes(5000))}, "cbor-too-large"),
        ({DICE_OID: dice(b"\2\0\0\0", key_claims())}, "report-size"),
        ({DICE_OID: dice(b"", key_claims())}, "ratls-malformed"),
    ],
)
def test_what_is_refused(extensions: dict[str, bytes], code: str) -> None:
    assert refused(Maker(extensions)) == code


def test_critical_extensions_and_large_certificates() -> None:
    assert refused(Maker({DICE_OID: dice(quote(bytes(64)), key_claims())}, critical=True)) == "certificate-malformed"
    assert refused(Maker({LEGACY_OIDS[0]: quote(bytes(64)) + bytes(17_000)})) == "certificate-malformed"


def test_an_empty_map_of_claims_has_no_binding() -> None:
    ratls = parse_ratls(only_dice(b"\xa0").make())
    assert ratls.bindings[0].key_digest is None
    assert ratls.bindings[0].claims == {}


@settings(max_examples=150)
@given(st.sampled_from([DICE_OID, *LEGACY_OIDS]), st.binary(max_size=200))
def test_any_extension_is_read_or_refused(oid: str, value: bytes) -> None:
    for content in (value, dice(quote(bytes(64)), value), dice(value, key_claims())):
        try:
            verify_ratls(Evidence("ratls", Maker({oid: content}).make()), Endorsements(), NOW, inner=stand_in)
        except MalformedError:
            continue


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    assert recognise(data) is None
    with pytest.raises(MalformedError):
        parse_ratls(data)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("der", [gramine().make(), with_null_parameters(gramine().make())])
def test_no_flipped_bit_verifies(der: bytes) -> None:
    """The stand-in looks at no signature of a quote: that the certificate's own tells is enough."""
    assert verify_ratls(Evidence("ratls", der), Endorsements(), NOW, inner=stand_in).ok
    for position in range(len(der)):
        other = der[:position] + bytes([der[position] ^ 1 << position % 8]) + der[position + 1 :]
        try:
            claims = verify_ratls(Evidence("ratls", other), Endorsements(), NOW, inner=stand_in)
        except MalformedError:
            continue
        assert not claims.ok, position


def test_null_parameters_as_old_gramine_writes_them() -> None:
    der = with_null_parameters(gramine().make())
    with pytest.raises(ValueError):  # should a later release parse it, ratls/mbedtls.py can go
        x509.load_der_x509_certificate(der)
    claims = verify_ratls(Evidence("ratls", der), Endorsements(), NOW, inner=stand_in)
    assert claims.ok
    assert claims.canonical == claims_of(gramine()).canonical
    assert parse_ratls(der).certificate.der == der
    assert recognise(der) == Evidence("ratls", der)
    other = with_null_parameters(gramine().make(), ec.generate_private_key(ec.SECP384R1()))
    forged = verify_ratls(Evidence("ratls", other), Endorsements(), NOW, inner=stand_in)
    assert failures(forged) == ["ratls-not-self-signed"]


def test_null_parameters_on_one_side_only() -> None:
    null, plain = bytes.fromhex("300c06082a8648ce3d0403020500"), bytes.fromhex("300a06082a8648ce3d040302")
    content = gramine().make()[4:]
    assert content.count(plain) == 2
    first = content.index(plain)
    for changed in (content.replace(plain, null, 1), content[: first + 1] + content[first + 1 :].replace(plain, null)):
        with pytest.raises(MalformedError) as caught:
            parse_ratls(element(0x30, changed))
        assert caught.value.code == "certificate-malformed"


def test_recognised() -> None:
    der = gramine().make()
    certificate = x509.load_der_x509_certificate(der)
    pem = certificate.public_bytes(Encoding.PEM)
    for form in (der, pem, b"\n" + pem):
        assert recognise(form) == Evidence("ratls", der)
    assert recognise_file(pem) == Evidence("ratls", der)
    assert recognise(Maker().make()) is None
    for junk in (b"junk", b"!", b"===", b"AAAA"):
        assert recognise(b"-----BEGIN CERTIFICATE-----\n" + junk + b"\n-----END CERTIFICATE-----") is None
    assert recognise(b"-----BEGIN CERTIFICATE-----" + bytes(40_000)) is None
    with pytest.raises(MalformedError):
        recognise(der[:-1])


def test_the_identifiers_bytes_elsewhere_are_not_evidence() -> None:
    assert recognise(Maker({"1.2.3.4": bytes.fromhex("678105050409")}).make()) is None


def test_described(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = Evidence("ratls", gramine().make())
    inner = registry.Tee("sgx", stand_in, lambda _data: None, lambda _value: evidence, lambda found: {"tee": found.tee})
    monkeypatch.setattr(registry, "tee", lambda name: inner)
    described = RATLS.describe(evidence)
    assert described["evidence"] == [{"tee": "sgx"}, {"tee": "sgx"}]
    assert described["certificate"]["not_after"] == "2030-12-31T23:59:59Z"
    assert described["certificate"]["spki"] == spki().hex()


def test_envelope() -> None:
    evidence = Evidence("ratls", gramine().make())
    assert from_envelope(to_envelope(evidence)) == evidence
    plain = to_envelope(Evidence("ratls", Maker().make()))
    for value in ({}, {"ra-tls-certificate": "!"}, to_envelope(evidence) | {"more": 1}, plain):
        with pytest.raises(MalformedError):
            from_envelope(value)


def kokon(chip: Chip, **changes: Any) -> bytes:
    key = changes.get("key", KEY)
    return make_certificate(key, changes.get("evidence", chip.guest().evidence), changes.get("now", NOW))


def test_kokons_own_certificate(chip: Chip) -> None:
    der = kokon(chip)
    evidence = recognise(der)
    assert evidence == Evidence("ratls", der)
    claims = verify(evidence, chip.endorsements, NOW)
    assert claims.ok
    assert claims.simulated
    assert claims.tee == "snp"
    assert claims.parts[0].measurement == claims.measurement
    described = RATLS.describe(evidence)
    assert described["certificate"]["evidence"][0]["tee"] == "snp"
    assert described["evidence"][0]
    refused = verify(evidence, Endorsements(), NOW)
    assert failures(refused) == ["simulated-root-refused"]


def test_kokons_certificate_with_another_guests_evidence(chip: Chip) -> None:
    stolen = chip.guest().evidence(bound(key_claims(ec.generate_private_key(ec.SECP384R1()))))
    claims = verify(Evidence("ratls", kokon(chip, evidence=lambda _data: stolen)), chip.endorsements, NOW)
    assert failures(claims) == ["ratls-binding-mismatch"]
