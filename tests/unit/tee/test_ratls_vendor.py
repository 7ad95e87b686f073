"""RA-TLS certificates and Nitro documents of the fake vendor: the quotes inside are really verified here."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence
from kokon.tee.recognise import recognise
from kokon.tee.registry import verify
from kokon.testing.vendor import FakeVendor
from kokon.testing.vendor.authority import P384
from kokon.testing.vendor.ratls import END, RatlsOptions, ratls_certificate

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
VENDOR = FakeVendor(NOW)


def claims_of(evidence: Evidence, now: datetime = NOW, vendor: FakeVendor = VENDOR) -> Claims:
    return verify(evidence, vendor.endorsements(evidence), now)


def failures(claims: Claims) -> list[str | None]:
    return [check.code for check in claims.failures]


def certificate(tee: Any = "sgx", **options: Any) -> Evidence:
    return VENDOR.ratls(tee=tee, options=RatlsOptions(**options))


@pytest.mark.parametrize("form", ["legacy", "dice", "both"])
@pytest.mark.parametrize("tee", ["sgx", "tdx"])
def test_certificates(form: Any, tee: Any) -> None:
    evidence = certificate(tee, form=form)
    claims = claims_of(evidence)
    assert claims.ok, failures(claims)
    assert claims.tee == tee
    assert claims.simulated
    assert len(claims.parts) == (2 if form == "both" else 1)
    assert recognise(evidence.report) == evidence


@pytest.mark.parametrize("hash_number", [1, 7, 8])
def test_hashes(hash_number: int) -> None:
    claims = claims_of(certificate(hash=hash_number, nonce=b"n", claims={"colour": b"red"}))
    assert claims.ok
    assert "ratls-claims-unknown" in {check.code for check in claims.checks}


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        ({"bound_key": b"another key"}, ["ratls-key-mismatch", "ratls-binding-mismatch"]),
        ({"bound_key": b"another key", "form": "dice"}, ["ratls-key-mismatch"]),
        ({"wide": b"\1" * 32}, ["ratls-report-data-excess"] * 2),
        ({"with_key_hash": False}, ["ratls-key-unbound"]),
        ({"not_after": NOW}, ["certificate-expired"]),
    ],
)
def test_faults(options: dict[str, Any], codes: list[str]) -> None:
    assert failures(claims_of(certificate(**options))) == codes


def test_debug_enclaves_inside() -> None:
    claims = claims_of(VENDOR.ratls(debug=True))
    assert failures(claims) == ["sgx-debug", "sgx-debug"]
    assert claims.debug


def test_two_quotes_of_two_enclaves() -> None:
    options = RatlsOptions()
    key = VENDOR.keys.elliptic("RA-TLS first", P384)
    public = key.public_key()
    legacy = VENDOR.sgx(report_data=options.report_data(public, "legacy"), isvsvn=1)
    dice = VENDOR.sgx(report_data=options.report_data(public, "dice"), isvsvn=2)
    der = ratls_certificate(key, options, legacy=legacy.report, dice=dice.report)
    assert failures(claims_of(Evidence("ratls", der))) == ["ratls-quotes-differ"]


def test_what_is_needed_is_asked_for_once() -> None:
    claims = verify(certificate(), Endorsements(), NOW)
    assert not claims.ok
    assert {"tcb-info", "qe-identity"} <= {need.kind for need in claims.needs}
    assert len(claims.needs) == len(set(claims.needs))


def test_the_certificates_end() -> None:
    evidence = certificate()
    later = FakeVendor(END - timedelta(days=1))
    assert "certificate-expired" not in failures(claims_of(evidence, END - timedelta(days=1), later))
    assert "certificate-expired" in failures(claims_of(evidence, END, FakeVendor(END)))


@pytest.mark.parametrize("fields", [{}, {"indefinite": False}, {"tagged": True}, {"nonce": b"n" * 512}])
def test_nitro_documents(fields: dict[str, Any]) -> None:
    evidence = VENDOR.nitro(**fields)
    claims = claims_of(evidence)
    assert claims.ok, failures(claims)
    assert not claims.debug
    assert claims.report_data == fields.get("nonce", b"")
    assert recognise(evidence.report) == evidence


def test_nitro_debug() -> None:
    claims = claims_of(VENDOR.nitro(debug=True))
    assert claims.ok
    assert claims.debug


@pytest.mark.parametrize("what", ["region", "zone", "instance"])
def test_nitro_revocation(what: str) -> None:
    vendor = VENDOR.but(revoked=frozenset({what}))
    assert failures(claims_of(vendor.nitro(), vendor=vendor)) == ["certificate-revoked"]


def test_nitro_ends_after_three_hours() -> None:
    evidence = VENDOR.nitro()
    assert "certificate-expired" in failures(claims_of(evidence, NOW + timedelta(hours=3)))
