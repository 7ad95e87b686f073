"""Endorsements examined for themselves."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from unit_x509 import NOW as X509_NOW
from unit_x509 import Authority

from kokon.errors import MalformedError
from kokon.tee.endorsed import parse_all, parse_lists, verify_all, verify_certificate, verify_crl, verify_document
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims
from kokon.testing.vendor import FakeVendor

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
VENDOR = FakeVendor(NOW)
TDX = VENDOR.endorsements(VENDOR.tdx())
ROOT = Authority("Kokon simulated root")
LEAF = Authority("leaf", ROOT, ca=False, serial=42)
ACCEPTED = frozenset({ROOT.certificate.fingerprint})


def codes(claims: Claims) -> set[str | None]:
    return {check.code for check in claims.failures}


def test_certificates() -> None:
    pool = Endorsements((ROOT.der,), accepted_simulated=ACCEPTED)
    good = verify_certificate(LEAF.der, pool, X509_NOW)
    assert (good.ok, good.simulated, good.root) == (True, True, ROOT.certificate.fingerprint)
    assert good.details["serial"] == "0x2a"
    assert codes(verify_certificate(LEAF.der, replace(pool, accepted_simulated=frozenset()), X509_NOW)) == {
        "simulated-root-refused"
    }
    assert codes(verify_certificate(LEAF.der, Endorsements(), X509_NOW)) == {"chain-incomplete"}
    revoked = replace(pool, crls=(ROOT.crl(42).der,))
    assert codes(verify_certificate(LEAF.der, revoked, X509_NOW)) == {"certificate-revoked"}
    old = replace(pool, crls=(ROOT.crl(start=X509_NOW - timedelta(9), end=X509_NOW).der,))
    assert verify_certificate(LEAF.der, old, X509_NOW).ok  # an old list is no reason against, and none for
    assert codes(verify_certificate(LEAF.der, pool, X509_NOW + timedelta(999))) == {"certificate-expired"}
    with pytest.raises(MalformedError, match="certificate-malformed"):
        verify_certificate(b"junk", pool, X509_NOW)


def test_lists() -> None:
    pool, crl = Endorsements((ROOT.der,), accepted_simulated=ACCEPTED), ROOT.crl(7).der
    assert verify_crl(crl, pool, X509_NOW).ok
    missing = verify_crl(crl, Endorsements(), X509_NOW)
    assert not missing.ok
    assert [need.kind for need in missing.needs] == ["issuer"]
    assert "crl-issuer-missing" in {check.code for check in missing.checks}
    forged = ROOT.crl(7, signer=Authority("forger")).der
    assert codes(verify_crl(forged, pool, X509_NOW)) == {"crl-untrusted"}
    assert codes(verify_crl(crl, pool, X509_NOW + timedelta(9))) == {"crl-expired"}


def test_documents() -> None:
    for document in TDX.documents:
        assert verify_document(document, TDX, NOW).ok
        altered = replace(document, signature=bytes(64))
        assert codes(verify_document(altered, TDX, NOW)) == {"intel-document-signature"}
        assert "intel-document-expired" in codes(verify_document(document, TDX, NOW + timedelta(365)))


def test_all_together() -> None:
    whole = verify_all(TDX, Endorsements(accepted_simulated=VENDOR.roots), NOW)
    assert (whole.ok, whole.simulated, whole.tee) == (True, True, "collateral")
    first = TDX.documents[0]
    bad = replace(TDX, documents=(replace(first, signature=bytes(64)), *TDX.documents[1:]))
    assert codes(verify_all(bad, Endorsements(accepted_simulated=VENDOR.roots), NOW)) == {"intel-document-signature"}
    with pytest.raises(MalformedError, match="endorsements-empty"):
        verify_all(Endorsements(), TDX, NOW)


def test_what_does_not_parse_is_left_out() -> None:
    assert len(parse_all((b"junk", ROOT.der))) == 1
    assert len(parse_lists((b"junk", ROOT.crl().der))) == 1
