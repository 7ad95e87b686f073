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
        entries = answer["entries"]
        return [{**entry, **entry.get("details", {})} for entry in entries]
