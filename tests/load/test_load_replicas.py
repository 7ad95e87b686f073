"""Three replicas on one PostgreSQL: a crowd, replicas killed under load, the database killed under load."""

from __future__ import annotations

from bench.load.scenarios import Stage, crowd, database_killed, replica_killed


def test_a_crowd_is_served_and_memory_stays(on: Stage) -> None:
    crowd(on, 60, 1200, print, allowed=12.0)


def test_replicas_are_killed_and_the_others_serve(on: Stage) -> None:
    replica_killed(on, 12, 4.0, print)


def test_the_database_is_killed_and_comes_back(on: Stage) -> None:
    database_killed(on, 12, 4.0, print)
