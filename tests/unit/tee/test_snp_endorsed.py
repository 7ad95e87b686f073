"""Which certificate and which list count, out of everything that a verifier may hold: with the fake vendor's keys."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_snp_report import any_report

from kokon.errors import MalformedError
from kokon.tee.certificates import parse_certificate
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence, Need
from kokon.tee.registry import verify
from kokon.tee.snp import selection
from kokon.tee.snp import verify as subject
from kokon.tee.snp.certtable import decode_extended
from kokon.tee.snp.envelope import from_envelope, to_envelope
from kokon.tee.snp.report import Report, encode_report, parse_report
from kokon.testing import FakeVendor
from kokon.testing.vendor.amd import Tcb, sign_report
from kokon.testing.vendor.authority import Span

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)
VENDOR = FakeVendor(NOW)
ROOT = frozenset({VENDOR.amd.ark("Milan").fingerprint})
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")
JUNK = (b"", b"junk", b"\x30\x00")


def judge(evidence: Evidence, *certificates: bytes, crls: tuple[bytes, ...] = (), now: datetime = NOW) -> Claims:
    return verify(evidence, Endorsements(certificates, crls, accepted_simulated=ROOT), now)


def failures(claims: Claims) -> list[str | None]:
    return [check.code for check in claims.failures]


def open_questions(claims: Claims) -> list[str | None]:
    return [check.code for check in claims.checks if check.outcome == "not-checked"]


def signed(raw: bytes, tcb: Tcb | None = None) -> bytes:
    """A report of the first Milan chip, signed again after it was changed."""
    key = VENDOR.amd.vcek_key("Milan", VENDOR.amd.chip_id("Milan"), tcb or Tcb())
    return sign_report(raw, key)


def changed(**fields: Any) -> Evidence:
    evidence = VENDOR.snp()
    return replace(evidence, report=signed(encode_report(replace(parse_report(evidence.report), **fields))))


@pytest.mark.parametrize("key", ["vcek", "vlek"])
@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_certificates_of_the_endorsements_among_junk_and_other_chips(key: Any, version: int) -> None:
    evidence = VENDOR.snp(key=key, version=version, certificates="none")
    held = VENDOR.snp(key=key).certificates
    others = VENDOR.snp(chip="second").certificates + VENDOR.snp(reported_tcb=Tcb(snp=1)).certificates
    claims = judge(
        evidence, *JUNK, *others, *held, crls=(*JUNK, VENDOR.amd.crl("Milan", frozenset(), VENDOR.lists_span))
    )
    assert claims.ok
    assert claims.needs == ()
    assert claims.simulated
    assert not judge(evidence, *others).ok


def test_a_renewed_certificate_is_preferred_to_an_expired_one() -> None:
    chip = VENDOR.amd.chip_id("Milan")
    old = VENDOR.amd.vcek("Milan", chip, Tcb(), Span(NOW - 10 * DAY, 5 * DAY))
    new = VENDOR.amd.vcek("Milan", chip, Tcb(), Span(NOW - 5 * DAY, 10 * DAY))
    chain = VENDOR.amd.chain("Milan")
    evidence = VENDOR.snp(certificates="none")
    assert judge(replace(evidence, certificates=(old, *chain)), new).ok
    assert judge(evidence, old, new, *chain).ok
    assert failures(judge(evidence, old, *chain)) == ["certificate-expired"]


def test_what_is_needed_for_a_report_alone() -> None:
    claims = judge(VENDOR.snp(certificates="none"))
    tcb = (("microcode", "213"), ("product", "Milan"), ("snp", "22"), ("tee", "0"))
    chip = ("chip-id", VENDOR.amd.chip_id("Milan").hex())
    assert claims.needs == (Need("vcek", (("bootloader", "4"), chip, *tcb)),)
    claims = judge(VENDOR.snp(key="vlek", certificates="none"))
    assert claims.needs == (Need("vlek", (("bootloader", "4"), *tcb)),)
    claims = judge(VENDOR.snp(certificates="leaf"))
    assert claims.needs[0] == Need("amd-chain", (("kind", "vcek"), ("product", "Milan")))
    claims = judge(VENDOR.snp(key="vlek", certificates="leaf"))
    assert claims.needs[0] == Need("amd-chain", (("kind", "vlek"), ("product", "Milan")))


def test_nothing_is_needed_for_what_is_not_signed() -> None:
    claims = judge(VENDOR.snp(masked=True, certificates="none"))
    assert failures(claims) == ["snp-chip-key-masked", "snp-report-unsigned"]
    assert claims.needs == ()
    for key_info in (2 << 2, 7 << 2):
        claims = judge(replace(changed(key_info=key_info), certificates=()))
        assert failures(claims) == ["snp-report-unsigned"]


def test_an_unknown_cpu_needs_a_certificate_all_the_same() -> None:
    claims = judge(replace(changed(cpuid=(0x19, 0x77, 0)), certificates=()))
    assert not claims.failures
    assert [need.required for need in claims.needs] == [True]
    assert "product" not in dict(claims.needs[0].parameters)
    assert not claims.ok


@settings(deadline=None)
@given(any_report(), st.booleans())
def test_no_report_verifies_without_its_certificate(report: Report, others: bool) -> None:
    claims = judge(Evidence("snp", encode_report(report)), *(VENDOR.snp().certificates if others else ()))
    assert not claims.ok
    assert bool(claims.failures) or any(need.required for need in claims.needs)


@pytest.mark.parametrize("key", ["vcek", "vlek"])
def test_a_revoked_intermediate(key: Any) -> None:
    revoked = VENDOR.amd.crl("Milan", frozenset({"ask" if key == "vcek" else "asvk"}), VENDOR.lists_span)
    other = VENDOR.amd.crl("Milan", frozenset({"asvk" if key == "vcek" else "ask"}), VENDOR.lists_span)
    evidence = VENDOR.snp(key=key)
    assert failures(judge(evidence, crls=(revoked,))) == ["certificate-revoked"]
    assert failures(judge(evidence, crls=(revoked,), now=NOW + 300 * DAY)) == ["certificate-revoked"]
    assert judge(evidence, crls=(other,)).ok
    assert failures(judge(replace(evidence, parts={"crl": revoked}))) == ["certificate-revoked"]
    strict = VENDOR.but(revoked=frozenset({"ask", "asvk"}))
    extended = decode_extended(strict.raw(strict.snp(key=key, crl=True)))
    assert failures(judge(extended)) == ["certificate-revoked"]


def test_old_and_foreign_lists() -> None:
    evidence = VENDOR.snp()
    old = VENDOR.amd.crl("Milan", frozenset(), Span(NOW - 40 * DAY, 30 * DAY))
    claims = judge(evidence, crls=(old,))
    assert open_questions(claims) == ["crl-expired"]
    assert claims.needs == (Need("amd-crl", (("product", "Milan"),), required=False),)
    assert claims.ok
    foreign = FakeVendor(NOW, seed=b"another").amd.crl("Milan", frozenset(), VENDOR.lists_span)
    assert failures(judge(evidence, crls=(foreign,))) == ["crl-untrusted"]


def test_a_masked_chip_id() -> None:
    evidence = changed(chip_id=bytes(64))
    assert open_questions(judge(evidence)) == ["snp-chip-id-masked", "crl-missing"]
    assert judge(evidence).ok
    bare = replace(evidence, certificates=())
    second = VENDOR.snp(chip="second").certificates
    assert judge(bare, *second, *VENDOR.snp().certificates).ok
    assert not judge(bare, *second).ok


def test_bits_without_a_known_meaning() -> None:
    for fields, found in (
        ({"platform_info": 0x41}, "platform_info 0x40"),
        ({"policy": 0x30000 | 1 << 40}, f"policy {1 << 40:#x}"),
        ({"policy": 0x10000}, "policy 0x20000"),
    ):
        claims = judge(changed(**fields))
        (check,) = (check for check in claims.checks if check.code == "snp-bits-unknown")
        assert (check.outcome, check.found) == ("not-checked", found)
        assert claims.ok


@pytest.mark.parametrize(("committed", "current"), [(Tcb(snp=21), Tcb()), (Tcb(snp=23), Tcb()), (Tcb(), Tcb(tee=0))])
def test_order_of_versions(committed: Tcb, current: Tcb) -> None:
    claims = judge(VENDOR.snp(committed_tcb=committed, current_tcb=current))
    assert failures(claims) == ([] if committed == current else ["snp-tcb-order"])


def test_a_launch_before_a_rollback_is_no_contradiction() -> None:
    assert judge(VENDOR.snp(launch_tcb=Tcb(snp=24))).ok


@pytest.mark.parametrize("key", ["vcek", "vlek"])
def test_keys_and_intermediates_of_the_other_kind(key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake root is taken for AMD's here, since AMD's names bind AMD only."""
    monkeypatch.setattr(subject, "AMD", {next(iter(ROOT)): "Milan"})
    monkeypatch.setattr(subject, "_alike", subject._alike.__wrapped__)  # what is remembered is for the real ones
    other = "vcek" if key == "vlek" else "vlek"
    assert judge(VENDOR.snp(key=key)).ok
    assert not judge(VENDOR.snp(key=key)).simulated
    bit = 1 << 2
    report = parse_report(VENDOR.snp(key=key).report)
    raw = encode_report(replace(report, key_info=report.key_info ^ bit))
    private = (
        VENDOR.amd.vcek_key("Milan", VENDOR.amd.chip_id("Milan"), Tcb())
        if key == "vcek"
        else VENDOR.amd.vlek_key("Milan", "CN=cc-us-east-2.amazonaws.com", Tcb())
    )
    claims = judge(Evidence("snp", sign_report(raw, private), VENDOR.snp(key=key).certificates))
    assert "snp-signing-key-mismatch" in failures(claims)
    wrong = VENDOR.amd.ask("Milan", other)
    leaf = wrong_leaf(key, wrong)
    claims = judge(Evidence("snp", VENDOR.snp(key=key).report, (leaf, *VENDOR.amd.chain("Milan", other))))
    assert failures(claims) == ["snp-intermediate-mismatch"]


def test_amds_own_certificates_come_after_others_and_before_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's root that took the names, and certified AMD's intermediate key, does not get in the way."""
    genuine = VENDOR.snp(certificates="leaf")
    stranger = FakeVendor(NOW, seed=b"stranger").amd.ark("Milan")
    ask = VENDOR.amd.ask("Milan")
    span = Span(NOW - DAY, 2 * DAY)
    forged = stranger.delegate(ask_name(), ask.key, span, serial=7, lists=False).certificate
    given = (forged, stranger.certificate)
    assert failures(judge(genuine, *given)) == ["simulated-root-refused"]
    selection.amd_authorities.cache_clear()
    built_in = {der: parse_certificate(der) for der in VENDOR.amd.chain("Milan")}
    monkeypatch.setattr(selection, "KNOWN", built_in)
    assert judge(genuine, *given).ok
    selection.amd_authorities.cache_clear()


def ask_name() -> str:
    name: str = parse_certificate(VENDOR.amd.ask("Milan").certificate).name
    return name


def wrong_leaf(key: str, authority: Any) -> bytes:
    """A certificate for the same key with the same contents, by another intermediate."""
    from cryptography import x509

    genuine = x509.load_der_x509_certificate(VENDOR.snp(key=key).certificates[0])  # type: ignore[arg-type]
    extensions = {
        extension.oid.dotted_string: extension.value.value
        for extension in genuine.extensions
        if isinstance(extension.value, x509.UnrecognizedExtension)
    }
    der: bytes = authority.issue(
        genuine.subject, genuine.public_key(), Span(NOW - DAY, 2 * DAY), serial=1, extensions=extensions
    )
    return der


def test_version_2_takes_its_layout_from_the_bytes_or_the_certificate() -> None:
    tcb = Tcb(bootloader=1, tee=1, snp=4, microcode=81, fmc=1)
    evidence = VENDOR.snp(product="Turin", version=2, reported_tcb=tcb)
    accepted = Endorsements(accepted_simulated=frozenset({VENDOR.amd.ark("Turin").fingerprint}))
    claims = verify(evidence, accepted, NOW)
    assert claims.ok
    assert claims.reported_tcb == {"fmc": 1, "bootloader": 1, "tee": 1, "snp": 4, "microcode": 81}
    assert from_envelope(to_envelope(evidence)) == replace(evidence, parts={})
    tcb = Tcb(bootloader=1, tee=0, snp=0, microcode=81, fmc=1)
    claims = verify(VENDOR.snp(product="Turin", version=2, reported_tcb=tcb), accepted, NOW)
    assert claims.ok
    assert claims.reported_tcb == {"fmc": 1, "bootloader": 1, "tee": 0, "snp": 0, "microcode": 81}


def test_malformed_certificates_that_came_with_the_report_are_said() -> None:
    evidence = VENDOR.snp()
    for junk, code in ((b"junk", "certificate-malformed"), (spoiled(), "amd-extension")):
        with pytest.raises(MalformedError) as caught:
            judge(replace(evidence, certificates=(junk,)))
        assert caught.value.code == code
    assert judge(evidence, spoiled()).ok


def spoiled() -> bytes:
    """A chip's certificate with nothing of AMD's but the product's name."""
    from cryptography import x509

    genuine = x509.load_der_x509_certificate(VENDOR.snp().certificates[0])
    der: bytes = VENDOR.amd.ask("Milan").issue(
        genuine.subject, genuine.public_key(), Span(NOW - DAY, 2 * DAY), serial=1,
        extensions={"1.3.6.1.4.1.3704.1.2": b"\x16\x05Milan"},
    )  # fmt: skip
    return der
