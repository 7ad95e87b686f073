"""The owner's side of the story: the server, its log, and how others reach it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kokon.demo.stage import run_kokon


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner's home, and the server's URL and certificate (PEM file)."""

    home: Path
    url: str
    certificate: Path

    def tls(self) -> ssl.SSLContext:
        """A context that trusts the server and nobody else."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def log(self) -> list[dict[str, Any]]:
        """The entries of the owner's log so far; the command checks its chain."""
        answer, error = run_kokon(["log"], home=self.home)
        if error is not None:
            raise error
        return list(answer["entries"])

    def reason(self, denial: str) -> str:
        """The failed checks behind a denial, in one line."""
        answer, error = run_kokon(["explain", denial], home=self.home)
        if error is not None:
            raise error
        failed = [check for check in answer["checks"] if check["outcome"] == "failed"]
        reasons = [f"{c['name']}: expected {_short(c.get('expected'))}, found {_short(c.get('found'))}" for c in failed]
        return "; ".join(reasons) or str(answer["message"])


def _short(text: object) -> str:
    return str(text)[:20] + ("…" if len(str(text)) > 20 else "")
