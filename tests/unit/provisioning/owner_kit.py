"""Runs the owner's commands against the server of a test."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from kokon.cli.main import main


@dataclass
class Kokon:
    """`done` gives a command's JSON, `said` its text, `refused` the code of its error."""

    server: Any
    _capsys: pytest.CaptureFixture[str]
    _patch: pytest.MonkeyPatch

    def done(self, *words: str) -> dict[str, Any]:
        assert main([*words, "--json"]) == 0, self._capsys.readouterr().err
        return json.loads(self._capsys.readouterr().out)

    def said(self, *words: str) -> str:
        assert main([*words]) == 0, self._capsys.readouterr().err
        return self._capsys.readouterr().out

    def refused(self, *words: str) -> str:
        assert main([*words, "--json"]) != 0, self._capsys.readouterr().out
        return json.loads(self._capsys.readouterr().err.splitlines()[-1])["error"]["code"]

    def typed(self, data: bytes) -> None:
        """What the next command finds on standard input."""
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.fixture
def kokon(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Kokon]:
    """The commands, with the server's admin.json, in a directory of their own."""
    monkeypatch.setenv("KOKON_ADMIN", str(tmp_path / "state" / "admin.json"))
    monkeypatch.setenv("KOKON_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KOKON_PROJECT", raising=False)
    monkeypatch.chdir(tmp_path)
    # The server of this process would log to the same standard output.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield Kokon(server, capsys, monkeypatch)
    structlog.reset_defaults()
