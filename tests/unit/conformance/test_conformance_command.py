"""`kokon conformance` as a person uses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conformance_kit import CHIP
from cyclopts import App, Parameter
from fake_broker import ADMIN_TOKEN, Broker, Host

from kokon.cli.conformance import conformance
from kokon.errors import KokonError, UsageError


def command(*words: object) -> int:
    app = App(name="kokon", default_parameter=Parameter(negative=()))
    app.command(conformance, name="conformance")
    status = app(["conformance", *map(str, words)], exit_on_error=False, result_action="return_value")
    assert isinstance(status, int)
    return status


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "admin.token"
    file.write_text(ADMIN_TOKEN + "\n")
    return file


def test_a_table_and_status_0(host: Host, token: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host.serve(Broker())
    assert command(host.url, "--admin-token", token, "--only", "auth-*", "--only", "resource-cookie") == 0
    out, err = capsys.readouterr()
    assert "auth-0.4.0" in out
    assert "No demand failed." in out
    assert "opens, the value that was set" in out
    assert ADMIN_TOKEN not in out + err


def test_status_1_and_what_was_found(host: Host, token: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host.serve(Broker("short-nonce"))
    assert command(host.url, "--only", "challenge-nonce") == 1
    out = capsys.readouterr().out
    assert "16 bytes" in out
    assert "NOT CONFORMING." in out


def test_json(host: Host, token: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host.serve(Broker("affirming"))
    assert command(host.url, "--admin-token", token, "--only", "token-*", "--strict", "--json") == 1
    out, _ = capsys.readouterr()
    found: dict[str, Any] = json.loads(out)
    assert found["conforms"] is False
    case = next(case for case in found["cases"] if case["name"] == "token-sample")
    assert case == {
        "name": "token-sample", "level": "SHOULD", "section": "Attestation Results Token", "outcome": "fail",
        "demanded": "sample evidence, which anyone can make, is never affirming", "found": "affirming",
    }  # fmt: skip
    assert sum(found["outcomes"].values()) == len(found["cases"])


def test_a_hostile_server_does_not_steer_the_terminal(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    broker = host.serve(Broker("refuse-all"))
    refuse = broker.refuse

    def shout(ask: Any, refusal: Any) -> Any:
        refusal.detail = "\x1b[2J[red]gone"
        return refuse(ask, refusal)

    broker.refuse = shout  # type: ignore[method-assign]
    assert command(host.url, "--only", "attest-0.4.0") == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[red]gone" in out


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--list", "--only", "jwe-*") == 0
    out = capsys.readouterr().out
    assert "jwe-header" in out
    assert "auth-0.4.0" not in out
    assert command("--list", "--json") == 0
    listed = json.loads(capsys.readouterr().out)["cases"]
    assert len(listed) > 100
    assert set(listed[0]) == {"name", "level", "section", "demanded"}


def test_snp_evidence_of_a_chip_on_this_machine(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Path] = []

    def load(directory: Path) -> Any:
        asked.append(directory)
        return CHIP

    monkeypatch.setattr("kokon.tee.simulated.keys.load_processor", load)
    monkeypatch.setenv("KOKON_HOME", str(tmp_path))
    host.serve(Broker(tee="snp", chip=CHIP))
    document = tmp_path / "initdata.toml"
    document.write_text('algorithm = "sha256"\nversion = "0.1.0"\n')
    words = [host.url, "--tee", "snp", "--init-data", document, "--measurement", "11" * 48, "--only", "attest-*"]
    assert command(*words) == 0
    assert command(*words, "--processor", tmp_path / "chip") == 0
    assert asked == [tmp_path / "processor", tmp_path / "chip"]
    broker: Broker = host.server.broker  # type: ignore[attr-defined]
    sent = [json.loads(ask.body) for ask in broker.asked if ask.body.startswith(b'{"init-data":{"format":"toml"')]
    report = sent[0]["tee-evidence"]["primary_evidence"]["attestation_report"]
    assert report["measurement"] == [0x11] * 48
    capsys.readouterr()


def test_the_root_to_accept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kokon.tee.simulated.keys.fingerprint", lambda directory: f"root of {directory.name}")
    monkeypatch.setenv("KOKON_HOME", str(tmp_path))
    assert command("--show-root") == 0
    assert capsys.readouterr().out == "root of processor\n"
    assert command("--show-root", "--processor", tmp_path / "chip", "--json") == 0
    assert json.loads(capsys.readouterr().out)["root"] == "root of chip"


def test_remarks_go_to_stderr(host: Host, token: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host.serve(Broker())
    assert command(host.url, "--admin-token", token, "--change-policies", "--only", "policy-deny", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["remarks"] == ["the resource policy now denies everything"]
    assert err == "note: the resource policy now denies everything\n"


def test_a_run_that_is_cut_short_is_said(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.serve(Broker())
    assert command(host.url, "--seconds", "0.000001", "--only", "auth-0.4.0") == 1
    assert "did not come to its end" in capsys.readouterr().out


def test_what_is_wrong_with_the_words(tmp_path: Path, host: Host) -> None:
    empty, binary, large = tmp_path / "empty", tmp_path / "binary", tmp_path / "large"
    empty.write_text("\n")
    binary.write_bytes(b"\xff\xfe")
    large.write_bytes(bytes((1 << 20) + 1))
    wrong: list[tuple[str, tuple[object, ...]]] = [
        ("conformance-url", ()),
        ("conformance-url", ("nowhere",)),
        ("conformance-file", (host.url, "--ca", tmp_path / "none")),
        ("conformance-file", (host.url, "--ca", binary)),
        ("conformance-file", (host.url, "--resource", "a/b/c", "--resource-file", large)),
        ("conformance-token", (host.url, "--admin-token", empty)),
        ("conformance-token", (host.url, "--admin-token", binary)),
        ("conformance-options", (host.url, "--versions", "1.0")),
        ("conformance-options", (host.url, "--tee", "sev")),
        ("size-mismatch", (host.url, "--measurement", "00")),
        ("conformance-case-unknown", (host.url, "--only", "none")),
    ]
    for code, words in wrong:
        with pytest.raises(KokonError) as caught:
            command(*words)
        assert caught.value.code == code, words
    with pytest.raises(UsageError):
        command("--list", "--only", "none")
