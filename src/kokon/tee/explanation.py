"""Why a measurement is not the expected one, in terms of what went into it. Pure values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One input that differs: its name ("vcpus", "cmdline"...), what was expected, what was found, as short texts."""

    what: str
    expected: str
    found: str

    @property
    def text(self) -> str:
        """The finding as a sentence part, for people."""
        return f"{self.what}: found {self.found}, expected {self.expected}"

    def as_dict(self) -> dict[str, str]:
        """The finding as plain JSON values."""
        return {"input": self.what, "expected": self.expected, "found": self.found}


@dataclass(frozen=True, slots=True)
class Explanation:
    """What explains a measurement. `matches`: it is the expected one, nothing to explain. Without findings and without
    a match nothing that was tried explains it; `tried` says what that was."""

    matches: bool
    findings: tuple[Finding, ...] = ()
    tried: str = ""

    def as_dict(self) -> dict[str, object]:
        """The explanation as plain JSON values."""
        return {
            "matches": self.matches,
            "findings": [finding.as_dict() for finding in self.findings],
            "tried": self.tried,
        }


def first_difference(expected: str, found: str, around: int = 30) -> tuple[str, str]:
    """Both texts from shortly before the place where they part, shortened: for texts too long to be shown whole."""
    limit = 2 * around
    if len(expected) <= limit and len(found) <= limit:
        return repr(expected), repr(found)
    at = next(
        (i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), min(len(expected), len(found))
    )
    start = max(0, at - around)
    return _cut(expected, start, limit), _cut(found, start, limit)


def _cut(text: str, start: int, limit: int) -> str:
    before, after = "..." if start else "", "..." if len(text) > start + limit else ""
    return f"{before}{text[start : start + limit]!r}{after}"
