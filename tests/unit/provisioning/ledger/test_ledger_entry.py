"""Log entries: one form for one meaning."""

import functools
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_kit import NOW, refused

from kokon.provisioning.ledger.entry import ENTRY_LIMIT, Entry, make_entry, parse_entry

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc-", max_size=4), inner, max_size=3),
    max_leaves=8,
)
details = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=8), values, max_size=5)


@given(
    details,
    st.datetimes(datetime(1970, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.sampled_from(["", "clinic"]),
)
def test_what_is_written_is_read(members: dict[str, object], time: datetime, project: str) -> None:
    data = make_entry(project, time, "release", members)
    exact = time.replace(microsecond=time.microsecond // 1000 * 1000)
    assert parse_entry(data) == Entry(exact, "release", project, members)
    assert b"\n" not in data, "an entry is one line"


def test_the_bytes_of_an_entry() -> None:
    east = NOW.astimezone(timezone(timedelta(hours=5)))
    assert make_entry("clinic", east, "release", {"path": "db/key", "b": "é\n"}) == (
        '{"b":"é\\n","event":"release","path":"db/key","project":"clinic","time":"2026-12-01T08:00:00.000Z"}'.encode()
    )


@pytest.mark.parametrize("name", ["time", "event", "project"])
def test_an_event_cannot_set_what_is_the_logs(name: str) -> None:
    with refused("log-entry-malformed"):
        make_entry("clinic", NOW, "release", {name: "x"})


def test_a_time_without_a_zone() -> None:
    with refused("log-entry-malformed"):
        make_entry("clinic", NOW.replace(tzinfo=None), "release", {})


@pytest.mark.parametrize(
    ("event", "members", "code"),
    [
        ("e" * 65, {}, "log-entry-malformed"),
        ("release", {"x": "\ud800"}, "log-entry-malformed"),
        ("release", {"x": 1.5}, "json-not-canonical"),
        ("release", {"é": 1}, "json-not-canonical"),
        ("release", {"x": functools.reduce(lambda inner, _: [inner], range(40), "deep")}, "json-malformed"),
    ],
)
def test_nothing_is_written_that_could_not_be_read(event: str, members: dict[str, object], code: str) -> None:
    with refused(code):
        make_entry("clinic", NOW, event, members)


def test_the_longest_entry() -> None:
    room = ENTRY_LIMIT - len(make_entry("clinic", NOW, "release", {"x": ""}))
    data = make_entry("clinic", NOW, "release", {"x": "x" * room})
    assert len(data) == 65535
    assert parse_entry(data).details == {"x": "x" * room}
    with refused("log-entry-malformed"):
        make_entry("clinic", NOW, "release", {"x": "x" * (room + 1)})
    with refused("log-entry-malformed"):
        parse_entry(data.replace(b"xx", b"xxx", 1))


GOOD = make_entry("clinic", NOW, "release", {"n": 1})


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (GOOD.replace(b",", b", "), "log-entry-malformed"),
        (GOOD.replace(b'"clinic"', b'"\\u0063linic"'), "log-entry-malformed"),
        (b'{"z":1,' + GOOD[1:], "log-entry-malformed"),
        (GOOD.replace(b".000Z", b"Z"), "log-entry-malformed"),
        (GOOD.replace(b".000Z", b"+00:00"), "log-entry-malformed"),
        (GOOD.replace(b"2026-12-01", b"2026-13-01"), "log-entry-malformed"),
        (GOOD.replace(b"2026-12-01T08", b"2026-12-01 08"), "log-entry-malformed"),
        (GOOD.replace(b":1,", b":1.5,"), "json-not-canonical"),
        (GOOD.replace(b'"n":1', b'"n":1,"n":1'), "json-malformed"),
        (GOOD + b"{}", "json-malformed"),
        (b"[]", "field-type"),
        (b"{}", "field-missing"),
        (GOOD.replace(b'"project":"clinic",', b""), "field-missing"),
        (GOOD.replace(b'"clinic"', b"7"), "field-type"),
    ],
)
def test_bytes_that_are_no_entry(data: bytes, code: str) -> None:
    with refused(code):
        parse_entry(data)
