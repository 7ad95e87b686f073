"""One link of a chain of trust, for people and as data. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kokon.tee.evidence import Check


@dataclass(frozen=True, slots=True)
class Step:
    """One link of the chain: stable `name`, a `title` for people, facts worth showing, and what was checked."""

    name: str
    title: str
    checks: tuple[Check, ...]
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def outcome(self) -> str:
        """`failed` if any check failed, `passed` if any passed and none failed, else `not-checked`."""
        outcomes = {check.outcome for check in self.checks}
        return "failed" if "failed" in outcomes else "passed" if "passed" in outcomes else "not-checked"

    def as_dict(self) -> dict[str, Any]:
        """The step as plain JSON values."""
        return {
            "name": self.name,
            "title": self.title,
            "outcome": self.outcome,
            "facts": dict(self.facts),
            "checks": [check.as_dict() for check in self.checks],
        }
