"""`kokon evidence verify` and `show`: the contract for scripts, on the fake vendor's evidence."""

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kokon.appraisal.step import Step
from kokon.cli.main import main
from kokon.cli.tree import plain, tree_lines
from kokon.endorsements.bundle import encode_bundle
from kokon.errors import MalformedError
from kokon.tee.endorsed import verify_all
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Evidence, failed
from kokon.testing.vendor import FakeVendor
from kokon.testing.vendor.eventlog import CC_BOOT

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
AT = NOW.isoformat()
KINDS = ("snp", "tdx", "sgx", "nitro", "tpm", "ratls")


@dataclass
class Desk:
    """A folder with evidence and endorsements, and the command."""

    folder: Path
    capsys: Any
    vendor: FakeVendor

    def put(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def bundle(self, evidence: Evidence) -> Path:
        return self.put("bundle.json", encode_bundle(self.vendor.endorsements(evidence), NOW))

    def accept(self) -> list[str]:
        return [word for root in sorted(self.vendor.roots) for word in ("--accept-simulated", root)]

    def verify(self, file: Path, *words: str) -> tuple[int, dict[str, Any]]:
        status = main(["evidence", "verify", str(file), "--at", AT, "--offline", "--json", *words])
        return status, json.loads(self.capsys.readouterr().out)


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("KOKON_HOME", str(tmp_path / "home"))
    return Desk(tmp_path, capsys, FakeVendor(NOW))


def made(vendor: FakeVendor, kind: str) -> Evidence:
    evidence: Evidence = getattr(vendor, kind)()
    return evidence


def as_file(vendor: FakeVendor, evidence: Evidence) -> bytes:
    """What a user would have: the raw bytes where they say everything, else the protocol's JSON."""
    if evidence.tee == "tpm":
        return json.dumps(vendor.envelope(evidence)).encode()
    return evidence.report


@pytest.mark.parametrize("kind", KINDS)
def test_verified_with_everything_given(desk: Desk, kind: str) -> None:
    evidence = made(desk.vendor, kind)
    file, bundle = desk.put("evidence", as_file(desk.vendor, evidence)), desk.bundle(evidence)
    status, verdict = desk.verify(file, "--endorsements", str(bundle), *desk.accept(), "--no-policy")
    assert (status, verdict["outcome"], verdict["reasons"]) == (0, "verified", [])
    assert verdict["simulated"] is True or kind == "tpm"


@pytest.mark.parametrize("kind", ["snp", "tdx", "sgx", "nitro", "ratls"])
def test_a_simulated_root_is_refused_unless_accepted(desk: Desk, kind: str) -> None:
    evidence = made(desk.vendor, kind)
    file, bundle = desk.put("evidence", as_file(desk.vendor, evidence)), desk.bundle(evidence)
    status, verdict = desk.verify(file, "--endorsements", str(bundle), "--no-policy")
    assert status == 1
    assert "simulated-root-refused" in {reason["code"] for reason in verdict["reasons"]}


def test_missing_endorsements_have_a_status_of_their_own(desk: Desk) -> None:
    evidence = desk.vendor.tdx()
    file = desk.put("quote.bin", evidence.report)
    status, verdict = desk.verify(file, *desk.accept(), "--no-policy")
    assert (status, verdict["outcome"], verdict["reasons"]) == (3, "incomplete", [])
    assert {"tcb-info", "qe-identity"} <= {need["kind"] for need in verdict["missing"]}


def test_policy_and_references(desk: Desk) -> None:
    evidence = desk.vendor.snp(measurement=b"\x11" * 48)
    file, bundle = desk.put("report.bin", evidence.report), desk.bundle(evidence)
    words = ["--endorsements", str(bundle), *desk.accept()]
    status, verdict = desk.verify(file, *words)
    assert (status, verdict["verified"], verdict["accepted"]) == (1, True, False)
    assert [reason["code"] for reason in verdict["reasons"]] == ["reference-missing"]
    status, verdict = desk.verify(file, *words, "--measurement", "22" * 48)
    assert [reason["code"] for reason in verdict["reasons"]] == ["measurement-unknown"]
    status, verdict = desk.verify(file, *words, "--measurement", "22" * 48, "--measurement", "11" * 48)
    assert (status, verdict["outcome"], verdict["ear.status"]) == (0, "accepted", "affirming")
    ear = verdict["ear"]
    assert ear["submods"]["cpu0"]["ear.status"] == "affirming"
    assert ear["submods"]["cpu0"]["ear.trustworthiness-vector"] == verdict["ear.trustworthiness-vector"]
    references = desk.put("references.toml", b'[[reference]]\nmeasurement = "%s"\n' % (b"11" * 48))
    assert desk.verify(file, *words, "--references", str(references))[0] == 0
    status, verdict = desk.verify(file, *words, "--references", str(references), "--report-data", "ff")
    assert [reason["code"] for reason in verdict["reasons"]] == ["report-data-mismatch"]
    status, verdict = desk.verify(file, *words, "--references", str(references), "--host-data", "ff")
    assert [reason["code"] for reason in verdict["reasons"]] == ["host-data-mismatch"]


def test_debug_only_if_the_policy_says_so(desk: Desk) -> None:
    evidence = desk.vendor.snp(policy=0x30000 | 1 << 19, measurement=b"\x11" * 48)
    file, bundle = desk.put("report.bin", evidence.report), desk.bundle(evidence)
    words = ["--endorsements", str(bundle), *desk.accept(), "--measurement", "11" * 48]
    assert [reason["code"] for reason in desk.verify(file, *words)[1]["reasons"]] == ["debug-enabled"]
    policy = desk.put("policy.toml", b"[allow]\ndebug = true\n")
    assert desk.verify(file, *words, "--policy", str(policy))[0] == 0


def test_an_event_log_is_replayed(desk: Desk) -> None:
    evidence = desk.vendor.tdx(log=True)
    file, bundle = desk.put("quote.bin", evidence.report), desk.bundle(evidence)
    log = desk.put("ccel.bin", evidence.parts["event-log"])
    words = ["--endorsements", str(bundle), *desk.accept(), "--no-policy", "--event-log"]
    status, verdict = desk.verify(file, *words, str(log))
    assert status == 0
    assert any("rtmr" in check["name"] and check["outcome"] == "passed" for check in verdict["checks"])
    other = desk.put("other.bin", desk.vendor.tdx(log=True, events=CC_BOOT[:-1]).parts["event-log"])
    status, verdict = desk.verify(file, *words, str(other))
    assert (status, {reason["code"] for reason in verdict["reasons"]}) == (1, {"event-log-mismatch"})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda raw: raw.hex().encode(),
        base64.b64encode,
        lambda raw: b"-----BEGIN REPORT-----\n" + base64.encodebytes(raw) + b"-----END REPORT-----\n",
    ],
)
def test_one_canonical_form(desk: Desk, wrap: Any) -> None:
    evidence = desk.vendor.snp()
    bundle = desk.bundle(evidence)
    words = ["--endorsements", str(bundle), *desk.accept(), "--no-policy"]
    _, raw = desk.verify(desk.put("raw", evidence.report), *words)
    status, wrapped = desk.verify(desk.put("wrapped", wrap(evidence.report)), *words)
    assert status == 0
    assert wrapped["canonical"] == raw["canonical"]


def test_expired(desk: Desk) -> None:
    evidence = desk.vendor.sgx()
    file, bundle = desk.put("quote", evidence.report), desk.bundle(evidence)
    late = (NOW + timedelta(days=400)).isoformat()
    words = ["evidence", "verify", str(file), "--endorsements", str(bundle), *desk.accept(), "--at", late, "--json"]
    assert main(words) == 1


@pytest.mark.parametrize("data", [b"", b"no evidence", bytes(1184), b"\x30\x82" + bytes(40), b'{"quote": "AAAA"}'])
def test_garbage_is_refused(desk: Desk, data: bytes) -> None:
    status, verdict = desk.verify(desk.put("garbage", data))
    assert status == 1
    assert verdict["reasons"]


def test_wrong_usage(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(desk.put("report", desk.vendor.snp().report))
    for words in (
        [str(desk.folder / "absent")],
        [file, "--at", "yesterday"],
        [file, "--at", "2026-11-23T12:00:00"],
        [file, "--endorsements", str(desk.folder / "absent")],
        [file, "--policy", str(desk.folder / "absent")],
        [file, "--policy", str(desk.put("bad.toml", b"[allow]\ndebugging = true\n"))],
        [file, "--no-such-option"],
    ):
        assert main(["evidence", "verify", *words, "--json"]) == 2, words
        assert json.loads(capsys.readouterr().err)["error"]["code"]


def test_files_that_cannot_be_read(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(desk.put("report", desk.vendor.snp().report))
    large = desk.put("large", bytes((1 << 20) + 1))
    for words, code in (
        ([str(desk.folder)], "evidence-file-unreadable"),
        ([file, "--policy", str(desk.folder / "absent")], "file-unreadable"),
        ([file, "--policy", str(large)], "file-unreadable"),
    ):
        assert main(["evidence", "verify", *words, "--json"]) == 2
        assert json.loads(capsys.readouterr().err)["error"]["code"] == code


def test_damaged_endorsements_are_named_and_passed_over(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    evidence = desk.vendor.snp()
    file, bundle = desk.put("report", evidence.report), desk.bundle(evidence)
    damaged = desk.put("damaged.json", bundle.read_bytes()[:-30] + b"}")
    words = ["evidence", "verify", str(file), "--no-policy", *desk.accept(), "--at", AT]
    given = ["--endorsements", str(bundle), "--endorsements", str(damaged)]
    assert main([*words, *given]) == 0
    assert "damaged.json looks like a bundle and does not parse" in capsys.readouterr().err


def test_half_of_something(desk: Desk) -> None:
    log = desk.put("log", desk.vendor.tdx(log=True).parts["event-log"])
    status, verdict = desk.verify(log)
    assert (status, verdict["kind"], [check["code"] for check in verdict["checks"]]) == (
        3,
        "event log",
        ["quote-missing"],
    )


def test_for_people(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    evidence = desk.vendor.snp()
    file, bundle = desk.put("report.bin", evidence.report), desk.bundle(evidence)
    words = ["evidence", "verify", str(file), "--endorsements", str(bundle), *desk.accept(), "--at", AT]
    assert main([*words, "--no-policy"]) == 0
    text = capsys.readouterr().out
    assert "SIMULATED: Verified" in text
    assert "FAILED" not in text
    assert main(words) == 1
    assert "REFUSED" in capsys.readouterr().out
    assert main(["evidence", "verify", str(desk.put("garbage", b"?"))]) == 1
    assert "evidence-unrecognised" in capsys.readouterr().out
    assert (
        main(
            [
                "evidence",
                "verify",
                str(desk.put("quote", desk.vendor.sgx().report)),
                "--offline",
                "--no-policy",
                *desk.accept(),
            ]
        )
        == 3
    )
    assert "missing: tcb-info" in capsys.readouterr().out


def test_show(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in KINDS:
        evidence = made(desk.vendor, kind)
        assert main(["evidence", "show", str(desk.put("file", as_file(desk.vendor, evidence))), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["kind"] == "evidence"
    log = desk.put("log", desk.vendor.tdx(log=True).parts["event-log"])
    assert main(["evidence", "show", str(log), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["kind"], len(shown["events"])) == ("event-log", 1 + len(CC_BOOT))
    bundle = desk.bundle(desk.vendor.snp())
    assert main(["evidence", "show", str(bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "collateral"
    assert main(["evidence", "show", str(desk.put("garbage", b"?"))]) == 3
    assert "evidence-unrecognised" in capsys.readouterr().err


def test_endorsements_are_verified_for_themselves(desk: Desk) -> None:
    evidence = desk.vendor.tdx()
    status, verdict = desk.verify(desk.bundle(evidence), *desk.accept(), "--no-policy")
    assert (status, verdict["outcome"], verdict["kind"]) == (0, "verified", "collateral")
    assert verdict["simulated"] is True
    assert desk.verify(desk.bundle(evidence), "--no-policy")[0] == 1
    status, verdict = desk.verify(desk.bundle(evidence), *desk.accept(), "--measurement", "11" * 48)
    assert (status, [reason["code"] for reason in verdict["reasons"]]) == (1, ["evidence-expected"])


def test_too_many_endorsements_at_once() -> None:
    crowd = Endorsements(crls=tuple(bytes(number) for number in range(300)))
    with pytest.raises(MalformedError, match="endorsements-crowded"):
        verify_all(crowd, Endorsements(), NOW)


def test_event_logs_that_do_not_belong(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    evidence, short = desk.vendor.tdx(log=True), desk.vendor.tdx(log=True, events=CC_BOOT[:-1])
    quote, bundle = desk.put("quote.bin", evidence.report), desk.bundle(evidence)
    logs = [desk.put(f"log{number}", each.parts["event-log"]) for number, each in enumerate((evidence, short))]
    words = ["--endorsements", str(bundle), *desk.accept(), "--no-policy"]
    both = [word for log in logs for word in ("--endorsements", str(log))]
    assert desk.verify(quote, *words, *both)[1]["reasons"][0]["code"] == "event-log-ambiguous"
    own = desk.put("own.json", json.dumps(desk.vendor.envelope(evidence)).encode())
    assert desk.verify(own, *words, "--event-log", str(logs[0]))[0] == 0
    assert desk.verify(own, *words, "--event-log", str(logs[1]))[1]["reasons"][0]["code"] == "event-log-ambiguous"
    sgx = desk.put("sgx.bin", desk.vendor.sgx().report)
    assert desk.verify(sgx, *words, "--event-log", str(logs[0]))[1]["reasons"][0]["code"] == "event-log-useless"
    assert main(["evidence", "verify", str(quote), *words, "--event-log", str(bundle), "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "event-log-unrecognised"


def test_options_that_make_no_sense(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(desk.put("report", desk.vendor.snp().report))
    for words, code in (
        (["--measurement", "zz"], "option-malformed"),
        (["--references", str(desk.put("references", b"[[reference]]\nmeasuring = 1\n"))], "option-malformed"),
        (["--at", "0001-01-01T00:00:00+14:00"], "time-malformed"),
        (["--no-policy", "--measurement", "11"], "options-contradict"),
    ):
        assert main(["evidence", "verify", file, *words, "--json"]) == 2, words
        assert json.loads(capsys.readouterr().err)["error"]["code"] == code


def test_evidence_of_several_devices_is_not_taken_for_one(desk: Desk) -> None:
    envelope = desk.vendor.envelope(desk.vendor.snp())
    for message in (
        {"tee-evidence": {"primary_evidence": envelope, "additional_evidence": '{"nvidia": {}}'}},
        {"primary_evidence": envelope, "evidence": envelope},
    ):
        _, verdict = desk.verify(desk.put("message.json", json.dumps(message).encode()))
        assert [reason["code"] for reason in verdict["reasons"]] == ["evidence-composite"]


def test_a_name_with_line_breaks_stays_on_its_line() -> None:
    bad = failed("x\ny", "root-untrusted", found="b\r\nVerified")
    text = plain(tree_lines("t", (Step("root", "a\nVerified", (bad,), (("n", "c\nd"),)),), "end", ""))
    assert not any(line.startswith(("Verified", "y", "d")) for line in text.splitlines())


def test_standard_input(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import sys

    evidence = desk.vendor.snp()
    bundle = desk.bundle(evidence)

    class Stream:
        buffer = io.BytesIO(evidence.report)

    monkeypatch.setattr(sys, "stdin", Stream)
    status, _ = desk.verify(Path("-"), "--endorsements", str(bundle), *desk.accept(), "--no-policy")
    assert status == 0
