"""AMD's built-in certificates: what is taken for granted about them is checked here, once for each."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from kokon.errors import MalformedError
from kokon.tee.anchors import AMD
from kokon.tee.certificates import Certificate, parse_certificate
from kokon.tee.snp.amd import certificates
from kokon.tee.snp.known import KNOWN, recall

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize("known", KNOWN.values(), ids=lambda one: one.name)
def test_every_signature_that_is_vouched_for_is_there(known: Certificate) -> None:
    fresh = {der: parse_certificate(der) for der in certificates()}
    signers = [one for one in fresh.values() if one.self_issued and one.issued(fresh[known.der])]
    assert [one.fingerprint for one in signers] == [known.vouched]
    assert known.vouched in AMD
    assert not fresh[known.der].vouched


def test_other_bytes_are_nobodys() -> None:
    der = certificates()[1]
    assert recall(der).vouched
    altered = der[:-1] + bytes([der[-1] ^ 1])
    assert not recall(altered).vouched
    with pytest.raises(MalformedError):
        recall(der[:-1])


def test_vouching_is_for_one_key() -> None:
    """A stranger's root of the same name, and an altered copy of what AMD signed, get no signature for free."""
    root, intermediate = (recall(der) for der in certificates()[:2])
    stranger = parse_certificate(namesake(root.der))
    assert stranger.subject == root.subject
    assert root.issued(intermediate)
    assert not stranger.issued(intermediate)
    der = intermediate.der
    assert not root.issued(recall(der[:-1] + bytes([der[-1] ^ 1])))


def namesake(der: bytes) -> bytes:
    """A self-signed certificate with the subject of `der` and another key."""
    name, key = x509.load_der_x509_certificate(der).subject, ec.generate_private_key(ec.SECP384R1())
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    dated = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + timedelta(days=1))
    return dated.sign(key, hashes.SHA384()).public_bytes(Encoding.DER)
