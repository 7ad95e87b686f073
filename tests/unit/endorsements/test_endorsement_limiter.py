"""The pace that processes keep together, and the locks between them."""

import multiprocessing
import threading
import time
from pathlib import Path

import pytest
from endorsement_kit import NOW, Clock

from kokon.endorsements.limiter import LONGEST, Limiter
from kokon.endorsements.locks import locked
from kokon.errors import UnreachableError


def limiter(path: Path, clock: Clock, interval: float = 10, **options: object) -> Limiter:
    return Limiter(path / "turn", interval, clock=clock, sleep=clock.sleep, **options)  # type: ignore[arg-type]


def test_the_first_goes_at_once_and_the_next_after_the_interval(tmp_path: Path, clock: Clock) -> None:
    waits: list[float] = []
    one = limiter(tmp_path, clock, waiting=waits.append)
    one.enter()
    assert clock.slept == []
    clock.now += 4
    one.enter()
    assert clock.slept == [6] == waits
    clock.now += 100
    one.enter()
    assert clock.slept == [6]


def test_another_limiter_of_the_same_file_knows(tmp_path: Path, clock: Clock) -> None:
    limiter(tmp_path, clock).enter()
    limiter(tmp_path, clock).enter()
    assert clock.slept == [10]


def test_turns_are_taken_before_they_are_waited_for(tmp_path: Path, clock: Clock) -> None:
    """Whoever comes while others wait gets a later turn, not the same one."""
    turns: list[float] = []
    one = Limiter(tmp_path / "turn", 10, clock=clock, sleep=turns.append)
    for _ in range(4):
        one.enter()
    assert turns == [10, 20, 30]


def test_short_waits_are_not_worth_a_word(tmp_path: Path, clock: Clock) -> None:
    waits: list[float] = []
    one = limiter(tmp_path, clock, 0.5, waiting=waits.append)
    one.enter()
    one.enter()
    assert clock.slept == [0.5]
    assert waits == []


def test_too_long_a_queue_is_not_joined(tmp_path: Path, clock: Clock) -> None:
    one = Limiter(tmp_path / "turn", 10, patience=25, clock=clock, sleep=lambda _seconds: None)
    for _ in range(3):
        one.enter()
    with pytest.raises(UnreachableError) as caught:
        one.enter()
    assert caught.value.code == "endorsement-rate-limited"
    clock.now += 10
    one.enter()


def test_a_refusal_holds_for_all_and_not_for_ever(tmp_path: Path, clock: Clock) -> None:
    limiter(tmp_path, clock).refused(30)
    limiter(tmp_path, clock).enter()
    assert clock.slept == [30]
    limiter(tmp_path, clock).refused(1_000_000)
    with pytest.raises(UnreachableError):
        limiter(tmp_path, clock).enter()
    clock.now += LONGEST
    limiter(tmp_path, clock).enter()
    assert clock.slept == [30]


def test_a_refusal_never_brings_turns_forward(tmp_path: Path, clock: Clock) -> None:
    one = limiter(tmp_path, clock)
    one.enter()
    one.refused(1)
    one.enter()
    assert clock.slept == [10]


@pytest.mark.parametrize("text", ["", "nan", "inf", "1e300", "garbage", "\udcff"])
def test_rubbish_in_the_file_is_no_obstacle(tmp_path: Path, clock: Clock, text: str) -> None:
    (tmp_path / "turn").write_bytes(text.encode("utf-8", "surrogateescape"))
    one = limiter(tmp_path, clock)
    one.enter()
    assert clock.slept == []
    one.enter()
    assert clock.slept == [10]


def test_a_clock_that_was_set_back_is_no_obstacle(tmp_path: Path, clock: Clock) -> None:
    limiter(tmp_path, clock).enter()
    clock.now -= 86400
    limiter(tmp_path, clock).enter()
    assert clock.slept == []


def test_without_a_directory_a_process_still_keeps_its_own_pace(tmp_path: Path, clock: Clock) -> None:
    one = limiter(tmp_path / "absent", clock)
    one.enter()
    one.enter()
    assert clock.slept == [10]


def take_turns(path: Path, count: int, turns: "multiprocessing.Queue[float]", start: "threading.Barrier") -> None:
    """Take turns as fast as possible on a clock that stands still: what one is told to sleep is the turn."""
    taken: list[float] = []
    one = Limiter(path / "turn", 1, patience=1e6, clock=lambda: 0.0, sleep=taken.append)
    start.wait(20)
    for _ in range(count):
        one.enter()
    for turn in taken:
        turns.put(turn)


def test_two_processes_never_get_one_turn(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    turns: multiprocessing.Queue[float] = context.Queue()
    start = context.Barrier(2)
    processes = [context.Process(target=take_turns, args=(tmp_path, 100, turns, start)) for _ in range(2)]
    for process in processes:
        process.start()
    found = sorted(turns.get(timeout=20) for _ in range(199))
    for process in processes:
        process.join(10)
        assert process.exitcode == 0
    assert found == list(range(1, 200)), "the very first went at once"


def test_a_lock_keeps_others_out_until_it_is_given_back(tmp_path: Path) -> None:
    order: list[str] = []

    def other() -> None:
        with locked(tmp_path / "lock", patience=5) as got:
            order.append(f"second {got}")

    with locked(tmp_path / "lock", patience=1) as got:
        assert got
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.06)
        order.append("first")
    thread.join()
    assert order == ["first", "second True"]


def test_patience_with_a_lock_ends(tmp_path: Path, clock: Clock) -> None:
    with (
        locked(tmp_path / "lock", patience=1),
        locked(tmp_path / "lock", patience=3, clock=clock, sleep=clock.sleep) as got,
    ):
        assert not got
    assert 3 <= clock.now - NOW.timestamp() < 3.1


def test_where_no_lock_can_be_made_there_is_none(tmp_path: Path) -> None:
    with locked(tmp_path / "absent" / "lock", patience=1) as got:
        assert not got
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with locked(tmp_path / "link", patience=1) as got:
        assert not got
    assert not (tmp_path / "target").exists()
