import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kokon.cli import main as main_module
from kokon.cli.main import COMMANDS, GROUPS, Command, main, report_bug, wants_json
from kokon.errors import DeniedError


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.words)
def test_every_command_has_help_with_an_example(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.words.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert "Example" in out
    assert "--json" in out
    assert "Exit status" in out


def test_overview_imports_no_command() -> None:
    code = "import sys; from kokon.cli.main import main; main(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "kokon.cli.run" not in answer.stderr
    assert "cryptography" not in answer.stderr
    for command in COMMANDS:
        assert command.words.split()[0] in answer.stdout


def test_groups_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for group in GROUPS:
        assert main([group]) == 0
    capsys.readouterr()
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip()


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rnu", "x", "--json"]) == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] == "command-unknown"
    assert error["hint"] == "did you mean 'run'?"
    assert main(["zzzz"]) == 2
    assert "kokon --help" in capsys.readouterr().err


def test_wrong_options(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["run"], ["ps", "--bogus"], ["stop", "a", "--grace", "x"]):
        assert main(words) == 2
        assert "[usage-malformed]" in capsys.readouterr().err
    assert main(["ps", "--bogus", "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["code"] == "usage-malformed"


def raising(error: BaseException) -> object:
    def dispatch(_: object) -> object:
        raise error

    return dispatch


def test_errors_become_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(main_module, "_dispatch", raising(DeniedError("measurement-unknown", "no")))
    assert main(["run"]) == 5
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("KOKON_DEBUG", "1")
    assert main(["run"]) == 5
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setattr(main_module, "_dispatch", raising(KeyboardInterrupt()))
    assert main(["run"]) == 130
    for value, status in ((7, 7), (None, 0), (True, 0), ("text", 0)):
        monkeypatch.setattr(main_module, "_dispatch", lambda _, value=value: value)
        assert main([]) == status


def test_bugs_are_reported_as_such(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["kokon", "ps", "--json"])
    report_bug(ValueError, ValueError("x"), None)
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["code"] == "internal-error"
    assert "report" in error["hint"]
    monkeypatch.setenv("KOKON_DEBUG", "1")
    report_bug(ValueError, ValueError("x"), None)
    assert "ValueError: x" in capsys.readouterr().err


def test_an_unforeseen_exception_ends_with_status_1() -> None:
    code = "import sys; from kokon.cli import main as m; m._dispatch = lambda _: 1 / 0; sys.exit(m.main(['ps']))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "[internal-error]" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_reader_that_went_away(tmp_path: Path) -> None:
    code = "import sys; from kokon.cli.main import main; sys.exit(main(['ps', '--all']))"
    reader, writer = os.pipe()
    os.close(reader)
    answer = subprocess.run(
        [sys.executable, "-c", code],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        env={**os.environ, "KOKON_HOME": str(tmp_path)},
    )
    os.close(writer)
    assert (answer.returncode, answer.stderr) == (141, b"")


def test_json_is_an_option_of_ours_only_before_the_dashes() -> None:
    assert wants_json(["run", "--json"])
    assert not wants_json(["run", "--", "--json"])
