"""Runs the cases and sums up. Whatever a server does, a run ends within its bounds and gives a result for each case."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kokon.conformance.case import Case, Level, Notes, Outcome, Result, Skip, Violation
from kokon.conformance.cases import ALL
from kokon.conformance.connection import Broken, Budget, Client, Exhausted, trust
from kokon.conformance.evidence import Attester
from kokon.conformance.options import Options
from kokon.conformance.world import World
from kokon.errors import UsageError

CLEANING = (40, 60.0)
"""Requests and seconds for tidying up at the end, beyond the run's own."""


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run: `results` in the order of the cases, `remarks` about what is left behind.

    `unfinished` says which bound ended it early, if one did.
    """

    url: str
    tee: str
    results: tuple[Result, ...]
    remarks: tuple[str, ...] = ()
    unfinished: str | None = None
    requests: int = 0

    @property
    def conforms(self) -> bool:
        """Whether nothing failed, and everything was tried that could be."""
        return self.unfinished is None and all(result.outcome != Outcome.FAIL for result in self.results)

    def counts(self) -> dict[str, int]:
        """How many cases had each outcome."""
        return {str(one): sum(result.outcome == one for result in self.results) for one in Outcome}

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "url": self.url,
            "tee": self.tee,
            "conforms": self.conforms,
            "unfinished": self.unfinished,
            "requests": self.requests,
            "outcomes": self.counts(),
            "cases": [result.as_dict() for result in self.results],
            "remarks": list(self.remarks),
        }


def chosen(only: Iterable[str], cases: Iterable[Case] = ALL) -> tuple[Case, ...]:
    """The cases by these names, all for none; a name ending in * stands for all that begin so.

    Raises `UsageError` (`conformance-case-unknown`).
    """
    listed = tuple(cases)
    wanted: set[str] = set()
    for name in only:
        found = {case.name for case in listed if _matches(case.name, name)}
        if not found:
            raise UsageError(
                "conformance-case-unknown",
                f"there is no case {name[:60]!r}",
                hint="see all with: kokon conformance --list",
            )
        wanted |= found
    return tuple(case for case in listed if not wanted or case.name in wanted)


def _matches(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def run(
    options: Options,
    attester: Attester,
    *,
    budget: Budget | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    progress: Callable[[int, int | None], None] = lambda _done, _total: None,
) -> Report:
    """Try all chosen cases against the server.

    Raises `UsageError` (`conformance-case-unknown`, `conformance-ca`), and what `Client.probe` raises.
    """
    cases = chosen(options.only)
    context = trust(options.certificate) if options.target.scheme == "https" else None
    client = Client(options.target, context, budget or Budget(options.requests, options.seconds), options.timeout)
    client.probe()
    world = World(options, client, attester, now)
    results: list[Result] = []
    unfinished: str | None = None
    try:
        for number, case in enumerate(cases):
            progress(number, len(cases))
            if unfinished is None:
                try:
                    results.append(attempt(world, case))
                    continue
                except Exhausted as error:
                    unfinished = str(error)
            results.append(Result(case, level_of(case, options), Outcome.SKIP, f"not tried: {unfinished}"))
    finally:
        remarks = _tidy(world)
    return Report(options.target.url, options.tee, tuple(results), remarks, unfinished, client.budget.used)


def _tidy(world: World) -> tuple[str, ...]:
    budget = world.client.budget
    world.client.budget = Budget(budget.used + CLEANING[0], CLEANING[1], budget.clock, budget.sleep, budget.used)
    try:
        return tuple(world.close())
    except Exhausted as error:
        return (f"what the suite made may still be there: {error}",)


def attempt(world: World, case: Case) -> Result:
    """What comes of one case. Raises `Exhausted`."""
    notes = Notes()
    level = level_of(case, world.options)
    try:
        case.check(world, notes)
        outcome = Outcome.TOLERATED if notes.tolerable else Outcome.PASS
        found = notes.text()
    except Skip as error:
        outcome, found = Outcome.SKIP, str(error)
    except (Violation, Broken) as error:
        outcome, found = _BY_LEVEL[level], str(error)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, RecursionError) as error:
        # What a case takes for granted of an answer, and another case checks: a hostile server must not end the run.
        outcome, found = _BY_LEVEL[level], f"an answer of an unforeseen form ({type(error).__name__})"
    if outcome is Outcome.TOLERATED and world.options.strict:
        outcome = Outcome.FAIL
    return Result(case, level, outcome, world.scrub(found))


_BY_LEVEL = {Level.MUST: Outcome.FAIL, Level.SHOULD: Outcome.TOLERATED, Level.MAY: Outcome.SKIP}


def level_of(case: Case, options: Options) -> Level:
    """How much the case weighs in this run: what is said of a version that must be spoken is a must."""
    kind, _, rest = case.name.partition("-")
    if kind in ("auth", "attest", "resource") and rest in options.versions:
        return Level.MUST
    return case.level
