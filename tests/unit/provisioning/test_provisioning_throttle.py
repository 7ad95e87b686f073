"""What the log keeps of many refusals alike."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from kokon.provisioning.throttle import BURST, REFILL, Suppressed, Throttle

NOW = datetime(2026, 5, 1, tzinfo=UTC)
EVENT, CODE = "attestation-denied", "nonce-used"


def test_a_burst_then_one_per_interval_and_the_rest_is_counted() -> None:
    throttle = Throttle()
    assert [throttle.admit(EVENT, CODE, NOW) for _ in range(BURST + 3)] == [True] * BURST + [False] * 3
    assert throttle.admit(EVENT, "session-unknown", NOW)
    assert throttle.drain(EVENT, "session-unknown") == []
    later = NOW + REFILL
    assert throttle.admit(EVENT, CODE, later)
    assert not throttle.admit(EVENT, CODE, later)
    assert throttle.drain(EVENT, CODE) == [Suppressed(EVENT, CODE, 4, NOW)]
    assert throttle.drain() == []


def test_a_clock_that_goes_back_gives_nothing() -> None:
    throttle = Throttle(burst=1)
    assert throttle.admit(EVENT, CODE, NOW)
    assert not throttle.admit(EVENT, CODE, NOW - timedelta(days=1))


@given(st.lists(st.integers(0, 600), max_size=200))
def test_property_each_is_written_or_counted_and_the_rate_holds(pauses: list[int]) -> None:
    throttle, now, written = Throttle(burst=5), NOW, 0
    for pause in pauses:
        now += timedelta(seconds=pause)
        written += throttle.admit(EVENT, CODE, now)
    assert written + sum(one.count for one in throttle.drain()) == len(pauses)
    assert written <= 5 + (now - NOW) / REFILL + 1e-6
