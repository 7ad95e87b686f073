"""From a log to registers, and the reasons when they differ."""

from collections.abc import Mapping

import pytest
from eventlog_kit import IPL, SEPARATOR, agile, extended, old

from kokon.errors import MalformedError
from kokon.tee.eventlog.log import EventLog, parse_event_log
from kokon.tee.eventlog.replay import replay, replay_check
from kokon.tee.evidence import Check

ZERO = bytes(4)
NAMES = {index: f"pcr{index}" for index in range(24)}
EVENTS = (0, 8, b"v\0"), (4, IPL, b"a"), (4, IPL, b"b"), (4, IPL, b"c"), (0, SEPARATOR, ZERO)
ALL = ("sha1", "sha256", "sha384", "sha512")


def checks(
    log: EventLog, registers: Mapping[int, bytes], algorithm: str = "sha256", names: Mapping[int, str] = NAMES
) -> list[Check]:
    return list(replay_check(log, algorithm, registers, names))


@pytest.mark.parametrize("name", ALL)
def test_registers_of_every_algorithm(name: str) -> None:
    log = parse_event_log(agile(*EVENTS, names=ALL))
    found = replay(log, name)
    assert found == {0: extended(name, b"v\0", ZERO), 4: extended(name, b"a", b"b", b"c")}
    assert [(check.name, check.outcome) for check in checks(log, found, name)] == [
        ("event log: pcr0", "passed"),
        ("event log: pcr4", "passed"),
    ]


def test_the_old_form_is_sha1() -> None:
    log = parse_event_log(b"".join(old(*event) for event in EVENTS))
    assert replay(log, "sha1")[4] == extended("sha1", b"a", b"b", b"c")


def test_remarks_are_never_extended() -> None:
    log = parse_event_log(agile((4, 3, b"remark"), (4, IPL, b"a")))
    assert replay(log, "sha256") == {4: extended("sha256", b"a")}


def test_pcr_0_begins_with_the_locality() -> None:
    log = parse_event_log(agile((0, 3, b"StartupLocality\0\3"), *EVENTS))
    start = bytes(31) + b"\3"
    assert replay(log, "sha256")[0] == extended("sha256", b"v\0", ZERO, start=start)
    assert replay(log, "sha256")[4] == extended("sha256", b"a", b"b", b"c")
    only = parse_event_log(agile((0, 3, b"StartupLocality\0\3")))
    assert checks(only, {0: start})[0].outcome == "passed"


@pytest.mark.parametrize("name", ["sha384", "sm3", "md5"])
def test_an_algorithm_without_digests(name: str) -> None:
    log = parse_event_log(agile(*EVENTS))
    with pytest.raises(MalformedError) as caught:
        replay(log, name)
    assert caught.value.code == "event-log-algorithm"
    (check,) = checks(log, {4: bytes(48)}, name)
    assert (check.outcome, check.code) == ("not-checked", "event-log-algorithm")


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (bytes(32), "nothing was ever measured into it"),
        (extended("sha256", b"a"), "stops before event 3 (EV_IPL: b)"),
        (extended("sha256", b"a", b"b"), "stops before event 4 (EV_IPL: c)"),
        (extended("sha256", b"a", b"c"), "without event 3 (EV_IPL: b) it would match"),
        (extended("sha256", b"b", b"c"), "without event 2 (EV_IPL: a) it would match"),
        (extended("sha256", b"a", b"b", b"c", b"d"), "does not show which"),
        (b"\x42" * 32, "does not show which"),
    ],
)
def test_where_log_and_register_part(value: bytes, hint: str) -> None:
    found = checks(parse_event_log(agile(*EVENTS)), {4: value})[0]
    assert (found.name, found.outcome, found.code) == ("event log: pcr4", "failed", "event-log-mismatch")
    assert found.expected == value.hex()
    assert found.found == extended("sha256", b"a", b"b", b"c").hex()
    assert hint in (found.hint or "")


def test_long_registers_are_not_searched() -> None:
    log = parse_event_log(agile(*((4, IPL, b"a") for _ in range(300))))
    found = checks(log, {4: b"\x42" * 32})[0]
    assert "does not show which" in (found.hint or "")


def test_registers_that_the_log_does_not_know() -> None:
    log = parse_event_log(agile(*EVENTS))
    registers = replay(log, "sha256") | {10: b"\x17" * 32, 11: bytes(32), 17: b"\xff" * 32}
    found = {check.name: check for check in checks(log, registers)}
    assert found["event log: pcr11"].outcome == found["event log: pcr17"].outcome == "passed"
    assert found["event log: pcr10"].code == "event-log-silent"
    assert found["event log: pcr10"].outcome == "not-checked"


def test_registers_that_nobody_signed() -> None:
    log = parse_event_log(agile(*EVENTS))
    last = checks(log, {4: replay(log, "sha256")[4]}, names={4: "pcr4"})[-1]
    assert (last.outcome, last.code, last.found) == ("not-checked", "event-log-unproven", "0")
