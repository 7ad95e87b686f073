"""Verification of Nitro documents under a made-up AWS, one fault at a time."""

from dataclasses import replace
from datetime import timedelta

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from nitro_kit import NOW, aws, make_aws

from kokon.errors import MalformedError
from kokon.tee.cbor import write_cbor
from kokon.tee.cose import encode_sign1, parse_sign1
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence
from kokon.tee.registry import verify

P384_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973


def failures(claims: Claims) -> list[str | None]:
    return [check.code for check in claims.failures]


def codes(claims: Claims) -> set[str | None]:
    return {check.code for check in claims.checks}


def test_a_good_document() -> None:
    claims = aws().claims(aws().document(pcrs={index: bytes([index + 1]) * 48 for index in range(16)}))
    assert claims.ok
    assert claims.simulated
    assert (claims.tee, claims.product, claims.root) == ("nitro", "Nitro", aws().root)
    assert claims.measurement == b"\1" * 48
    assert claims.registers["pcr4"] == b"\5" * 48
    assert claims.signer == b"\x09" * 48
    assert claims.report_data == b"nonce"
    assert claims.details["user_data"] == b"user".hex()
    assert not claims.debug
    assert {"nitro-revocation-none", "crl-missing", "nitro-freshness"} <= codes(claims)


def test_an_unsigned_image_has_no_signer() -> None:
    pcrs = {index: bytes(48) if index == 8 else b"\1" * 48 for index in range(16)}
    assert aws().claims(aws().document(pcrs=pcrs)).signer == b""


def test_debug_is_said_and_not_refused() -> None:
    claims = aws().claims(aws().document(pcrs={index: bytes(48) for index in range(16)}))
    assert claims.ok
    assert claims.debug
    claims = aws().claims(aws().document(pcrs={0: bytes(48), 1: bytes(47) + b"\1", 2: bytes(48)}))
    assert not claims.debug


@pytest.mark.parametrize("pcrs", [{0: b"\1" * 48, 1: b"\1" * 48}, {0: b"\1" * 32, 1: b"\1" * 48, 2: b"\1" * 48}])
def test_registers_must_be_whole(pcrs: dict[int, bytes]) -> None:
    assert failures(aws().claims(aws().document(pcrs=pcrs))) == ["nitro-registers"]


def test_a_document_without_image_registers_counts_as_debug() -> None:
    claims = aws().claims(aws().document(pcrs={4: b"\1" * 48}))
    assert failures(claims) == ["nitro-registers"]
    assert claims.debug
    assert claims.measurement == b""


def test_the_root_must_be_accepted() -> None:
    claims = verify(Evidence("nitro", aws().document()), Endorsements(), NOW)
    assert failures(claims) == ["simulated-root-refused"]
    assert claims.simulated


def test_another_vendors_pinned_root_does_not_help() -> None:
    other = make_aws()
    claims = verify(Evidence("nitro", other.document()), aws().endorsements, NOW)
    assert failures(claims) == ["simulated-root-refused"]


def test_the_signature_must_be_the_leafs() -> None:
    message = parse_sign1(aws().document(), limit=1 << 16)
    other = parse_sign1(aws().document(nonce=b"other"), limit=1 << 16)
    for forged in (replace(message, signature=other.signature), replace(message, payload=other.payload)):
        assert failures(aws().claims(encode_sign1(forged))) == ["nitro-signature-invalid"]


def test_the_leafs_key_must_be_on_p384() -> None:
    other = make_aws(ec.SECP256R1())
    assert failures(other.claims(other.document())) == ["nitro-signature-invalid"]


def test_the_leaf_must_be_no_authority() -> None:
    other = make_aws(leaf_authority=True)
    assert failures(other.claims(other.document())) == ["not-an-authority"]


@pytest.mark.parametrize("header", [{1: -35, 4: b"kid"}, {1: -7}, {}])
def test_the_header_names_es384_and_nothing_else(header: dict[int, object]) -> None:
    data = aws().sign(write_cbor(aws().fields()), protected=write_cbor(header))
    assert "nitro-header" in failures(aws().claims(data))


def test_nothing_unsigned_may_travel_along() -> None:
    data = aws().sign(write_cbor(aws().fields()), unprotected={4: b"kid"})
    assert failures(aws().claims(data)) == ["nitro-header"]


def test_dates() -> None:
    data, end = aws().document(), NOW + timedelta(hours=2)
    assert aws().claims(data, end - timedelta(seconds=1)).ok
    assert "certificate-expired" in failures(aws().claims(data, end))
    assert "certificate-not-yet-valid" in failures(aws().claims(data, NOW - timedelta(hours=2)))


@pytest.mark.parametrize("hours", [-2, 2, 5])
def test_the_timestamp_lies_in_the_leafs_life(hours: int) -> None:
    moment = int((NOW + timedelta(hours=hours)).timestamp() * 1000)
    assert failures(aws().claims(aws().document(timestamp=moment))) == ["nitro-timestamp-outside"]


@pytest.mark.parametrize(
    ("order", "code"),
    [
        ((1, 2, 3), "chain-incomplete"),  # no root
        ((0, 1, 2), "chain-broken"),  # a link missing
        ((3, 2, 1, 0), "chain-broken"),  # the wrong way round
        ((0, 0, 1, 2, 3), None),  # the root twice
        ((0, 2, 1, 3), "chain-broken"),
    ],
)
def test_the_bundle_is_the_chain_root_first(order: tuple[int, ...], code: str | None) -> None:
    claims = aws().claims(aws().document(cabundle=[aws().ders[index] for index in order]))
    assert claims.ok == (code is None)
    if code is not None:
        assert code in failures(claims)


def test_a_certificate_that_does_not_parse() -> None:
    for changes in ({"certificate": bytes(100)}, {"cabundle": [bytes(100)]}):
        with pytest.raises(MalformedError) as caught:
            aws().claims(aws().document(**changes))
        assert caught.value.code == "certificate-malformed"


def revocation_list(issuer: int, serial: int | None) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(aws().chain[issuer].subject)
        .last_update(NOW - timedelta(hours=1))
        .next_update(NOW + timedelta(hours=1))
    )
    if serial is not None:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW).build()
        builder = builder.add_revoked_certificate(revoked)
    return builder.sign(aws().keys[issuer], SHA384()).public_bytes(Encoding.DER)


def test_revocation_lists_count_where_they_are_given() -> None:
    revoked = Endorsements(crls=(revocation_list(1, aws().chain[2].serial_number),))
    assert failures(aws().claims(aws().document(), more=revoked)) == ["certificate-revoked"]
    clean = Endorsements(crls=(b"junk", revocation_list(0, None), revocation_list(1, 7), revocation_list(2, None)))
    claims = aws().claims(aws().document(), more=clean)
    assert claims.ok
    assert "crl-missing" not in codes(claims)
    instance = Endorsements(crls=(revocation_list(3, aws().chain[4].serial_number),))
    assert aws().claims(aws().document(), more=instance).ok  # that key may sign no lists


def test_one_canonical_form_for_all_encodings() -> None:
    data = aws().document()
    canonical = aws().claims(data).canonical
    assert aws().claims(b"\xd2" + data).canonical == canonical
    message = parse_sign1(data, limit=1 << 16)
    r, s = message.signature[:48], int.from_bytes(message.signature[48:], "big")
    twin = encode_sign1(replace(message, signature=r + (P384_ORDER - s).to_bytes(48, "big")))
    claims = aws().claims(twin)
    assert claims.ok
    assert claims.canonical == canonical
    assert aws().claims(aws().document(nonce=b"other")).canonical != canonical


def test_indefinite_maps_verify_as_they_came() -> None:
    data = aws().sign(cbor2.dumps(aws().fields(), indefinite_containers=True))
    claims = aws().claims(data)
    assert claims.ok
    definite = replace(parse_sign1(data, limit=1 << 16), payload=write_cbor(aws().fields()))
    assert failures(aws().claims(encode_sign1(definite))) == ["nitro-signature-invalid"]
