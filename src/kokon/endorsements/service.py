"""Verification with a source: verify, fetch what was lacking, verify again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from typing import Final

from kokon.endorsements.sources import Source
from kokon.errors import KokonError
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Check, Claims, Evidence, Need, not_checked
from kokon.tee.registry import TEES, verify

ROUNDS: Final = 4
"""What was fetched may show that more is lacking, but not for ever."""

AT_ONCE: Final = 4
"""Requests under way at the same time."""

Outcome = Endorsements | KokonError
"""What came of a need."""


def resolve(
    evidence: Evidence,
    endorsements: Endorsements,
    now: datetime,
    source: Source,
    *,
    tees: Mapping[str, str] = TEES,
) -> tuple[Claims, Endorsements]:
    """Claims of `evidence` at `now`, and all endorsements that were used: those given and what `source` added.

    What cannot be fetched stays among the claims' needs, and a check that was not made (`endorsement-unavailable`)
    tells why. Raises `MalformedError` for evidence that does not parse.
    """
    return complete(lambda pool: verify(evidence, pool, now, tees), endorsements, now, source)


def complete(
    examine: Callable[[Endorsements], Claims], endorsements: Endorsements, now: datetime, source: Source
) -> tuple[Claims, Endorsements]:
    """As `resolve`, for anything that makes claims out of endorsements and says what it lacks."""
    claims, pool = examine(endorsements), endorsements
    outcomes: dict[Need, Outcome] = {}
    for _ in range(ROUNDS):
        wanted = _next(need for need in claims.needs if need not in outcomes)
        if not wanted:
            break
        outcomes |= fetch_all(source, wanted, now)
        _renew(outcomes, source, now)
        if any(isinstance(outcomes[need], Endorsements) for need in wanted):
            pool = _together(endorsements, outcomes)
            claims = examine(pool)
    reasons = ((need, outcomes.get(need)) for need in claims.needs)
    unmet = tuple(_unmet(need, reason) for need, reason in reasons if isinstance(reason, KokonError))
    return replace(claims, checks=(*claims.checks, *unmet)), pool


def fetch_all(
    source: Source,
    needs: Iterable[Need],
    now: datetime,
    progress: Callable[[Need, Outcome], None] | None = None,
) -> dict[Need, Outcome]:
    """What became of each need, several fetched at once. `progress` is told as each is done.

    VCEKs, which wait for their turn anyway, are fetched one after the other by the thread that calls.
    """
    wanted = tuple(dict.fromkeys(needs))
    slow = [need for need in wanted if need.kind == "vcek"]
    quick = [need for need in wanted if need.kind != "vcek"]

    def one(need: Need) -> Outcome:
        outcome = _fetch(source, need, now)
        if progress is not None:
            progress(need, outcome)
        return outcome

    if not slow and len(quick) < 2:
        found = {need: one(need) for need in quick}
    else:
        pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="endorsements")
        try:
            running = {need: pool.submit(one, need) for need in quick}
            found = {need: one(need) for need in slow} | {need: future.result() for need, future in running.items()}
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    outcomes = {need: found[need] for need in wanted}
    _renew(outcomes, source, now)
    return outcomes


def _fetch(source: Source, need: Need, now: datetime) -> Outcome:
    try:
        return source.fetch(need, now)
    except KokonError as error:
        return error


def _next(needs: Iterable[Need]) -> list[Need]:
    """What to fetch next: of VCEKs only one, since old reports do not say which product line they are from, and the
    right one answers for all."""
    wanted = list(needs)
    chips = [need for need in wanted if need.kind == "vcek"]
    return [need for need in wanted if need not in chips[1:]]


def _renew(outcomes: dict[Need, Outcome], source: Source, now: datetime) -> None:
    """Documents of Intel's that are older than another one for the same TEE are fetched once more: what was kept may
    be of the time before Intel's newest numbers."""
    newest: dict[str, int] = {}
    for need, outcome in outcomes.items():
        newest[_tee(need)] = max(newest.get(_tee(need), 0), _number(outcome))
    for need, outcome in tuple(outcomes.items()):
        if 0 < _number(outcome) < newest[_tee(need)]:
            outcomes[need] = _fetch(source, need, now)


def _together(endorsements: Endorsements, outcomes: Mapping[Need, Outcome]) -> Endorsements:
    for outcome in outcomes.values():
        if isinstance(outcome, Endorsements):
            endorsements |= outcome
    return endorsements


def _tee(need: Need) -> str:
    return dict(need.parameters).get("tee", "")


def _number(outcome: Outcome) -> int:
    return outcome.minimum_evaluation if isinstance(outcome, Endorsements) and outcome.documents else 0


def _unmet(need: Need, reason: KokonError) -> Check:
    return not_checked(f"fetching {need}", "endorsement-unavailable", reason.hint, found=reason)
