"""Reading event logs in both forms, and refusing what is none."""

import struct

import pytest
from eventlog_kit import IPL, SEPARATOR, agile, new, old, spec_id
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.tee.eventlog.log import EVENTS_LIMIT, LOG_LIMIT, looks_like_event_log, parse_event_log

ZERO = bytes(4)
LOCALITY = b"StartupLocality\0"


def refused(data: bytes) -> str:
    with pytest.raises(MalformedError) as caught:
        parse_event_log(data)
    assert caught.value.code == "event-log-malformed"
    return str(caught.value)


def test_both_forms() -> None:
    log = parse_event_log(old(0, SEPARATOR, ZERO) + old(4, IPL, b"x"))
    assert log.algorithms == ("sha1",)
    assert [(event.index, event.register, event.type, event.data) for event in log.events] == [
        (0, 0, 4, ZERO),
        (1, 4, 13, b"x"),
    ]
    log = parse_event_log(agile((0, SEPARATOR, ZERO), (14, IPL, b"MokList"), names=("sha1", "sha384")))
    assert log.algorithms == ("sha1", "sha384")
    assert [event.extended for event in log.events] == [False, True, True]
    assert {name: len(value) for name, value in log.events[1].digests.items()} == {"sha1": 20, "sha384": 48}


@pytest.mark.parametrize("filling", [b"", b"\0", b"\xff", bytes(4096), b"\xff" * 4096, bytes(7)])
def test_filling_ends_a_log(filling: bytes) -> None:
    plain = agile((1, SEPARATOR, ZERO))
    assert parse_event_log(plain + filling) == parse_event_log(plain)
    plain = old(1, SEPARATOR, ZERO)
    assert parse_event_log(plain + filling) == parse_event_log(plain)


def test_an_event_of_zeros_is_no_filling() -> None:
    log = parse_event_log(agile((0, 0, b""), (1, SEPARATOR, ZERO)))
    assert [event.type_name for event in log.events] == ["EV_NO_ACTION", "EV_PREBOOT_CERT", "EV_SEPARATOR"]


def test_bytes_after_filling_are_refused() -> None:
    for filling in (b"\xff" * 40, bytes(40)):
        refused(agile((1, SEPARATOR, ZERO)) + filling + b"\x01")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (bytes(100), "empty"),
        (b"\xff" * 100, "empty"),
        (bytes(LOG_LIMIT + 1), "too large"),
        (agile((32, SEPARATOR, ZERO)), "no such register"),
        (agile((0xFFFFFFFF, SEPARATOR, ZERO)) + b"\1", "no such register"),
        (old(40, SEPARATOR, ZERO), "no such register"),
        (spec_id(("sha256",)) + new(0, 4, ZERO, names=("sha256", "sha1")), "too few or too many"),
        (spec_id(("sha256",)) + new(0, 4, ZERO, names=()), "too few or too many"),
        (spec_id(("sha256",)) + new(0, 4, ZERO, names=("sha1",)), "unannounced"),
        (spec_id(("sha256", "sha1")) + new(0, 4, ZERO, names=("sha256", "sha256")), "twice"),
        (agile((0, SEPARATOR, ZERO))[:-1], "beyond its end"),
        (agile((0, SEPARATOR, ZERO))[:-6], "ends within"),
        (agile() + struct.pack("<III", 0, 4, 1), "ends within"),
        (spec_id(()), "unlikely number"),
        (spec_id(("sha256",) * 9), "unlikely number"),
        (spec_id(("sha256",) * 2), "unknown, named twice"),
        (spec_id(("sha256",)).replace(struct.pack("<HH", 11, 32), struct.pack("<HH", 11, 20)), "wrong size"),
        (spec_id(("sha256",)).replace(struct.pack("<HH", 11, 32), struct.pack("<HH", 99, 32)), "unknown"),
        (spec_id(("sha256",))[:-1] + b"\1", "first event has a wrong size"),
        (old(0, IPL, b"") * (EVENTS_LIMIT + 1), "too many events"),
        (agile() + new(0, 0x80000001, b"", names=("sha1",)) * (EVENTS_LIMIT + 1), "unannounced"),
        (spec_id(("sha1",)) + new(0, IPL, b"", names=("sha1",)) * (EVENTS_LIMIT + 1), "too many events"),
    ],
)
def test_what_is_refused(data: bytes, words: str) -> None:
    assert words in refused(data)


def test_a_remark_may_concern_no_register() -> None:
    log = parse_event_log(agile((0xFFFFFFFF, 3, b"SP800-155 Event3"), (0, SEPARATOR, ZERO)))
    assert not log.events[1].extended


def test_startup_locality() -> None:
    events = (0, 3, LOCALITY + b"\3"), (0, SEPARATOR, ZERO)
    assert parse_event_log(agile(*events)).locality == 3
    assert parse_event_log(agile(*events[1:])).locality == 0
    for wrong in (
        (events[1], events[0]),
        (events[0], *events),
        ((0, 3, LOCALITY + b"\5"), events[1]),
        ((0, 3, LOCALITY), events[1]),
        ((0, 3, LOCALITY + b"\3\0"), events[1]),
    ):
        assert "StartupLocality" in refused(agile(*wrong))


def test_what_looks_like_a_log() -> None:
    assert looks_like_event_log(agile((0, SEPARATOR, ZERO)))
    assert looks_like_event_log(agile((0, SEPARATOR, ZERO))[:60])
    assert looks_like_event_log(old(0, SEPARATOR, ZERO))
    for other in (b"", b"{}", bytes(1184), old(0, 0x99, ZERO), old(0, 4, ZERO) + old(0, 0x99, ZERO), b"\4\0\2\0" * 99):
        assert not looks_like_event_log(other)
    assert not looks_like_event_log(old(0, SEPARATOR, ZERO)[:-1])


EVENTS = st.lists(
    st.tuples(st.integers(0, 23), st.sampled_from([1, 4, 8, 13, 0x80000001, 0x80000003]), st.binary(max_size=60)),
    min_size=1,
    max_size=6,
)
NAMES = st.sampled_from([("sha256",), ("sha1", "sha256"), ("sha384",), ("sha1", "sha256", "sha384", "sha512")])


@given(EVENTS, NAMES)
def test_what_was_written_is_read(events: list[tuple[int, int, bytes]], names: tuple[str, ...]) -> None:
    log = parse_event_log(agile(*events, names=names))
    assert log.algorithms == names
    assert [(event.register, event.type, event.data) for event in log.events[1:]] == events
    log = parse_event_log(b"".join(old(*event) for event in events) or b"")
    assert [(event.register, event.type, event.data) for event in log.events] == events


@given(st.binary(max_size=400), st.booleans())
def test_arbitrary_bytes_raise_nothing_else(data: bytes, headed: bool) -> None:
    try:
        log = parse_event_log(spec_id(("sha256",)) + data if headed else data)
    except MalformedError:
        return
    for event in log.events:
        assert event.description


@given(st.data())
def test_changed_logs_raise_nothing_else(data: st.DataObject) -> None:
    log = bytearray(agile((0, 8, b"v\0"), (4, 0x80000003, bytes(40)), (5, 0x80000006, b"EFI PART" + bytes(92))))
    for _ in range(data.draw(st.integers(1, 3))):
        log[data.draw(st.integers(0, len(log) - 1))] = data.draw(st.integers(0, 255))
    try:
        events = parse_event_log(bytes(log)).events
    except MalformedError:
        return
    assert all(event.description for event in events)
