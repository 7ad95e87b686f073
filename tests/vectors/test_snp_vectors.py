"""Real SNP reports and certificates: what verifies must verify, what does not must fail with its code."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kokon.errors import MalformedError
from kokon.tee.registry import Claims, Evidence, Trust, verify
from kokon.tee.snp.certtable import decode_extended, encode_extended
from kokon.tee.snp.chain import parse_certificate
from kokon.tee.snp.envelope import from_envelope, to_envelope
from kokon.tee.snp.report import encode_report, parse_report
from kokon.tee.snp.roots import PINNED

pytestmark = [pytest.mark.vectors, pytest.mark.filterwarnings("ignore:Parsed a serial number")]

LATE = datetime(2026, 11, 23, tzinfo=UTC)
NEGATIVE = {
    "snp/milan_v2_bad_report_cmc.report.bin": "snp-signature-invalid",
    "snp/derived_genoa_v3_measurement_flip.report.bin": "snp-signature-invalid",
}


def der(vectors: Path, name: str) -> bytes:
    data = (vectors / name).read_bytes()
    if name.endswith(".pem"):
        return x509.load_pem_x509_certificate(data).public_bytes(Encoding.DER)
    return data


def reports(manifest: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in manifest if entry["tee"] == "snp" and entry["kind"] == "report"]


def evidence(vectors: Path, entry: dict[str, Any], count: int = 3) -> Evidence:
    chain = tuple(der(vectors, name) for name in entry["related"][:count])
    return Evidence("snp", (vectors / entry["file"]).read_bytes(), chain)


def moment(entry: dict[str, Any]) -> datetime:
    at = entry["expected"].get("at_time")
    return datetime.fromisoformat(at) if at else LATE


def failures(claims: Claims) -> list[str | None]:
    return [check.code for check in claims.failures]


@pytest.mark.parametrize("count", [3, 2, 1])
def test_every_report_gives_its_expected_result(vectors: Path, manifest: list[dict[str, Any]], count: int) -> None:
    seen = 0
    for entry in reports(manifest):
        claims = verify(evidence(vectors, entry, count), Trust(), moment(entry))
        expected = entry["expected"]["verifies"]
        seen += 1
        if expected is True:
            assert claims.ok, (entry["file"], failures(claims))
            assert claims.product == entry["generation"]
            assert PINNED[claims.root] == entry["generation"]
            assert not claims.simulated
        elif expected is False:
            assert failures(claims) == [NEGATIVE[entry["file"]]], entry["file"]
        else:
            assert failures(claims) == ["snp-certificates-missing"], entry["file"]
    assert seen >= 20


def test_every_field_is_read(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    for entry in reports(manifest):
        raw = (vectors / entry["file"]).read_bytes()
        report, claims = parse_report(raw), entry["claims"]
        assert encode_report(report) == raw
        assert report.policy == int(claims["policy"], 16)
        assert report.platform_info == int(claims["platform_info"], 16)
        assert report.signature_algorithm == claims["signature_algo"]
        for name in ("version", "guest_svn", "debug", "vmpl", "signing_key"):
            assert getattr(report, name) == claims[name], name
        assert report.migratable == claims["migrate_ma"]
        assert report.chip_key_masked == bool(claims["mask_chip_key"])
        assert report.author_key_enabled == bool(claims["author_key_en"])
        for name in ("family_id", "image_id", "report_data", "measurement", "host_data", "chip_id", "report_id"):
            assert getattr(report, name).hex() == claims[name], name
        for name in ("report_id_ma", "id_key_digest", "author_key_digest"):
            assert getattr(report, name).hex() == claims[name], name
        for name in ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"):
            components = {key: value for key, value in claims[name].items() if key != "raw"}
            assert report.tcb(getattr(report, name)) == components, (entry["file"], name)
        for name in ("current_version", "committed_version"):
            build, minor, major = getattr(report, name)
            assert f"{major}.{minor}.{build}" == claims[name]


def test_report_and_certificates_travel_unchanged(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    for entry in reports(manifest):
        original = evidence(vectors, entry)
        assert from_envelope(json.loads(json.dumps(to_envelope(original)))) == original
        assert decode_extended(encode_extended(original)) == original


def test_evidence_of_a_confidential_containers_attester(vectors: Path) -> None:
    value = json.loads((vectors / "coco" / "snp_evidence_e2e.json").read_text())
    found = from_envelope(value)
    claims = verify(found, Trust(), LATE)
    assert claims.ok
    assert claims.product == "Genoa"
    again = to_envelope(found)
    assert again["cert_chain"] == value["cert_chain"]
    assert again["attestation_report"] == value["attestation_report"]


def test_what_is_not_checked_is_said(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    for entry in reports(manifest):
        if entry["expected"]["verifies"] is True:
            claims = verify(evidence(vectors, entry), Trust(), moment(entry))
            open_questions = [check.code for check in claims.checks if check.outcome == "not-checked"]
            leased = ["snp-chip-id-unbound"] if entry["claims"]["signing_key"] == 1 else []
            assert open_questions == [*leased, "snp-revocation-not-checked"]


def test_certificates_are_checked_at_the_given_time(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    for entry in reports(manifest):
        if entry["expected"]["verifies"] is not True:
            continue
        start, end = (datetime.fromisoformat(text) for text in entry["expected"]["leaf_valid"])
        subject = evidence(vectors, entry)
        assert verify(subject, Trust(), end).ok
        late = verify(subject, Trust(), end + timedelta(seconds=1))
        assert failures(late) == ["snp-certificate-expired"]
        early = verify(subject, Trust(), start - timedelta(seconds=1))
        assert failures(early) == ["snp-certificate-not-yet-valid"]


def test_another_chips_certificate_is_refused(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    good = [entry for entry in reports(manifest) if entry["expected"]["verifies"] is True]
    for entry, other in zip(good, (*good[1:], good[0]), strict=True):
        raw, chain = evidence(vectors, entry), evidence(vectors, other).certificates
        claims = verify(Evidence("snp", raw.report, chain), Trust(), LATE)
        assert not claims.ok
        if raw.certificates[0] != chain[0]:
            assert "snp-signature-invalid" in failures(claims)


def test_a_leaf_not_signed_by_its_authority_is_refused(vectors: Path) -> None:
    names = ("snp/invalid_vcek_legacy.der", "snp/certs/milan_ask.pem", "snp/certs/milan_ark.pem")
    report = (vectors / "snp" / "milan_v2_vcek_trustee.report.bin").read_bytes()
    claims = verify(Evidence("snp", report, tuple(der(vectors, n) for n in names)), Trust(), LATE)
    assert "snp-chain-broken" in failures(claims)


def test_roots_and_intermediates_of_different_products_do_not_mix(vectors: Path) -> None:
    leaf, report = "snp/milan_v3_vcek_tav.vcek.der", "snp/milan_v3_vcek_tav.report.bin"
    chain = tuple(der(vectors, n) for n in (leaf, "snp/certs/genoa_ask.pem", "snp/certs/genoa_ark.pem"))
    claims = verify(Evidence("snp", (vectors / report).read_bytes(), chain), Trust(), LATE)
    assert {"snp-chain-broken", "snp-product-mismatch"} <= set(failures(claims))


def test_a_lone_certificate_chains_to_its_root(vectors: Path) -> None:
    turin = parse_certificate(der(vectors, "snp/turin_vcek_only_virtee.der"))
    ask, ark = (parse_certificate(der(vectors, f"snp/certs/turin_{name}.pem")) for name in ("ask", "ark"))
    assert ask.issued(turin)
    assert ark.issued(ask)
    assert ark.issued(ark)
    assert not ark.issued(turin)
    assert ark.fingerprint in PINNED


def test_no_flipped_bit_of_the_signed_part_verifies(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    """Every bit position is flipped, spread over the reports so that this stays quick."""
    good = [entry for entry in reports(manifest) if entry["expected"]["verifies"] is True]
    subjects = [(evidence(vectors, entry), moment(entry)) for entry in good]
    for position in range(0x2A0):
        subject, now = subjects[position % len(subjects)]
        raw = bytearray(subject.report)
        raw[position] ^= 1 << position % 8
        try:
            claims = verify(Evidence("snp", bytes(raw), subject.certificates), Trust(), now)
        except MalformedError:
            continue
        assert not claims.ok, position
