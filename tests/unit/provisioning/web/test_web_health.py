"""Alive, ready, and what is told to whom."""

from __future__ import annotations

import json

from kokon.errors import HostError
from kokon.provisioning.web.health import CACHE_SECONDS, Readiness, alive, ready


def fails() -> None:
    raise HostError("disk-full", "no space in /secret/place")


def bug() -> None:
    raise RuntimeError("password=hunter2")


def test_alive() -> None:
    assert (alive().status, alive().body) == (200, b"")


def test_ready_if_all_checks_pass() -> None:
    health = ready({"database": lambda: None, "key": lambda: None})
    assert health.status == 200
    assert json.loads(health.body) == {"ready": True, "checks": {"database": "ok", "key": "ok"}}
    assert health.failures == {}


def test_not_ready_says_which_check_failed_and_keeps_why_for_the_log() -> None:
    health = ready({"database": fails, "engine": bug, "key": lambda: None})
    assert health.status == 503
    assert json.loads(health.body) == {
        "ready": False,
        "checks": {"database": "failed", "engine": "failed", "key": "ok"},
    }
    assert health.failures == {"database": "disk-full", "engine": "RuntimeError"}


def test_checks_are_made_once_a_second_however_often_one_asks() -> None:
    count = 0

    def check() -> None:
        nonlocal count
        count += 1
        if count > 1:
            fails()

    readiness = Readiness({"database": check})
    assert [readiness(10.0).status, readiness(10.0 + CACHE_SECONDS / 2).status, count] == [200, 200, 1]
    assert [readiness(10.0 + CACHE_SECONDS).status, count] == [503, 2]
    assert [readiness(5.0).status, count] == [503, 3]  # a clock that went back keeps nothing


def test_a_server_that_ends_is_not_ready() -> None:
    readiness = Readiness({"database": lambda: None})
    assert readiness(0.0).status == 200
    readiness.ending = True
    assert readiness(0.0).status == 503


def test_what_fails_is_told_once_until_it_changes() -> None:
    told: list[dict[str, str]] = []
    broken = False

    def check() -> None:
        if broken:
            fails()

    readiness = Readiness({"database": check}, lambda failures: told.append(dict(failures)))
    for now in (0.0, 10.0):
        readiness(now)
    assert told == []
    broken = True
    for now in (20.0, 30.0):
        readiness(now)
    broken = False
    for now in (40.0, 50.0):
        readiness(now)
    assert told == [{"database": "disk-full"}, {}]
