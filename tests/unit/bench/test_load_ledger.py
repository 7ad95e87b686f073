"""The promises can be broken: each kind of wrong log, and each kind of growth, is found."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from bench.load.crowd import Sample, growth
from bench.load.guest import source
from bench.load.scenarios import check_statuses, shown, wait_until
from bench.load.seen import BrokenPromise, Seen, _Ledger, _lines

ADMITTED = {"event": "workload-admitted", "workload": "w", "resources": ["a/b/c"]}
WITHDRAWN = {"event": "workload-withdrawn", "workload": "w"}
GRANTED = {"event": "attestation-granted", "workload": "w", "token": "t1"}
RELEASED = {"event": "resource-released", "workload": "w", "token": "t1", "resource": "a/b/c"}


def read(*entries: dict[str, Any]) -> _Ledger:
    ledger = _Ledger()
    for entry in entries:
        ledger.take(entry)
    return ledger


def test_a_right_log_is_right() -> None:
    ledger = read(ADMITTED, GRANTED, RELEASED, RELEASED, WITHDRAWN, ADMITTED, GRANTED | {"token": "t2"})
    assert not ledger.broken
    assert ledger.released == {("t1", "a/b/c"): 2}
    assert ledger.most["w"] == 1
    assert ledger.granted == {"t1": "w", "t2": "w"}


@pytest.mark.parametrize(
    "entries",
    [
        (GRANTED,),
        (ADMITTED, RELEASED),
        (ADMITTED, RELEASED, GRANTED),
        (ADMITTED, GRANTED, WITHDRAWN, RELEASED),
        (ADMITTED, GRANTED, GRANTED),
        (ADMITTED, GRANTED, RELEASED | {"resource": "a/b/d"}),
        (ADMITTED, ADMITTED | {"workload": "x"}, GRANTED, RELEASED | {"workload": "x"}),
    ],
    ids=["not admitted", "not granted", "too early", "withdrawn", "same token", "another secret", "another workload"],
)
def test_a_wrong_log_is_found(entries: tuple[dict[str, Any], ...]) -> None:
    assert read(*entries).broken


def test_activations_are_counted_from_one_withdrawal_to_the_next() -> None:
    grants = [GRANTED | {"token": f"t{number}"} for number in range(5)]
    assert read(ADMITTED, *grants[:3], ADMITTED, grants[3]).most["w"] == 4
    assert read(ADMITTED, *grants[:3], WITHDRAWN, ADMITTED, grants[3]).most["w"] == 3


def test_growth_is_that_of_the_replica_that_grew_most() -> None:
    samples = [Sample(number, 0.0, (100 << 20, (100 + number) << 20)) for number in range(1, 11)]
    assert growth(samples) == 8.0
    assert growth(samples[:1]) == 0.0


def test_a_status_that_nobody_expects_is_found() -> None:
    seen = Seen(statuses=Counter({200: 3, 403: 1}))
    check_statuses(seen, {200})
    seen.statuses[500] += 1
    with pytest.raises(BrokenPromise, match="200: 3, 403: 1, 500: 1"):
        check_statuses(seen, {200})
    assert shown(Counter()) == ""


def test_what_does_not_come_is_a_broken_promise() -> None:
    assert wait_until(lambda: True, 1) < 1
    with pytest.raises(BrokenPromise):
        wait_until(lambda: False, 0.01)


def test_quantiles_sources_and_lines() -> None:
    seen = Seen(seconds=[3.0, 1.0, 2.0])
    assert (seen.quantile(0), seen.quantile(0.5), seen.quantile(1)) == (1.0, 2.0, 3.0)
    assert Seen().quantile(0.99) == 0.0
    assert len({source(number) for number in range(0, 8_000_000, 1237)}) == len(range(0, 8_000_000, 1237))
    assert list(_lines(iter([b"a\nb", b"c\n", b"d"]))) == [b"a\n", b"bc\n", b"d"]
