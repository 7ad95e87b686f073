"""`kokon evidence verify --no-policy` on every entry of the manifest, as a script would call it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kokon.cli.main import main

VERIFIED, REFUSED, MISSING = 0, 1, 3
STATUS = {True: VERIFIED, False: REFUSED}

OTHERWISE = {
    # Alone these prove nothing; what the manifest says of them was checked together with their counterparts, which
    # `test_together` gives.
    "tpm/az_akpub.pem": MISSING,
    "tpm/az_snp_trustee_quote.bin": MISSING,
    "tpm/az_snp_trustee_hcl.bin": MISSING,
    "tdx/ccel_gce_cos113.bin": MISSING,
    "tdx/ccel_dstack.bin": MISSING,
    # Quotes of Intel's without collateral; the manifest speaks of the TPM's signature.
    "coco/az-tdx-vtpm_evidence_v0.json": MISSING,
    "coco/az-tdx-vtpm_evidence_v1.json": MISSING,
    # "must be refused unless sample is explicitly allowed"
    "coco/sample_evidence.json": REFUSED,
    # A test authority that no chip vendor knows; the paths themselves are in test_x509_vectors.py.
    "x509/pkits_TrustAnchorRootCertificate.crt": REFUSED,
    "x509/pkits_GoodCACert.crt": REFUSED,
    "x509/pkits_GoodCACRL.crl": MISSING,
    "x509/pkits_TrustAnchorRootCRL.crl": MISSING,
}
"""Where the command rightly says something else than the manifest's `verifies`."""

TOGETHER = [
    ("tpm/az_snp_trustee_quote.bin", ["tpm/az_snp_trustee_hcl.bin", "snp"], "2023-05-03T21:22:19Z"),
    ("tpm/az_snp_trustee_hcl.bin", ["snp"], "2023-05-03T21:22:19Z"),
    ("tpm/az_akpub.pem", ["tpm/az_quote.bin"], "2023-05-03T21:22:19Z"),
    ("tpm/keylime_quotesig.out", ["tpm/keylime_quote.out", "tpm/keylime_akpub.pem"], "2023-05-03T21:22:19Z"),
    ("coco/az-tdx-vtpm_evidence_v0.json", ["tdx"], "2025-01-21T12:59:39Z"),
    ("coco/az-tdx-vtpm_evidence_v1.json", ["tdx"], "2025-01-21T12:59:39Z"),
    ("tdx/ccel_gce_cos113.bin", ["tdx/v4_gce_cos113.quote.bin", "tdx"], "2025-01-21T12:59:39Z"),
    ("tdx/v4_gce_cos113.quote.bin", ["tdx/ccel_gce_cos113.bin", "."], "2025-01-21T12:59:39Z"),
    ("snp/turin_v5_vcek_tav.report.bin", ["."], "2026-02-06T01:04:33Z"),
]


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """Exit status and the verdict."""
    status = main(["evidence", "verify", *words, "--no-policy", "--offline", "--json"])
    return status, json.loads(capsys.readouterr().out)


def command(vectors: Path, entry: dict[str, Any], at: object) -> list[str]:
    """The file with what the manifest relates to it, at that time (RFC 3339, or seconds since 1970)."""
    words = [str(vectors / entry["file"])]
    for related in entry["related"]:
        words += ["--endorsements", str(vectors / related)]
    if isinstance(at, int):
        at = datetime.fromtimestamp(at, UTC).isoformat()
    return words + (["--at", str(at)] if at else [])


def questions(entry: dict[str, Any]) -> Iterator[tuple[object, object]]:
    """Time and `verifies`, and the second pair where there is one."""
    expected = entry["expected"]
    for said in (expected, expected.get("after_expiry")):
        if said is not None:
            yield said.get("at_time") or said.get("now"), said["verifies"]


def test_every_entry(
    vectors: Path, manifest: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("KOKON_HOME", str(tmp_path))
    wrong, asked = [], 0
    for entry in manifest:
        if entry["kind"] == "measurement-input":
            continue
        for at, verifies in questions(entry):
            status, verdict = call(capsys, *command(vectors, entry, at))
            asked += 1
            expected = OTHERWISE.get(entry["file"], STATUS.get(verifies))  # type: ignore[arg-type]
            if expected is not None and status != expected:
                wrong.append((entry["file"], at, expected, status, [reason["code"] for reason in verdict["reasons"]]))
            assert status in (VERIFIED, REFUSED, MISSING)
            assert verdict["verified"] == (status == VERIFIED)
            assert bool(verdict["reasons"]) == (status == REFUSED)
            assert bool(verdict["missing"]) >= (status == MISSING)
    assert wrong == []
    assert asked > len(manifest)


@pytest.mark.parametrize(("file", "given", "at"), TOGETHER, ids=lambda value: str(value).rpartition("/")[2][:24])
def test_together(vectors: Path, capsys: pytest.CaptureFixture[str], file: str, given: list[str], at: str) -> None:
    words = [word for path in given for word in ("--endorsements", str(vectors / path))]
    status, verdict = call(capsys, str(vectors / file), *words, "--at", at)
    assert (status, verdict["reasons"], verdict["missing"]) == (VERIFIED, [], [])


def test_claims_of_reports_and_quotes_are_the_manifests(
    vectors: Path, manifest: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    seen = 0
    names = {"measurement": "measurement", "mrtd": "measurement", "mrenclave": "measurement"}
    for entry in manifest:
        if entry["kind"] not in ("report", "quote") or entry["tee"] not in ("snp", "tdx", "sgx"):
            continue
        at = entry["expected"].get("at_time")
        _, verdict = call(capsys, *command(vectors, entry, at))
        for theirs, ours in names.items():
            if theirs in entry.get("claims", {}):
                assert verdict["claims"][ours] == entry["claims"][theirs], entry["file"]
                seen += 1
        if "tcb_status" in entry["expected"]:
            assert verdict["claims"]["tcb_status"] == entry["expected"]["tcb_status"]
            assert sorted(verdict["claims"].get("advisories", [])) == sorted(entry["expected"]["advisories"])
    assert seen > 20


def test_sample_evidence_only_if_it_is_allowed(vectors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(vectors / "coco" / "sample_evidence.json")
    status, verdict = call(capsys, file, "--accept-simulated", "sample")
    assert (status, verdict["simulated"]) == (VERIFIED, True)
    assert main(["evidence", "verify", file, "--accept-simulated", "sample", "--offline", "--json"]) == REFUSED
