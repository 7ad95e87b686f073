"""The log ring."""

import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.guest.agent import logs
from kokon.guest.agent.logs import Collector, LogRing


def test_output_is_kept_in_order() -> None:
    ring = LogRing()
    ring.append(b"one ")
    ring.append(b"two")
    assert b"".join(ring.read()) == b"one two"
    assert b"".join(ring.read()) == b"one two"


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=20), st.integers(1, 64))
def test_the_ring_keeps_the_newest_bytes(chunks: list[bytes], size: int) -> None:
    ring = LogRing(size)
    for chunk in chunks:
        ring.append(chunk)
    assert b"".join(ring.read()) == b"".join(chunks)[-size:]


def test_large_output_comes_in_pieces() -> None:
    ring = LogRing()
    ring.append(os.urandom(200_000))
    assert max(map(len, ring.read())) <= 64 << 10


def test_a_follower_gets_what_comes_until_the_end() -> None:
    ring = LogRing()
    ring.append(b"early ")
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.extend(ring.read(follow=True)))
    thread.start()
    time.sleep(0.05)
    ring.append(b"late")
    time.sleep(0.05)
    ring.close()
    thread.join(5)
    assert b"".join(got) == b"early late"


def test_a_follower_hears_that_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_HEARTBEAT", 0.01)
    ring = LogRing()
    assert next(ring.read(follow=True)) == b""


def test_both_pipes_are_collected_and_the_end_closes_the_ring() -> None:
    ring = LogRing()
    collector = Collector(ring)
    first, second = os.pipe(), os.pipe()
    collector.collect(first[0], second[0])
    os.write(first[1], b"out")
    os.close(first[1])
    os.write(second[1], b"err")
    os.close(second[1])
    collector.finish(5)
    assert sorted(b"".join(ring.read(follow=True))) == sorted(b"outerr")
