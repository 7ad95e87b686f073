"""Hostile peers against one server, and a clock that is moved: the good guest is served, and nothing is left over."""

from __future__ import annotations

from bench.load.faults import clock_jumps
from bench.load.fleet import Fleet
from bench.load.hostile import huge_bodies, idle_connections, malformed_tls, one_address, slow_peers


def test_malformed_tls_is_nobodys_affair(alone: Fleet) -> None:
    malformed_tls(alone, 60)


def test_bodies_of_a_gigabyte_are_refused(alone: Fleet) -> None:
    huge_bodies(alone, 1 << 30)


def test_idle_connections_keep_nobody_out(alone: Fleet) -> None:
    idle_connections(alone, 600)


def test_one_address_is_limited_and_served(alone: Fleet) -> None:
    one_address(alone, 30, 4)


def test_slow_peers_are_cut_off(alone: Fleet) -> None:
    slow_peers(alone, 9, 60.0)


def test_a_clock_that_stops_or_jumps(alone: Fleet) -> None:
    clock_jumps(alone, print)
