"""Versions: the specification's own order, what is refused, and that the order is one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.image.version import VERSION_LIMIT, is_before, parse_version

ORDERS = [
    # semver.org, 2.0.0: sections 9 and 11, and its list of precedence
    ["1.0.0", "2.0.0", "2.1.0", "2.1.1"],
    ["1.0.0-alpha", "1.0.0"],
    [
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc.1",
        "1.0.0",
    ],
    ["1.9.0", "1.10.0", "1.11.0"],
    ["1.4", "1.4.1", "1.10", "2"],
    ["1.4.0-rc.1", "1.4"],
    ["0.0.0-0", "0.0.0-1", "0.0.0-A", "0.0.0-a", "0.0.0"],
    ["1.0.0-9", "1.0.0-10", "1.0.0--", "1.0.0-10a"],
    ["1.0.0-a.b", "1.0.0-a.b.0", "1.0.0-a.b.0.0"],
    ["99999999999999999999998.0.0", "99999999999999999999999.0.0"],
]


@pytest.mark.parametrize("order", ORDERS)
def test_precedence(order: list[str]) -> None:
    for earlier, later in itertools.combinations(order, 2):
        assert is_before(earlier, later), (earlier, later)
        assert not is_before(later, earlier), (earlier, later)


@pytest.mark.parametrize(
    ("one", "other"),
    [("1.4", "1.4.0"), ("1", "1.0.0"), ("1.0.0+a", "1.0.0+b"), ("1.0.0-rc.1+x.y", "1.0.0-rc.1"), ("1.0.0+-", "1.0.0")],
)
def test_what_is_the_same(one: str, other: str) -> None:
    assert parse_version(one).precedence == parse_version(other).precedence
    assert str(parse_version(one)) == one


VALID = [
    # semver.org's own list for its regular expression
    *("0.0.4", "1.2.3", "10.20.30", "1.1.2-prerelease+meta", "1.1.2+meta", "1.1.2+meta-valid", "1.0.0-alpha"),
    *("1.0.0-alpha.beta", "1.0.0-alpha.1", "1.0.0-alpha0.valid", "1.0.0-alpha.0valid", "1.0.0-rc.1+build.1"),
    *("1.2.3-SNAPSHOT-123", "2.0.0+build.1848", "1.0.0-alpha+beta", "1.2.3----RC-SNAPSHOT.12.9.1--.12+788"),
    *("1.2.3----R-S.12.9.1--.12+meta", "1.0.0+0.build.1-rc.10000aaa-kk-0.1", "1.0.0-0A.is.legal"),
]
INVALID = [
    # the same, without those that lack numbers
    *("1.2.3-0123", "1.2.3-0123.0123", "1.1.2+.123", "+invalid", "-invalid", "-invalid+invalid", "-invalid.01"),
    *("alpha", "alpha.beta", "alpha+beta", "alpha_beta", "alpha.", "alpha..", "beta", "1.0.0-alpha_beta", "-alpha."),
    *("1.0.0-alpha..", "1.0.0-alpha..1", "1.0.0-alpha.......1", "01.1.1", "1.01.1", "1.1.01", "1.2.3.DEV"),
    *("1.2-SNAPSHOT", "1.2.31.2.3----RC-SNAPSHOT.12.09.1--..12+788", "1.2-RC-SNAPSHOT", "-1.0.3-gamma+b7718"),
    *("+justmeta", "9.8.7+meta+meta", "9.8.7-whatever+meta+meta", "99999999.999999999.999----RC.12.09.1--------..12"),
    # ours: what a hostile author might try
    *("", " ", "v1.4.2", "1.4.2\n", " 1.4.2", "1.4.2 ", "1.4.", ".1", "1..2", "1.2.3.4", "1_0.0.0", "+1.0.0", "1e3"),
    *(
        "٢.0.0",
        "1.0.0-٢",
        "１.0.0",
        "1.0.0-é",
        "1.0.0\x00",
        "1.0.0-",
        "1.0.0+",
        "0x1.0.0",
        "²",
        "1.0.0-²",
        "00",
        "01.4",
    ),
    *("1" * (VERSION_LIMIT + 1), "1.0.0-" + "a." * 5000 + "a", "1.0.0-" + "0" * 100_000, "1." * 100_000),
]


@pytest.mark.parametrize("text", VALID)
def test_versions_of_the_specification(text: str) -> None:
    assert parse_version(text).text == text


@pytest.mark.parametrize("text", INVALID, ids=lambda text: repr(text[:24]))
def test_refused(text: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_version(text)
    assert caught.value.code == "version-malformed"
    assert caught.value.found is not None
    assert len(caught.value.found) < 300


def test_the_longest() -> None:
    assert parse_version("1" * VERSION_LIMIT).precedence[0][0] == int("1" * VERSION_LIMIT)
    assert is_before("1.0.0-" + "9" * 121, "1.0.0-" + "a" * 121)


NUMBERS = st.integers(0, 10**9).map(str)
FIELDS = NUMBERS | st.from_regex(r"\A[0-9]{0,2}[A-Za-z-][0-9A-Za-z-]{0,3}\Z")
PRE = st.lists(FIELDS, max_size=3).map(lambda fields: "-" + ".".join(fields) if fields else "")
VERSIONS = st.builds(lambda a, b, c, pre: f"{a}.{b}.{c}{pre}", NUMBERS, NUMBERS, NUMBERS, PRE)


def reference(text: str, other: str) -> int:
    """Section 11 once more, point by point, without our code: below, equal or above."""
    halves = [text.partition("-"), other.partition("-")]
    numbers = [[int(number) for number in half[0].split(".")] for half in halves]
    for one, two in zip(*numbers, strict=True):
        if one != two:
            return -1 if one < two else 1
    fields = [half[2].split(".") if half[1] else [] for half in halves]
    if not fields[0] or not fields[1]:
        return (not fields[0]) - (not fields[1])
    for left, right in zip(*fields, strict=False):
        if left == right:
            continue
        if left.isdigit() and right.isdigit():
            return -1 if int(left) < int(right) else 1
        if left.isdigit() or right.isdigit():
            return -1 if left.isdigit() else 1
        return -1 if left.encode() < right.encode() else 1
    return (len(fields[0]) > len(fields[1])) - (len(fields[0]) < len(fields[1]))


@given(VERSIONS, VERSIONS)
def test_order_is_that_of_the_specification(one: str, other: str) -> None:
    expected = reference(one, other)
    assert is_before(one, other) == (expected < 0)
    assert is_before(other, one) == (expected > 0)


@given(st.text(max_size=40) | st.from_regex(r"[0-9.+a-z-]{0,40}"))
def test_property_read_or_refused(text: str) -> None:
    try:
        version = parse_version(text)
    except MalformedError:
        return
    assert version.text == text
    assert text.isascii()
    assert not is_before(text, text)
