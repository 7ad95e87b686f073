from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kokon.errors import KokonError, MalformedError, UntrustedError
from kokon.provisioning.log import GENESIS, Head, make_entry, parse_entry, verify_chain

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def chain(count: int) -> tuple[list[bytes], Head]:
    head, entries = Head(), []
    for number in range(count):
        data, head = make_entry(head, NOW, "test", {"number": number})
        entries.append(data)
    return entries, head


def test_chain_verifies_from_any_point() -> None:
    entries, head = chain(5)
    assert verify_chain(entries) == head
    assert parse_entry(entries[0]).previous == GENESIS
    middle = verify_chain(entries[:2])
    assert verify_chain(entries[2:], middle) == head
    assert verify_chain([]) == Head()


@pytest.mark.parametrize("position", [0, 2, 4])
def test_removed_changed_or_swapped_entries_break_the_chain(position: int) -> None:
    entries, _ = chain(6)
    without = entries[:position] + entries[position + 1 :]
    changed = [*entries]
    changed[position] = entries[position].replace(b'"test"', b'"best"')
    swapped = [*entries]
    swapped[position], swapped[position + 1] = swapped[position + 1], swapped[position]
    for bad in (without, changed, swapped):
        with pytest.raises(UntrustedError) as caught:
            verify_chain(bad)
        assert caught.value.code == "log-broken"


def test_entries_that_cannot_be() -> None:
    for details in ({"sequence": 7}, {"text": "x" * 70000}):
        with pytest.raises(MalformedError) as caught:
            make_entry(Head(), NOW, "test", details)
        assert caught.value.code == "log-entry-malformed"
    good, _ = make_entry(Head(), NOW, "test", {})
    for time in (b"2026-05-01T00:00:00.000", b"yesterday"):
        with pytest.raises(MalformedError) as caught:
            parse_entry(good.replace(b"2026-05-01T00:00:00.000+00:00", time))
        assert caught.value.code == "log-entry-malformed"


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.text("abcdef", max_size=8), st.one_of(st.text(max_size=30), st.integers(0, 9), st.booleans()))
)
def test_property_entries_survive(details: dict[str, object]) -> None:
    try:
        data, head = make_entry(Head(), NOW, "test", details)
    except (MalformedError, UnicodeEncodeError):
        return
    entry = parse_entry(data)
    assert dict(entry.details) == details
    assert verify_chain([data]) == head


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=120))
def test_property_hostile_entries(data: bytes) -> None:
    with pytest.raises(KokonError):
        parse_entry(data)
