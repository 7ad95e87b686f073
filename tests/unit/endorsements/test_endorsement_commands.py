"""`kokon endorsements`: fetch, bundle, list."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kokon.cli import endorsements as command
from kokon.cli.main import main
from kokon.endorsements import sources
from kokon.endorsements.bundle import parse_bundle
from kokon.endorsements.files import load
from kokon.endorsements.http import Getter
from kokon.endorsements.limiter import Limiter
from kokon.tee.registry import verify
from kokon.testing.server import Mode, VendorServer
from kokon.testing.vendor import FakeVendor
from kokon.testing.vendor.intel_quote import pem

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")

TODAY = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def today() -> Iterator[VendorServer]:
    with VendorServer(FakeVendor(now=TODAY)) as server:
        yield server


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, today: VendorServer) -> Path:
    monkeypatch.setenv("KOKON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KOKON_KDS_URL", today.url)
    monkeypatch.setenv("KOKON_PCS_URL", today.url)
    return tmp_path / "home"


def accepting(vendor: FakeVendor) -> list[str]:
    roots = (vendor.intel.root().fingerprint, vendor.amd.ark("Milan").fingerprint)
    return [word for root in roots for word in ("--accept-simulated", root)]


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["endorsements", *map(str, words)])
    out, err = capsys.readouterr()
    return status, out, err


def code(err: str) -> str:
    (line,) = [line for line in err.splitlines() if line.startswith("kokon: ")]
    return line.rpartition("[")[2].rstrip("]")


def evidence_files(vendor: FakeVendor, directory: Path) -> list[Path]:
    report, quote = directory / "report.bin", directory / "quote.bin"
    report.write_bytes(vendor.snp().report)
    quote.write_bytes(vendor.tdx().report)
    return [report, quote]


def test_fetching_for_evidence_fills_the_cache(
    today: VendorServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = evidence_files(today.vendor, tmp_path)
    status, out, _err = run(capsys, "fetch", *files, *accepting(today.vendor), "--json")
    assert status == 0
    answer = json.loads(out)["endorsements"]
    assert {entry["kind"] for entry in answer} == {"vcek", "amd-crl", "tcb-info", "qe-identity", "pck-crl", "root-crl"}
    assert all(entry["fetched"] for entry in answer)
    asked = today.count()
    today.mode = Mode.DOWN
    status, out, _err = run(capsys, "fetch", *files, *accepting(today.vendor))
    assert status == 0
    assert out.count("have ") == len(answer)
    assert today.count() == asked
    status, out, _err = run(capsys, "list")
    assert "SEV-VCEK" in out
    assert "fmspc 00606a000000" in out
    assert "EXPIRED" not in out


def test_fetching_by_parameters(
    today: VendorServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sources, "Limiter", lambda path, _interval, waiting: Limiter(path, 0, waiting=waiting))
    options = ["--product", "Milan", "--fmspc", "00606A000000", "--tee", "tdx", "--update", "early"]
    status, out, _err = run(capsys, "fetch", *options, *accepting(today.vendor))
    assert status == 0
    assert "have    tcb-info fmspc=00606a000000 tee=tdx" in out
    assert today.count("/tdx/certification/v4/tcb?fmspc=00606a000000&update=early") == 1
    chip = today.vendor.amd.chip_id("Milan").hex()
    options = ["--vcek", f"Milan:{chip}:bootloader=4,tee=0,snp=22,microcode=213"]
    status, out, _err = run(capsys, "fetch", *options, *accepting(today.vendor))
    assert status == 0
    assert f"have    vcek bootloader=4 chip-id={chip[:20]}" in out
    before = today.count()
    assert run(capsys, "fetch", *options, "--again", *accepting(today.vendor))[0] == 0
    assert today.count() > before


def test_another_service_by_option(
    today: VendorServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KOKON_KDS_URL", "http://nowhere.example")
    status, _out, err = run(capsys, "fetch", "--product", "Milan")
    assert status == 2
    assert "endorsement-url" in err
    options = ["--kds", today.url, "--pcs", today.url, *accepting(today.vendor)]
    assert run(capsys, "fetch", "--product", "Milan", *options)[0] == 0


def test_an_outage_is_said_and_ends_with_its_status(
    today: VendorServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = Getter(sleep=lambda _seconds: None)
    monkeypatch.setattr(sources, "Getter", lambda: quick)
    today.mode = Mode.ERROR
    status, out, err = run(capsys, "fetch", "--fmspc", "00606a000000", *accepting(today.vendor), "--json")
    assert status == 7
    entries = json.loads(out)["endorsements"]
    assert {entry["error"]["code"] for entry in entries} == {"endorsement-service-unreachable"}
    assert json.loads(err)["error"]["code"] == "endorsements-incomplete"


def test_simulated_roots_must_be_accepted(today: VendorServer, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "fetch", "--product", "Milan")
    assert status == 7
    assert "FAILED  amd-chain" in out
    assert "endorsement-wrong" in err
    assert "--accept-simulated" in err


def test_a_cache_that_cannot_be_written(today: VendorServer, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.write_text("a file")
    status, _out, err = run(capsys, "fetch", "--product", "Milan", *accepting(today.vendor))
    assert status == 8
    assert code(err) == "endorsement-cache-failed"


def test_a_bundle_is_all_that_a_machine_without_network_needs(
    today: VendorServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vendor = today.vendor
    files = evidence_files(vendor, tmp_path)
    bundle = tmp_path / "bundle.json"
    status, out, _err = run(capsys, "bundle", *files, "-o", bundle, *accepting(vendor), "--json")
    assert status == 0
    answer = json.loads(out)
    assert answer["items"] == len(load([bundle]).certificates + load([bundle]).crls + load([bundle]).documents)
    assert answer["first_end"] > TODAY.isoformat()
    today.mode = Mode.DOWN
    pool = replace(load([bundle]), accepted_simulated=vendor.roots)
    for evidence in (replace(vendor.snp(), certificates=()), vendor.tdx()):
        assert verify(evidence, pool, TODAY + timedelta(seconds=5)).ok
    status, out, _err = run(capsys, "list", bundle)
    assert status == 0
    assert "QE identity" in out


def test_a_bundle_from_files_alone_needs_no_network(
    today: VendorServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vendor = today.vendor
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "chain.pem").write_bytes(b"".join(map(pem, vendor.amd.chain("Milan"))))
    (folder / "noise.bin").write_bytes(vendor.tdx().report)
    key = tmp_path / "key.pem"
    public = vendor.keys.elliptic("x").public_key()
    key.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    options = ["--endorsements", folder, "--endorsements", key]
    status, out, err = run(capsys, "bundle", "-o", tmp_path / "b.json", *options)
    assert status == 0
    assert "2 endorsements" in out
    assert "enrolled keys are not put into bundles" in err
    found = parse_bundle((tmp_path / "b.json").read_bytes()).endorsements
    assert set(found.certificates) == set(vendor.amd.chain("Milan"))
    assert found.enrolled_keys == frozenset()
    assert today.count() == 0


def test_offline_bundles_come_from_the_cache(
    today: VendorServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quote = evidence_files(today.vendor, tmp_path)[1]
    arguments = ["bundle", quote, "--offline", "-o", tmp_path / "b.json", *accepting(today.vendor)]
    status, _out, err = run(capsys, *arguments)
    assert status == 7
    assert "endorsement-not-cached" in err
    assert not (tmp_path / "b.json").exists()
    assert today.count() == 0
    assert run(capsys, "fetch", quote, *accepting(today.vendor))[0] == 0
    asked = today.count()
    assert run(capsys, *arguments)[0] == 0
    assert today.count() == asked


def test_a_bundle_that_cannot_be_written(
    today: VendorServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.pem").write_bytes(pem(today.vendor.intel.root().certificate))
    output = tmp_path / "absent" / "b.json"
    status, _out, err = run(capsys, "bundle", "-o", output, "--endorsements", tmp_path / "x.pem")
    assert status == 8
    assert code(err) == "bundle-not-written"


def test_listing_marks_what_is_over(today: VendorServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = FakeVendor(now=TODAY - timedelta(days=60))
    (tmp_path / "old.der").write_bytes(old.endorsements(old.tdx()).crls[0])
    (tmp_path / "note.txt").write_text("words")
    status, out, err = run(capsys, "list", tmp_path)
    assert status == 0
    assert "EXPIRED" in out
    assert "1 other files were passed over" in err
    status, out, _err = run(capsys, "list", tmp_path / "old.der", "--json")
    answer: dict[str, Any] = json.loads(out)
    assert answer["items"][0]["state"] == "expired"
    assert answer["items"][0]["kind"] == "revocation list"
    assert answer["skipped"] == 0


def test_an_empty_cache(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _err = run(capsys, "list")
    assert status == 0
    assert "no endorsements" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fetch"], "endorsements-not-named"),
        (["bundle", "-o", "x"], "endorsements-not-named"),
        (["fetch", "absent"], "endorsements-unreadable"),
        (["list", "absent"], "endorsements-unreadable"),
        (["fetch", "--fmspc", "12"], "endorsement-parameters"),
        (["fetch", "--product", "Milan", "--update", "late"], "usage-malformed"),
    ],
)
def test_wrong_usage(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _out, err = run(capsys, *words)
    assert status == 2
    assert code(err) == expected


def test_something_else_than_evidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("hello")
    status, _out, err = run(capsys, "fetch", tmp_path / "file")
    assert status == 2
    assert code(err) == "endorsements-not-evidence"


def test_long_waits_are_announced(capsys: pytest.CaptureFixture[str]) -> None:
    command._waiting(9.7)
    assert "waiting 10 s" in capsys.readouterr().err
