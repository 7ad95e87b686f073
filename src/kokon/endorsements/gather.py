"""Everything that pieces of evidence, chips and platforms need, for the cache or for a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from kokon.endorsements.needs import COMPONENTS, amd_needs, chip, intel_needs, octets, product, vcek_need
from kokon.endorsements.service import Outcome, fetch_all, resolve
from kokon.endorsements.sources import Source
from kokon.errors import KokonError, UnreachableError, UsageError
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Evidence, Need

TEES: Final = ("sgx", "tdx")
"""Kinds of TEE that Intel has endorsements for."""

Progress = Callable[[Need, Outcome], None]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What to have without a piece of evidence: AMD product lines, chips as `PRODUCT:CHIP-ID:bootloader=3,tee=0,...`,
    Intel platforms by FMSPC, for the kinds of TEE named (all if none is)."""

    products: tuple[str, ...] = ()
    chips: tuple[str, ...] = ()
    fmspcs: tuple[str, ...] = ()
    tees: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was there and what was fetched, and what became of each need."""

    endorsements: Endorsements
    outcomes: Mapping[Need, Outcome]

    @property
    def missing(self) -> tuple[Need, ...]:
        """What is required and could not be had. Of one platform's TCB infos asked for without naming the kind of TEE
        one is enough: not every platform has TDX."""
        failed = [need for need, outcome in self.outcomes.items() if isinstance(outcome, KokonError)]
        had = {_fmspc(need) for need, outcome in self.outcomes.items() if isinstance(outcome, Endorsements)}
        return tuple(need for need in failed if need.required or (need.kind == "tcb-info" and _fmspc(need) not in had))

    def require(self) -> None:
        """Raise `UnreachableError` (`endorsements-incomplete`) if something required is missing."""
        missing = self.missing
        if not missing:
            return
        reasons = [self.outcomes[need] for need in missing]
        hints = [reason.hint for reason in reasons if isinstance(reason, KokonError) and reason.hint]
        raise UnreachableError(
            "endorsements-incomplete",
            f"{len(missing)} of {len(self.outcomes)} endorsements could not be had",
            expected="; ".join(map(str, missing)),
            found=reasons[0],
            hint=hints[0] if hints else None,
        )


class _Recorder:
    """A source that remembers what became of each need."""

    def __init__(self, source: Source, progress: Progress) -> None:
        self.outcomes: dict[Need, Outcome] = {}
        self._source = source
        self._progress = progress

    def fetch(self, need: Need, now: datetime) -> Endorsements:
        """As `Source`."""
        try:
            outcome = self._source.fetch(need, now)
        except KokonError as error:
            self._record(need, error)
            raise
        self._record(need, outcome)
        return outcome

    def _record(self, need: Need, outcome: Outcome) -> None:
        self.outcomes[need] = outcome
        self._progress(need, outcome)


def needs_of(wishes: Wishes) -> tuple[Need, ...]:
    """The needs that wishes come to. Raises `UsageError` (`endorsement-parameters`)."""
    needs = [need for line in wishes.products for need in amd_needs(line)]
    for text in wishes.chips:
        need = _chip(text)
        needs += [need, *amd_needs(product(need))]
    tees = wishes.tees or (TEES if wishes.fmspcs else ())
    if unknown := set(tees) - set(TEES):
        raise UsageError(
            "endorsement-parameters", "unknown kind of TEE", expected=", ".join(TEES), found=", ".join(sorted(unknown))
        )
    if tees:
        needs += intel_needs(tees, wishes.fmspcs)
    if not wishes.tees:
        needs = [
            Need(need.kind, need.parameters, required=False) if need.kind == "tcb-info" else need for need in needs
        ]
    for need in needs:
        if need.kind == "tcb-info":
            octets(need, "fmspc", 6)
        elif need.kind.startswith("amd"):
            product(need)
    return tuple(dict.fromkeys(needs))


def gather(
    evidence: Sequence[Evidence],
    wishes: Wishes,
    endorsements: Endorsements,
    now: datetime,
    source: Source,
    progress: Progress,
) -> Gathered:
    """All that `evidence` lacks beside `endorsements`, and all that `wishes` name, from `source`.

    Whether the evidence holds is not the question here. Raises `UsageError` (`endorsement-parameters`) and
    `MalformedError` for evidence that does not parse.
    """
    recorder = _Recorder(source, progress)
    wanted = needs_of(wishes)
    pool = endorsements
    for one in evidence:
        claims, pool = resolve(one, pool, now, recorder)
        still = set(claims.needs)
        for need in [need for need in recorder.outcomes if need.kind == "vcek" and need not in still]:
            # An old report does not say its product line: that one line does not know the chip is no loss.
            if isinstance(recorder.outcomes[need], KokonError):
                del recorder.outcomes[need]
    for outcome in fetch_all(recorder, wanted, now).values():
        if isinstance(outcome, Endorsements):
            pool |= outcome
    return Gathered(pool, recorder.outcomes)


def _chip(text: str) -> Need:
    line, _, rest = text.partition(":")
    identity, _, components = rest.partition(":")
    pairs = [component.partition("=") for component in components.split(",")]
    known = all(name in COMPONENTS and separator and value.isdigit() for name, separator, value in pairs)
    if not known or len({name for name, _, _ in pairs}) != len(pairs):
        raise UsageError(
            "endorsement-parameters",
            "not a chip and its TCB",
            expected="PRODUCT:CHIP-ID:bootloader=N,tee=N,snp=N,microcode=N[,fmc=N]",
            found=text[:300],
        )
    need = vcek_need(line, identity, {name: int(value[:4]) for name, _, value in pairs})
    chip(need)
    return need


def _fmspc(need: Need) -> str:
    return dict(need.parameters).get("fmspc", "") if need.kind == "tcb-info" else ""
