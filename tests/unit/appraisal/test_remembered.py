"""Results that are remembered: for whom they hold, and when they must be made anew."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from appraisal_kit import KNOWN, NOW, REFERENCE, SNP

from kokon.appraisal.appraise import appraise
from kokon.appraisal.policy import Policy, ReferenceValues
from kokon.appraisal.remembered import ByIdentity, Remembered
from kokon.appraisal.result import AttestationResult
from kokon.tee.evidence import Claims, mark_alike

POLICY = Policy()
ALIKE = object()


def alike(claims: Claims = SNP, key: object = ALIKE, **changes: Any) -> Claims:
    return mark_alike(replace(claims, **changes), key)


class Subject:
    """Asks for results and counts how often one was made."""

    def __init__(self) -> None:
        self.remembered = Remembered()
        self.made = 0

    def ask(
        self, claims: Claims, reference: ReferenceValues = REFERENCE, policy: Policy = POLICY, now: Any = NOW
    ) -> AttestationResult:
        def make() -> AttestationResult:
            self.made += 1
            return appraise(claims, reference, policy, now)

        result = self.remembered.result(claims, (reference, policy), now, make)
        assert result == appraise(claims, reference, policy, now)
        return result


def test_one_result_for_all_that_are_alike() -> None:
    subject = Subject()
    one, two = alike(report_data=bytes(64)), alike(report_data=b"\1" * 64)
    assert subject.ask(one).claims is one
    assert subject.ask(two).claims is two
    assert subject.made == 1


def test_others_and_other_rules_are_judged_by_themselves() -> None:
    subject = Subject()
    subject.ask(alike())
    subject.ask(alike(key=object(), debug=True))
    subject.ask(alike(), policy=Policy())
    subject.ask(alike(), reference=replace(REFERENCE))
    subject.ask(SNP)
    subject.ask(SNP)
    assert subject.made == 6


@pytest.mark.parametrize("before", [timedelta(microseconds=1), timedelta(0)])
def test_reference_values_run_out(before: timedelta) -> None:
    subject = Subject()
    assert subject.ask(alike()).ok
    end = REFERENCE.not_after
    assert end is not None
    assert subject.ask(alike(), now=end - before).ok == bool(before)
    assert subject.made == (1 if before else 2)


def test_without_an_end_it_holds() -> None:
    subject, reference = Subject(), ReferenceValues((KNOWN,))
    for days in (0, 100_000):
        assert subject.ask(alike(), reference, now=NOW + timedelta(days=days)).ok
    assert subject.made == 1


def test_failures_are_looked_at_each_time() -> None:
    subject = Subject()
    for _ in range(2):
        assert not subject.ask(alike(measurement=bytes(range(1, 49)))).ok
    assert subject.made == 2
    assert len(subject.remembered) == 0


def test_what_is_asked_of_the_one_report_is_asked_each_time() -> None:
    subject, reference = Subject(), replace(REFERENCE, report_data=bytes(64))
    assert subject.ask(alike(report_data=bytes(64)), reference).ok
    assert not subject.ask(alike(report_data=b"\1" * 64), reference).ok
    assert len(subject.remembered) == 0


def test_memory_is_bounded_and_by_identity() -> None:
    kept: ByIdentity[int] = ByIdentity(limit=3)
    parts = [(object(), f"part {number}") for number in range(10)]
    for number, one in enumerate(parts):
        assert kept.put(one, number) == number
    assert len(kept) == 3
    assert [kept.get(one) for one in parts] == [None] * 7 + [7, 8, 9]
    assert kept.get((parts[9][0], f"part {len(parts) - 1}")) is None
