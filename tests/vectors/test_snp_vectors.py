"""Real SNP reports and certificates: what verifies must verify, what does not must fail with its code."""

import json
import struct
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kokon.errors import MalformedError
from kokon.tee.anchors import AMD
from kokon.tee.certificates import parse_certificate
from kokon.tee.endorsed import verify_certificate, verify_crl
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence, Need
from kokon.tee.registry import verify
from kokon.tee.revocation import parse_crl
from kokon.tee.snp.certtable import decode_extended, encode_extended, encode_table
from kokon.tee.snp.describe import describe
from kokon.tee.snp.envelope import from_envelope, to_envelope
from kokon.tee.snp.recognise import recognise
from kokon.tee.snp.report import REPORT_SIZE, SIGNATURE_SCALAR, SIGNED_SIZE, Report, encode_report, parse_report

pytestmark = [pytest.mark.vectors, pytest.mark.filterwarnings("ignore:Parsed a serial number")]

P384_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
LATE = datetime(2026, 11, 23, tzinfo=UTC)
NEGATIVE = {
    "snp/milan_v2_bad_report_cmc.report.bin": "snp-signature-invalid",
    "snp/derived_genoa_v3_measurement_flip.report.bin": "snp-signature-invalid",
}
KINDS = (
    "snp/milan_v2_vcek_trustee.report.bin",
    "snp/genoa_v3_vcek_tav.report.bin",
    "snp/turin_v5_vcek_tav.report.bin",
    "snp/milan_v3_vlek_trustee.report.bin",
)
"""One report of each kind: version 2, Genoa, Turin, VLEK."""


def der(vectors: Path, name: str) -> bytes:
    data = (vectors / name).read_bytes()
    if name.endswith(".pem"):
        return x509.load_pem_x509_certificate(data).public_bytes(Encoding.DER)
    return data


def reports(manifest: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in manifest if entry["tee"] == "snp" and entry["kind"] == "report"]


def genuine(manifest: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in reports(manifest) if entry["expected"]["verifies"] is True]


def named(manifest: list[dict[str, Any]], file: str) -> dict[str, Any]:
    return next(entry for entry in manifest if entry["file"] == file)


def evidence(vectors: Path, entry: dict[str, Any], count: int = 3) -> Evidence:
    chain = tuple(der(vectors, name) for name in entry["related"][:count])
    return Evidence("snp", (vectors / entry["file"]).read_bytes(), chain)


def moment(entry: dict[str, Any]) -> datetime:
    at = entry["expected"].get("at_time")
    return datetime.fromisoformat(at) if at else LATE


def failures(claims: Claims) -> list[str | None]:
    return [check.code for check in claims.failures]


def everything(vectors: Path) -> Endorsements:
    """All certificates and lists of the vectors, of all chips, as a caller would give a folder."""
    folder = sorted((vectors / "snp").rglob("*"))
    return Endorsements(
        certificates=tuple(
            der(vectors, str(path)) for path in folder if path.suffix in (".der", ".pem") and "crl" not in path.name
        ),
        crls=tuple(path.read_bytes() for path in folder if "crl" in path.name),
    )


@pytest.mark.parametrize("count", [3, 2, 1])
def test_every_report_gives_its_expected_result(vectors: Path, manifest: list[dict[str, Any]], count: int) -> None:
    seen = 0
    for entry in reports(manifest):
        claims = verify(evidence(vectors, entry, count), Endorsements(), moment(entry))
        expected = entry["expected"]["verifies"]
        seen += 1
        if expected is True:
            assert claims.ok, (entry["file"], failures(claims))
            assert claims.product == entry["generation"]
            assert AMD[claims.root] == entry["generation"]
            assert not claims.simulated
        elif expected is False:
            assert failures(claims) == [NEGATIVE[entry["file"]]], entry["file"]
        else:
            assert not claims.failures
            assert {need.kind for need in claims.needs} == {"vcek"}
            assert not claims.ok
    assert seen >= 20


def test_no_report_outlives_its_certificate(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    seen = 0
    for entry in reports(manifest):
        late = entry["expected"].get("after_expiry")
        if late is not None:
            claims = verify(evidence(vectors, entry), Endorsements(), datetime.fromisoformat(late["at_time"]))
            assert late["verifies"] is False
            assert failures(claims) == ["certificate-expired"]
            seen += 1
    assert seen == 2


def test_certificates_are_found_among_those_of_all_chips(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    held = everything(vectors)
    for entry in reports(manifest):
        claims = verify(evidence(vectors, entry, 0), held, moment(entry))
        expected = entry["expected"]["verifies"]
        assert claims.ok == (expected is True), entry["file"]
        if expected is True:
            assert claims.canonical == verify(evidence(vectors, entry), Endorsements(), moment(entry)).canonical
        elif expected is False:
            assert failures(claims) == [NEGATIVE[entry["file"]]]
        else:
            assert [need.kind for need in claims.needs] == ["vcek", "vcek"]


def test_every_certificate_and_list_gives_its_expected_result(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    seen = 0
    for entry in manifest:
        if entry["tee"] != "snp" or entry["kind"] not in ("cert", "crl"):
            continue
        data, expected = der(vectors, entry["file"]), entry["expected"]["verifies"]
        kind = verify_certificate if entry["kind"] == "cert" else verify_crl
        claims = kind(data, Endorsements(), moment(entry))
        assert claims.ok == expected, entry["file"]
        seen += 1
    assert seen >= 28


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


def test_claims_and_description_are_the_reports(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    for entry in genuine(manifest):
        subject, known = evidence(vectors, entry), entry["claims"]
        claims = verify(subject, Endorsements(), moment(entry))
        details = describe(subject)
        assert claims.details == details
        assert json.loads(json.dumps(details)) == details
        assert details["policy"]["value"] == known["policy"]
        assert details["platform_info"]["value"] == known["platform_info"]
        assert details["signing_key"] == ("VLEK" if known["signing_key"] else "VCEK")
        for name in ("current", "committed", "launch"):
            raw = dict(known[f"{name}_tcb"])
            del raw["raw"]
            assert claims.tcbs[name] == raw == details[f"{name}_tcb"]
        assert claims.registers == {"measurement": bytes.fromhex(known["measurement"])}
        assert claims.signer == bytes.fromhex(known["id_key_digest"])
        assert (claims.debug, claims.vmpl) == (bool(known["debug"]), known["vmpl"])


def test_report_and_certificates_travel_unchanged(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    for entry in reports(manifest):
        original = evidence(vectors, entry)
        assert from_envelope(json.loads(json.dumps(to_envelope(original)))) == original
        assert decode_extended(encode_extended(original)) == original


def test_all_encodings_have_one_canonical_form(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    for entry in genuine(manifest):
        original = evidence(vectors, entry)
        report, table = original.report, encode_table(original.certificates, vlek=entry["claims"]["signing_key"] == 1)
        header = struct.pack("<II24x", 0, REPORT_SIZE)
        bare = (report, report.ljust(4096, b"\0"), header + report, (header + report).ljust(4000, b"\0"))
        full = (report + table, (report + table).ljust(16384, b"\0"))
        held = Endorsements(certificates=original.certificates)
        canonical = {verify(original, Endorsements(), moment(entry)).canonical}
        for data in (*bare, *full):
            found = recognise(data)
            assert found is not None
            assert found.report == report
            assert found.certificates == (original.certificates if data in full else ())
            canonical.add(verify(found, held, moment(entry)).canonical)
        canonical.add(verify(from_envelope(to_envelope(original)), held, moment(entry)).canonical)
        assert len(canonical) == 1


def test_the_other_valid_signature_makes_no_other_evidence(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    """(r, n - s) verifies whenever (r, s) does, so nobody may tell evidence apart by its bytes."""
    for entry in genuine(manifest):
        original = evidence(vectors, entry)
        report = parse_report(original.report)
        twin = report.signature[:SIGNATURE_SCALAR] + (P384_ORDER - report.s).to_bytes(SIGNATURE_SCALAR, "little")
        other = replace(original, report=encode_report(replace(report, signature=twin)))
        assert other.report != original.report
        claims = [verify(subject, Endorsements(), moment(entry)) for subject in (original, other)]
        assert claims[1].ok
        assert claims[0].canonical == claims[1].canonical
        larger = report.signature[:SIGNATURE_SCALAR] + (P384_ORDER + report.s).to_bytes(SIGNATURE_SCALAR, "little")
        assert refused(encode_report(replace(report, signature=larger)), original, moment(entry))


def test_all_evidence_has_its_own_canonical_form(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    canonical = {
        verify(evidence(vectors, entry), Endorsements(), moment(entry)).canonical for entry in reports(manifest)
    }
    assert len(canonical) == len({(vectors / entry["file"]).read_bytes()[:SIGNED_SIZE] for entry in reports(manifest)})


def test_evidence_of_a_confidential_containers_attester(vectors: Path) -> None:
    value = json.loads((vectors / "coco" / "snp_evidence_e2e.json").read_text())
    found = from_envelope(value)
    claims = verify(found, Endorsements(), LATE)
    assert claims.ok
    assert claims.product == "Genoa"
    again = to_envelope(found)
    assert again["cert_chain"] == value["cert_chain"]
    assert again["attestation_report"] == value["attestation_report"]


def test_what_is_not_checked_is_said(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    for entry in genuine(manifest):
        claims = verify(evidence(vectors, entry), Endorsements(), moment(entry))
        open_questions = [check.code for check in claims.checks if check.outcome == "not-checked"]
        leased = ["snp-chip-id-unbound"] if entry["claims"]["signing_key"] == 1 else []
        newer = ["snp-bits-unknown"] if int(entry["claims"]["platform_info"], 16) & 0x40 else []
        assert open_questions == [*newer, *leased, "crl-missing"]
        assert claims.needs == (Need("amd-crl", (("product", entry["generation"]),), required=False),)


def test_what_the_key_service_is_asked_for(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    def needed(file: str) -> tuple[Need, ...]:
        entry = named(manifest, file)
        return verify(evidence(vectors, entry, 0), Endorsements(), moment(entry)).needs

    turin, genoa = named(manifest, KINDS[2])["claims"], named(manifest, KINDS[1])["claims"]
    assert needed(KINDS[2]) == (
        Need(
            "vcek",
            (
                ("bootloader", "1"), ("chip-id", turin["chip_id"][:16]), ("fmc", "1"), ("microcode", "81"),
                ("product", "Turin"), ("snp", "4"), ("tee", "1"),
            ),
        ),
    )  # fmt: skip
    (need,) = needed(KINDS[1])
    parameters = dict(need.parameters)
    assert (parameters["chip-id"], parameters["product"]) == (genoa["chip_id"], "Genoa")
    assert [dict(need.parameters)["product"] for need in needed(KINDS[0])] == ["Milan", "Genoa"]
    (need,) = needed(KINDS[3])
    assert need.kind == "vlek"
    assert "chip-id" not in dict(need.parameters)


def test_real_revocation_lists(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    lists = {name: (vectors / "snp" / "certs" / f"{name}_crl.der").read_bytes() for name in ("milan", "genoa")}
    assert parse_crl(lists["genoa"]).revoked == {0x20001}
    assert parse_crl(lists["milan"]).revoked == frozenset()
    now = datetime(2025, 6, 1, tzinfo=UTC)
    seen = 0
    for entry in genuine(manifest):
        start, end = (datetime.fromisoformat(text) for text in entry["expected"]["leaf_valid"])
        if not start <= now < end or entry["generation"] == "Turin":
            continue
        claims = verify(evidence(vectors, entry), Endorsements(crls=tuple(lists.values())), now)
        assert claims.ok
        assert claims.needs == ()
        (check,) = (check for check in claims.checks if check.name.startswith("revocation"))
        assert check.outcome == "passed"
        seen += 1
    assert seen >= 6


def test_certificates_are_checked_at_the_given_time(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    for entry in genuine(manifest):
        start, end = (datetime.fromisoformat(text) for text in entry["expected"]["leaf_valid"])
        subject, second = evidence(vectors, entry), timedelta(seconds=1)
        assert verify(subject, Endorsements(), start).ok
        assert verify(subject, Endorsements(), end - second).ok
        assert failures(verify(subject, Endorsements(), end)) == ["certificate-expired"]
        assert failures(verify(subject, Endorsements(), start - second)) == ["certificate-not-yet-valid"]


def test_another_chips_certificate_is_refused(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    good = genuine(manifest)
    for entry, other in zip(good, (*good[1:], good[0]), strict=True):
        raw, chain = evidence(vectors, entry), evidence(vectors, other).certificates
        assert raw.certificates[0] != chain[0]
        claims = verify(Evidence("snp", raw.report, chain), Endorsements(), LATE)
        assert "snp-signature-invalid" in failures(claims)
        held = verify(Evidence("snp", raw.report), Endorsements(certificates=chain), LATE)
        assert not held.ok
        assert held.needs[0].required


def test_a_wrong_certificate_with_the_report_gives_way_to_the_right_one(
    vectors: Path, manifest: list[dict[str, Any]]
) -> None:
    right, wrong = (evidence(vectors, named(manifest, file)) for file in KINDS[1:3])
    mixed = Evidence("snp", right.report, wrong.certificates)
    assert verify(mixed, Endorsements(certificates=right.certificates), LATE).ok


def test_a_leaf_not_signed_by_its_authority_is_refused(vectors: Path) -> None:
    names = ("snp/invalid_vcek_legacy.der", "snp/certs/milan_ask.pem", "snp/certs/milan_ark.pem")
    report = (vectors / "snp" / "milan_v2_vcek_trustee.report.bin").read_bytes()
    claims = verify(Evidence("snp", report, tuple(der(vectors, n) for n in names)), Endorsements(), LATE)
    assert {"chain-broken", "snp-signature-invalid", "snp-tcb-mismatch"} <= set(failures(claims))


def test_intermediates_of_another_product_do_no_harm(vectors: Path) -> None:
    leaf, report = "snp/milan_v3_vcek_tav.vcek.der", "snp/milan_v3_vcek_tav.report.bin"
    chain = tuple(der(vectors, n) for n in (leaf, "snp/certs/genoa_ask.pem", "snp/certs/genoa_ark.pem"))
    claims = verify(Evidence("snp", (vectors / report).read_bytes(), chain), Endorsements(), LATE)
    assert claims.ok
    assert AMD[claims.root] == "Milan"


def test_a_lone_certificate_chains_to_its_root(vectors: Path) -> None:
    turin = parse_certificate(der(vectors, "snp/turin_vcek_only_virtee.der"))
    ask, ark = (parse_certificate(der(vectors, f"snp/certs/turin_{name}.pem")) for name in ("ask", "ark"))
    assert ask.issued(turin)
    assert ark.issued(ask)
    assert ark.issued(ark)
    assert not ark.issued(turin)
    assert ark.fingerprint in AMD


def refused(report: bytes, subject: Evidence, now: datetime) -> bool:
    """True if that report with those certificates does not parse or does not verify."""
    try:
        return not verify(replace(subject, report=report), Endorsements(), now).ok
    except MalformedError:
        return True


def test_every_bit_of_a_report_counts(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    """All bits of one report of each kind; most do not even parse."""
    tried = 0
    for file in KINDS:
        entry = named(manifest, file)
        subject, now = evidence(vectors, entry), moment(entry)
        for bit in range(8 * REPORT_SIZE):
            raw = bytearray(subject.report)
            raw[bit // 8] ^= 1 << bit % 8
            assert refused(bytes(raw), subject, now), (file, bit)
            tried += 1
    assert tried == 8 * REPORT_SIZE * len(KINDS)


def test_every_bit_of_the_certificates_counts(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    """Of the leaf only: a flipped certificate of AMD's gives way to the one that is built in."""
    entry = named(manifest, KINDS[1])
    subject, now = evidence(vectors, entry), moment(entry)
    for bit in range(8 * len(subject.certificates[0])):
        raw = bytearray(subject.certificates[0])
        raw[bit // 8] ^= 1 << bit % 8
        forged = replace(subject, certificates=(bytes(raw), *subject.certificates[1:]))
        assert refused(subject.report, forged, now), bit


def test_no_field_can_be_another_reports(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    swapped = 0
    good = genuine(manifest)
    for entry, other in zip(good, (*good[3:], *good[:3]), strict=True):
        subject, now = evidence(vectors, entry), moment(entry)
        own, theirs = parse_report(subject.report), parse_report((vectors / other["file"]).read_bytes())
        for item in fields(Report):
            if getattr(own, item.name) == getattr(theirs, item.name):
                continue
            try:
                raw = encode_report(replace(own, **{item.name: getattr(theirs, item.name)}))
            except MalformedError:
                continue
            assert refused(raw, subject, now), (entry["file"], item.name)
            swapped += 1
    assert swapped > 100


@pytest.mark.parametrize("file", KINDS)
def test_no_other_length_is_accepted(vectors: Path, manifest: list[dict[str, Any]], file: str) -> None:
    entry = named(manifest, file)
    subject = evidence(vectors, entry)
    for length in range(REPORT_SIZE):
        assert refused(subject.report[:length], subject, moment(entry))
        assert recognise(subject.report[:length]) is None
    extended = encode_extended(subject)
    for length in range(REPORT_SIZE + 1, len(extended)):
        with pytest.raises(MalformedError):
            recognise(extended[:length])
    for junk in (b"\1", b"junk", bytes(3000), bytes(40) + b"x", subject.report):
        assert refused(subject.report + junk, subject, moment(entry))
        with pytest.raises(MalformedError):
            recognise(subject.report + junk)
    assert refused(subject.report[SIGNED_SIZE:], subject, moment(entry))
