"""Real TPM quotes: of Google's and Azure's machines, of a laptop, alone and with hardware reports."""

import hashlib
import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kokon.errors import MalformedError
from kokon.tee.certificates import parse_certificate
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence, Need
from kokon.tee.intel.collateral import read_collateral
from kokon.tee.recognise import recognise
from kokon.tee.registry import tee, verify
from kokon.tee.vtpm.assemble import assemble
from kokon.tee.vtpm.hcl import parse_hcl
from kokon.tee.vtpm.quote import encode_pcrs, load_key, parse_pcrs, spki_of

pytestmark = [pytest.mark.vectors, pytest.mark.filterwarnings("ignore")]

MILAN = datetime(2025, 6, 1, tzinfo=UTC)
TDX_TIME = datetime(2025, 1, 21, 12, 59, 39, tzinfo=UTC)
COLLATERAL = "tdx/v4_azure_trustee_septve_off.collateral.json"
VCEK = "snp/milan_v2_vcek_azure_trustee.vcek.der"

TOGETHER = {
    "tpm/az_quote.bin": ("tpm/az_akpub.pem",),
    "tpm/az_akpub.pem": ("tpm/az_quote.bin",),
    "tpm/keylime_quote.out": ("tpm/keylime_quotesig.out", "tpm/keylime_akpub.pem"),
    "tpm/keylime_quotesig.out": ("tpm/keylime_quote.out", "tpm/keylime_akpub.pem"),
    "tpm/keylime_akpub.pem": ("tpm/keylime_quote.out", "tpm/keylime_quotesig.out"),
    "tpm/az_snp_trustee_quote.bin": ("tpm/az_snp_trustee_hcl.bin",),
}
"""What makes whole evidence with a file that is none by itself."""
UNBOUND = {"tpm/az_quote.bin", "tpm/az_akpub.pem", "tpm/gce-cos-85-nonce9009.pb", "tpm/trustee_tpm_evidence.json"}
UNBOUND |= {"tpm/keylime_quote.out", "tpm/keylime_quotesig.out", "tpm/keylime_akpub.pem"}


def entries(manifest: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [
        entry
        for entry in manifest
        if entry["kind"] != "eventlog" and (entry["file"].startswith("tpm/") or "vtpm" in entry["file"])
    ]
    assert len(found) == 15
    return found


def load(vectors: Path, file: str) -> Evidence:
    data = (vectors / file).read_bytes()
    if file in TOGETHER:
        return assemble([data, *((vectors / other).read_bytes() for other in TOGETHER[file])])
    found = recognise(data)
    assert found is not None, file
    return found


def endorsements(vectors: Path) -> Endorsements:
    """All that there is for these machines: far more than each needs."""
    return Endorsements(((vectors / VCEK).read_bytes(),)) | read_collateral((vectors / COLLATERAL).read_bytes())


def check(vectors: Path, evidence: Evidence) -> Claims:
    now = TDX_TIME if evidence.tee == "az-tdx-vtpm" else MILAN
    claims = verify(evidence, endorsements(vectors), now)
    json.dumps(dict(claims.details))
    json.dumps(tee(evidence.tee).describe(evidence))
    return claims


def test_every_entry_gives_its_expected_result(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    decided = 0
    for entry in entries(manifest):
        evidence = load(vectors, entry["file"])
        claims = check(vectors, evidence)
        if entry["expected"]["verifies"] != "unknown":
            assert claims.ok == entry["expected"]["verifies"], (entry["file"], claims.failures, claims.needs)
            decided += 1
        else:
            assert not claims.failures
            assert any(need.required for need in claims.needs), entry["file"]
        assert (Need("ak", required=False) in claims.needs) == (entry["file"] in UNBOUND)
        if "nonce" in entry["claims"]:
            assert claims.report_data.hex() == entry["claims"]["nonce"]
        if "pcrDigest" in entry["claims"]:
            (quote,) = claims.details["quotes"]
            assert quote["pcr_digest"] == entry["claims"]["pcrDigest"]
            assert claims.parts or claims.measurement.hex() == quote["pcr_digest"]
            assert quote["pcr_selection"] == {"sha256": entry["claims"]["sel"][0][1]}
    assert decided == 13


def test_encodings_of_the_same_evidence_are_the_same(vectors: Path) -> None:
    for kind in ("snp", "tdx"):
        old, new = (check(vectors, load(vectors, f"coco/az-{kind}-vtpm_evidence_v{n}.json")) for n in (0, 1))
        assert (old.measurement, old.registers.keys()) == (new.measurement, new.registers.keys())
        assert old.parts[0].ok == new.parts[0].ok


def test_googles_quote_of_three_banks_with_its_log(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    (entry,) = [entry for entry in manifest if entry["file"] == "tpm/gce-cos-85-nonce9009.pb"]
    evidence = load(vectors, entry["file"])
    claims = check(vectors, evidence)
    banks = parse_pcrs(evidence.parts["pcrs"])
    named = {4: "sha1", 11: "sha256", 12: "sha384"}
    for quote in entry["claims"]["quotes"]:
        (selected,) = quote["sel"]
        bank = named[selected[0]]
        assert {str(index): value.hex() for index, value in banks[bank].items()} == quote["pcrs"]
        assert claims.report_data.hex() == quote["nonce"]
    assert claims.registers["pcr0"] == claims.registers["sha384:pcr0"] == banks["sha384"][0]
    assert claims.registers["sha256:pcr7"] == banks["sha256"][7]
    logs = {check.name: check for check in claims.checks if check.name.startswith("event log")}
    assert {check.outcome for name, check in logs.items() if "pcr10" not in name} == {"passed"}
    assert {check.code for name, check in logs.items() if "pcr10" in name} == {"event-log-silent"}
    assert len(logs) == 3 * 11
    named_checks = {check.name: check.outcome for check in claims.checks}
    assert named_checks["attestation key name"] == named_checks["attestation key attributes"] == "passed"


def test_an_enrolled_key_is_vouched_for(vectors: Path) -> None:
    evidence = load(vectors, "tpm/trustee_tpm_evidence.json")
    fingerprint = hashlib.sha256(evidence.parts["ak"]).hexdigest()
    assert spki_of(load_key(evidence.parts["ak"])) == evidence.parts["ak"]
    claims = verify(evidence, Endorsements(enrolled_keys=frozenset({fingerprint})), MILAN)
    assert (claims.ok, claims.needs) == (True, ())


def test_azures_hardware_stands_behind_the_quote(vectors: Path) -> None:
    evidence = load(vectors, "tpm/az_snp_trustee_quote.bin")
    claims = check(vectors, evidence)
    report = (vectors / "snp/milan_v2_vcek_azure_trustee.report.bin").read_bytes()
    assert (claims.product, claims.vmpl, claims.chip_id) == ("Milan", 0, report[0x1A0:0x1E0])
    assert claims.measurement == report[0x90:0xC0]
    assert claims.parts[0].report_data == parse_hcl(evidence.parts["hcl-report"]).binding
    expired = parse_certificate((vectors / VCEK).read_bytes()).not_after
    late = verify(evidence, endorsements(vectors), expired)
    assert [check.code for check in late.failures] == ["certificate-expired"]


def test_sept_ve_is_off_which_policy_decides(vectors: Path) -> None:
    claims = check(vectors, load(vectors, "coco/az-tdx-vtpm_evidence_v1.json"))
    assert [check.code for check in claims.parts[0].failures] == ["tdx-sept-ve-off"]
    assert [check.code for check in claims.checks if check.waiver == "allow_sept_ve_off"] == ["tdx-sept-ve-off"]


def test_without_collateral_a_quote_of_intels_is_undecided(vectors: Path) -> None:
    claims = verify(load(vectors, "coco/az-tdx-vtpm_evidence_v1.json"), Endorsements(), TDX_TIME)
    assert (claims.ok, claims.failures) == (False, ())
    assert {need.kind for need in claims.needs if need.required} >= {"tcb-info", "qe-identity"}


SWAPS = [
    ("coco/az-snp-vtpm_evidence_v1.json", "tpm/az_snp_trustee_quote.bin"),
    ("coco/az-tdx-vtpm_evidence_v1.json", "tpm/az_snp_trustee_quote.bin"),
    ("tpm/trustee_tpm_evidence.json", "tpm/az_quote.bin"),
]


@pytest.mark.parametrize(("first", "second"), SWAPS)
def test_nothing_of_another_machine_fits(vectors: Path, first: str, second: str) -> None:
    mine, other = load(vectors, first), load(vectors, second)
    assert check(vectors, mine).ok
    swapped = [replace(mine, report=other.report)]
    both = set(mine.parts) & set(other.parts) & {"signature", "hcl-report", "ak", "pcrs"}
    swapped += [replace(mine, parts=dict(mine.parts) | {name: other.parts[name]}) for name in sorted(both)]
    assert len(swapped) > 2
    for made in swapped:
        with suppress(MalformedError):
            assert not check(vectors, made).ok
    if "td-quote" in mine.parts:
        quote = (vectors / "tdx/v4_azure_cmc.quote.bin").read_bytes()
        failures = check(vectors, replace(mine, parts=dict(mine.parts) | {"td-quote": quote})).failures
        assert "azure-td-report" in [failure.code for failure in failures]


@pytest.mark.parametrize("file", ["coco/az-snp-vtpm_evidence_v1.json", "tpm/trustee_tpm_evidence.json"])
def test_no_bit_can_be_changed(vectors: Path, file: str) -> None:
    base = load(vectors, file)
    known = endorsements(vectors)
    step = 17 if base.tee == "tpm" else 97
    for name in ("report", "signature", "pcrs", "ak"):
        data = base.report if name == "report" else base.parts.get(name, b"")
        for bit in range(0, 8 * len(data), 1 if name in ("report", "signature") and base.tee == "tpm" else step):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            parts = dict(base.parts) | ({} if name == "report" else {name: bytes(changed)})
            made = replace(base, report=bytes(changed) if name == "report" else base.report, parts=parts)
            with suppress(MalformedError):
                claims = verify(made, known, MILAN)
                assert not claims.ok or (name == "pcrs" and "pcr0" not in claims.registers), (name, bit)


def test_no_bit_of_the_runtime_data_can_be_changed(vectors: Path) -> None:
    for file in ("tpm/az_snp_trustee_hcl.bin", "tpm/az_hcl_tdx.bin", "tpm/az_hcl_snp.bin"):
        data = (vectors / file).read_bytes()
        report = parse_hcl(data)
        assert report.report_data == report.binding
        for bit in range(8 * 1236, 8 * (1236 + len(report.runtime_data))):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            with suppress(MalformedError):
                made = parse_hcl(bytes(changed))
                assert made.report_data != made.binding


@pytest.mark.parametrize("file", ["tpm/gce-cos-85-nonce9009.pb", "tpm/az_quote.bin", "tpm/keylime_quote.out"])
def test_every_length_of_the_containers(vectors: Path, file: str) -> None:
    data = (vectors / file).read_bytes()
    whole = recognise(data)
    for size in range(0, len(data), 1 if len(data) < 2000 else 13):
        with suppress(MalformedError):
            cut = recognise(data[:size])
            assert cut != whole
            if cut is not None:
                assert not verify(cut, Endorsements(), MILAN).ok or "event-log" not in cut.parts
    with suppress(MalformedError):
        longer = recognise(data + b"\0")
        assert longer is None or not verify(longer, Endorsements(), MILAN).ok


def test_values_of_the_right_digest_at_the_wrong_place(vectors: Path) -> None:
    base = load(vectors, "coco/az-snp-vtpm_evidence_v1.json")
    values = parse_pcrs(base.parts["pcrs"])["sha256"]
    moved = {index + 1: value for index, value in values.items() if index < 23}
    made = replace(base, parts=dict(base.parts) | {"pcrs": encode_pcrs({"sha256": moved})})
    claims = check(vectors, made)
    assert not any(name.startswith("pcr") for name in claims.registers)
