"""Launch measurement and explanation on what real hardware and published tools made."""

import json
from pathlib import Path
from typing import Any

import pytest

from kokon.cli.main import main
from kokon.tee.eventlog.log import EventLog, parse_event_log
from kokon.tee.explanation import Finding
from kokon.tee.sgx.sigstruct import encode, parse_sigstruct, verify_sigstruct
from kokon.tee.snp.explain import EMPTY, Alternatives, Firmware, Part, SnpLaunch, explain_snp
from kokon.tee.snp.ovmf import parse_ovmf
from kokon.tee.tdx.measure import ExpectedEvent, replayed, rtmr1_events
from unit.tee.measure_kit import bzimage

pytestmark = pytest.mark.vectors


def claims_of(manifest: list[dict[str, Any]], file: str) -> dict[str, Any]:
    return next(entry["claims"] for entry in manifest if entry["file"] == file)


def test_a_published_sigstruct(vectors: Path, manifest: list[dict[str, Any]]) -> None:
    data = (vectors / "sgx" / "sigstruct_fortanix_sig1.bin").read_bytes()
    sigstruct = parse_sigstruct(data)
    verify_sigstruct(sigstruct)
    known = claims_of(manifest, "sgx/sigstruct_fortanix_sig1.bin")
    assert sigstruct.mrsigner.hex() == known["mrsigner"]
    assert sigstruct.mrenclave.hex() == known["mrenclave"]
    assert (sigstruct.product_id, sigstruct.security_version) == (known["isv_prod_id"], known["isv_svn"])
    assert encode(sigstruct) == data


def log_of(vectors: Path, name: str) -> EventLog:
    return parse_event_log((vectors / "tdx" / name).read_bytes())


@pytest.mark.parametrize(("name", "separator"), [("ccel_dstack.bin", True), ("ccel_trustee_ovmf.bin", False)])
def test_rtmr1_of_real_direct_boots(
    vectors: Path, manifest: list[dict[str, Any]], name: str, *, separator: bool
) -> None:
    """The sequence of events; the kernels are not at hand, so their digests come from the logs."""
    logged = [event for event in log_of(vectors, name).events if event.register == 2]
    events = rtmr1_events(bzimage(), separator=separator)
    events = (ExpectedEvent("kernel", logged[0].digests["sha384"]), *events[1:])
    assert [event.digest for event in events] == [event.digests["sha384"] for event in logged]
    assert replayed(events).hex() == claims_of(manifest, f"tdx/{name}")["replay"]["2"]


def test_rtmr2_of_a_real_direct_boot(vectors: Path) -> None:
    logged = [event for event in log_of(vectors, "ccel_trustee_ovmf.bin").events if event.register == 3]
    assert ["LOADED_IMAGE::LoadOptions" in logged[0].description, "Linux initrd" in logged[1].description] == [True] * 2
    assert len(logged) == 2


def case_of(vectors: Path, name: str) -> dict[str, Any]:
    cases = json.loads((vectors / "measure" / "snp_launch_digest_cases.json").read_text())
    return next(case for case in cases if case["name"] == name)


@pytest.mark.parametrize(
    ("found", "findings"),
    [
        ("test_snp_with_multiple_vcpus_feature_snp_only", (("vcpus", "1", "4"),)),
        ("test_snp_guest_feature_snp_only", (("cmdline", "''", "'console=ttyS0 loglevel=7'"),)),
        ("test_snp_ec2_feature_snp_only", (("hypervisor", "qemu", "ec2"),)),
        ("test_snp_with_multiple_vcpus_default", (("vcpus", "1", "4"), ("guest features", "0x1", "0x21"))),
        ("test_snp_without_kernel_default", (("kernel hashes", "measured", "left out of the measurement"),
                                             ("guest features", "0x1", "0x21"))),
    ],
)  # fmt: skip
def test_published_launch_digests_are_told_apart(
    vectors: Path, found: str, findings: tuple[tuple[str, str, str], ...]
) -> None:
    case = case_of(vectors, found)
    image = parse_ovmf((vectors / "measure" / "ovmf_AmdSev_suffix.bin").read_bytes())
    empty = Part("/dev/null", EMPTY)
    expected = SnpLaunch(Firmware("AmdSev", image), empty, empty, "", 1, case["args"]["vcpu_sig"])
    explanation = explain_snp(
        expected, bytes.fromhex(case["expected_launch_digest"]), Alternatives(cmdlines=("console=ttyS0 loglevel=7",))
    )
    assert explanation.findings == tuple(Finding(*finding) for finding in findings)


def explain(capsys: pytest.CaptureFixture[str], *words: str, status: int) -> dict[str, str]:
    assert main(["explain", *words, "--json"]) == status
    return {finding["input"]: finding["found"] for finding in json.loads(capsys.readouterr().out)["findings"]}


def test_a_real_quote_and_its_log(vectors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, other = str(vectors / "tdx" / "ccel_gce_cos113.bin"), str(vectors / "tdx" / "ccel_trustee_grub.bin")
    words = [str(vectors / "tdx" / "v4_gce_cos113.quote.bin"), "--event-log"]
    assert explain(capsys, *words, own, "--reference-log", own, status=0) == {}
    found = explain(capsys, *words, own, "--reference-log", other, status=1)
    assert found["rtmr1, extension 1"] == "EV_SEPARATOR: separator"
    wrong = explain(capsys, *words, other, "--reference-log", own, status=1)
    assert set(wrong) == {"event log, rtmr0", "event log, rtmr1", "event log, rtmr2"}


def test_a_real_enclave_and_anothers_sigstruct(vectors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sigstruct = str(vectors / "sgx" / "sigstruct_fortanix_sig1.bin")
    found = explain(capsys, str(vectors / "sgx" / "v3_dcapqvl.quote.bin"), "--sigstruct", sigstruct, status=1)
    assert {"mrenclave", "mrsigner (another key signed it)"} <= set(found)
