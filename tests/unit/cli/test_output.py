import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.cli import output
from kokon.cli.output import emit, kokon_home, note, printable, progress, render_error
from kokon.errors import DeniedError, HostError


def test_answers_go_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"a": "ä"}, "text", json=True)
    emit({"a": 1}, "text")
    note("remark")
    out, err = capsys.readouterr()
    assert out == '{\n  "a": "\\u00e4"\n}\ntext\n'
    assert err == "remark\n"


def test_errors_for_people_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    error = DeniedError("measurement-unknown", "not admitted", expected="a", found="b\x1b[2J", hint="do this")
    render_error(error)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "kokon: not admitted [measurement-unknown]\n  expected: a\n  found: b\\x1b[2J\nhint: do this\n"
    render_error(error, json=True)
    assert json.loads(capsys.readouterr().err)["error"] == error.as_dict()
    render_error(HostError("disk-space", "full"))
    assert capsys.readouterr().err == "kokon: full [disk-space]\n"


@given(st.text())
def test_nothing_steers_the_terminal(text: str) -> None:
    shown = printable(text)
    assert all(letter.isprintable() or letter.isspace() for letter in shown)
    assert not set(shown) & set("\r\x0b\x0c\x1b\x85\u202e\u2066\u200b")


def test_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOKON_HOME", "/srv/kokon")
    assert str(kokon_home()) == "/srv/kokon"
    monkeypatch.setenv("KOKON_HOME", "")
    assert kokon_home().parts[-3:] == (".local", "share", "kokon")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_only_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("work") as update:
        update(1, 2)
    assert capsys.readouterr() == ("", "")


def test_progress_only_if_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(output.sys, "stderr", terminal)
    with progress("work") as update:
        update(1, 2)
    assert terminal.getvalue() == ""
    monkeypatch.setattr(output, "PROGRESS_AFTER", 0)
    with progress("wörk\x1b[2J") as update:
        update(1, 2)
        update(2, None)
    assert "wörk" in terminal.getvalue()
    assert "\x1b[2J" not in terminal.getvalue()
