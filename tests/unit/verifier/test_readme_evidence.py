"""The README's section on evidence, line by line, with the fake vendor's services in the vendors' place."""

import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kokon.cli.main import main
from kokon.testing.server import VendorServer
from kokon.testing.vendor import FakeVendor

README = Path(__file__).parents[3] / "README.md"


def lines() -> list[list[str]]:
    """The commands of the section, without comments and the program's name."""
    section = README.read_text().partition("\n## Evidence of any enclave\n")[2].partition("\n## ")[0]
    block = section.partition("```sh\n")[2].partition("```")[0]
    return [shlex.split(line, comments=True)[1:] for line in block.splitlines() if line.startswith("kokon ")]


def test_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    vendor = FakeVendor(datetime.now(UTC))
    report = vendor.snp(certificates="none")
    (tmp_path / "report.bin").write_bytes(report.report)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KOKON_HOME", str(tmp_path / "home"))
    accept = [word for root in sorted(vendor.roots) for word in ("--accept-simulated", root)]
    measurement = report.report[0x90:0xC0].hex()
    commands = lines()
    assert [words[:2] for words in commands] == [
        ["evidence", "show"],
        ["endorsements", "bundle"],
        ["evidence", "verify"],
        ["explain", "report.bin"],
    ]
    with VendorServer(vendor) as server:
        monkeypatch.setenv("KOKON_KDS_URL", server.url)
        monkeypatch.setenv("KOKON_PCS_URL", server.url)
        assert main(commands[0]) == 0
        assert measurement in capsys.readouterr().out
        assert main([*commands[1], *accept]) == 0
        assert server.count() > 0
    (tmp_path / "home").rename(tmp_path / "elsewhere")  # the other machine has the bundle and nothing else
    verified = [measurement if word.endswith("...") else word for word in commands[2]]
    assert main([*verified, *accept]) == 0
    assert "SIMULATED: Verified, and accepted" in capsys.readouterr().out
    assert main(verified) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle.json", "elsewhere", "report.bin"]
