"""The pool of connections, without connections: deadlines, order, who makes place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.provisioning.web.pool import NOTES, ConnectionLimits, Pool, Wait

LIMITS = ConnectionLimits(
    connections=3, handshakes=2, idle=2, bodies=2, idle_seconds=10, head_seconds=5, body_seconds=7, close_seconds=1
)


class Fake:
    def __init__(self) -> None:
        self.wait = Wait.NOTHING
        self.ended = False
        self.asked = 0

    def overdue(self) -> None:
        self.asked += 1

    def abort(self) -> None:
        self.ended = True


def crowd(pool: Pool, *waits: Wait) -> list[Fake]:
    peers = [Fake() for _ in waits]
    for number, (peer, wait) in enumerate(zip(peers, waits, strict=True)):
        assert pool.admit(peer, Wait.NOTHING, number)
        pool.move(peer, wait, number)
    return peers


@pytest.mark.parametrize(
    ("wait", "seconds", "note"),
    [
        (Wait.HANDSHAKE, 10, "handshake-failed"),
        (Wait.IDLE, 10, "idle-timeout"),
        (Wait.HEAD, 5, "head-timeout"),
        (Wait.BODY, 7, "body-timeout"),
        (Wait.STALL, 30, "stalled"),
        (Wait.CLOSE, 1, "close-timeout"),
    ],
)
def test_each_wait_has_its_time(wait: Wait, seconds: float, note: str) -> None:
    notes: list[str] = []
    pool = Pool(LIMITS, notes.append)
    (peer,) = crowd(pool, wait)
    pool.sweep(seconds - 0.01)
    assert (peer.ended, peer.asked, notes) == (False, 0, [])
    pool.sweep(seconds)
    assert (peer.ended, peer.asked, notes) == (True, 1, [note])
    assert note in NOTES
    assert (pool.size, pool.waiting(wait), pool.holds(peer)) == (0, 0, False)


@pytest.mark.parametrize("wait", [Wait.HANDSHAKE, Wait.IDLE, Wait.BODY])
def test_of_too_many_the_oldest_makes_place(wait: Wait) -> None:
    pool = Pool(LIMITS)
    peers = [Fake() for _ in range(3)]
    for now, peer in enumerate(peers):
        assert pool.admit(peer, wait, now)
    assert [peer.ended for peer in peers] == [True, False, False]
    assert pool.size == 2


def test_who_is_being_answered_has_all_the_time() -> None:
    pool = Pool(LIMITS)
    (peer,) = crowd(pool, Wait.NOTHING)
    pool.sweep(1e9)
    assert not peer.ended


def test_a_peer_that_moves_on_when_told_is_not_aborted() -> None:
    pool = Pool(LIMITS)

    class Polite(Fake):
        def overdue(self) -> None:
            pool.move(self, Wait.CLOSE, 10)

    peer = Polite()
    pool.admit(peer, Wait.IDLE, 0)
    pool.sweep(10)
    assert (peer.ended, peer.wait) == (False, Wait.CLOSE)
    pool.sweep(11)
    assert peer.ended


def test_who_makes_place() -> None:
    order = (Wait.CLOSE, Wait.IDLE, Wait.HANDSHAKE, Wait.HEAD, Wait.BODY, Wait.STALL)
    notes: list[str] = []
    pool = Pool(ConnectionLimits(connections=7), notes.append)
    peers = dict(zip((*order, Wait.NOTHING), crowd(pool, *reversed((Wait.NOTHING, *reversed(order)))), strict=True))
    for wait in order:
        assert pool.crowd_out()
        assert peers[wait].ended, wait
    assert not pool.crowd_out()
    assert (pool.size, notes) == (1, ["crowded-out"] * 6)


def test_one_too_many_is_refused_only_if_all_are_being_answered() -> None:
    notes: list[str] = []
    pool = Pool(LIMITS, notes.append)
    busy = crowd(pool, *[Wait.NOTHING] * 3)
    late = Fake()
    assert not pool.admit(late, Wait.IDLE, 4)
    assert notes == ["refused-full"]
    pool.move(busy[1], Wait.HEAD, 5)
    assert pool.admit(late, Wait.IDLE, 5)
    assert [peer.ended for peer in busy] == [False, True, False]


def test_who_has_left_does_not_come_back() -> None:
    pool = Pool(LIMITS)
    (peer,) = crowd(pool, Wait.IDLE)
    pool.leave(peer)
    pool.leave(peer)
    pool.move(peer, Wait.HEAD, 1)
    assert (pool.size, pool.waiting(Wait.HEAD)) == (0, 0)


@given(
    st.lists(st.tuples(st.sampled_from(["admit", "move", "leave", "sweep"]), st.sampled_from(Wait), st.integers(0, 9)))
)
def test_the_count_is_always_right(steps) -> None:
    pool = Pool(LIMITS)
    peers = [Fake() for _ in range(10)]
    for now, (step, wait, index) in enumerate(steps):
        peer = peers[index]
        if step == "admit" and not pool.holds(peer):
            pool.admit(peer, wait, now)
        elif step == "move":
            pool.move(peer, wait, now)
        elif step == "leave":
            pool.leave(peer)
        else:
            pool.sweep(now)
        assert pool.size == sum(pool.holds(peer) for peer in peers) == sum(pool.waiting(wait) for wait in Wait)
        assert pool.size <= LIMITS.connections
        assert pool.waiting(Wait.IDLE) <= LIMITS.idle
        assert pool.waiting(Wait.HANDSHAKE) <= LIMITS.handshakes
