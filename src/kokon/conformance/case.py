"""What a case of the suite is, and what comes of one. Pure values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kokon.conformance.connection import Answer
    from kokon.conformance.world import World

FOUND_LIMIT = 300
"""Characters of what was found that are kept of one case."""


class Level(StrEnum):
    """How much a demand weighs, in the words of RFC 2119."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"


class Outcome(StrEnum):
    """What came of a case. `tolerated`: not as it should be, and clients can live with it."""

    PASS = "pass"  # noqa: S105 - a word, not a password
    FAIL = "fail"
    SKIP = "skip"
    TOLERATED = "tolerated"


class Violation(Exception):  # noqa: N818 - an outcome, not an error of ours
    """The server does not do what the case demands; the text says what it did."""


class Skip(Exception):  # noqa: N818
    """The case cannot be tried here; the text says why."""


@dataclass(frozen=True, slots=True)
class Case:
    """One demand: a stable name, its level, the section that it comes from, what is demanded, and how to try it.

    `check` notes what it finds, and raises `Violation` or `Skip`.
    """

    name: str
    level: Level
    section: str
    title: str
    check: Callable[[World, Notes], None] = field(repr=False)


class Cases(list[Case]):
    """The cases of one file, in the order in which they are tried."""

    def add(
        self, name: str, level: Level, section: str, title: str
    ) -> Callable[[Callable[[World, Notes], None]], Callable[[World, Notes], None]]:
        """A decorator that makes a function the check of a case."""

        def register(check: Callable[[World, Notes], None]) -> Callable[[World, Notes], None]:
            self.append(Case(name, level, section, title, check))
            return check

        return register


@dataclass(frozen=True, slots=True)
class Result:
    """What came of `case`, which weighed `level` in this run, and what was found."""

    case: Case
    level: Level
    outcome: Outcome
    found: str

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "name": self.case.name,
            "level": str(self.level),
            "section": self.case.section,
            "demanded": self.case.title,
            "outcome": str(self.outcome),
            "found": self.found,
        }


@dataclass(slots=True)
class Notes:
    """What one case finds on its way, good and tolerable; bad ends it."""

    said: list[str] = field(default_factory=list)
    tolerable: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Note something that is as it should be."""
        if text not in self.said:
            self.said.append(text)

    def tolerate(self, text: str) -> None:
        """Note something that should be otherwise."""
        if text not in self.tolerable:
            self.tolerable.append(text)

    def refused(self, answer: Answer, what: str, *best: int) -> None:
        """`answer` must refuse `what`: a status from 400 to 499. Any but those in `best`, if given, is only tolerable.

        Raises `Violation` for acceptance and for faults of the server.
        """
        said = answer.summary()
        if answer.status < 400:
            raise Violation(f"{what} was accepted: {said}")
        if answer.status >= 500:
            raise Violation(f"{what} broke something: {said}")
        if best and answer.status not in best:
            self.tolerate(f"{what}: {said}, better {' or '.join(map(str, best))}")
        else:
            self.say(said)

    def text(self) -> str:
        """All that was found, the worse first, at most `FOUND_LIMIT` characters."""
        text = "; ".join([*self.tolerable, *self.said])
        return text if len(text) <= FOUND_LIMIT else text[: FOUND_LIMIT - 1] + "…"
