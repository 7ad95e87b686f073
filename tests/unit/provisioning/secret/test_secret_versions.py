"""Which versions stay and which one is released, for any history."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.errors import KokonError
from kokon.provisioning.secret.versions import choose, surplus

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Meta:
    version: int
    expires: datetime | None = None


ENDS = st.one_of(st.none(), st.integers(-2, 2).map(lambda seconds: NOW + timedelta(seconds=seconds)))
HISTORIES = st.dictionaries(st.integers(1, 12), ENDS, max_size=8).map(
    lambda kept: [Meta(version, kept[version]) for version in sorted(kept)]
)


@given(HISTORIES, st.one_of(st.none(), st.integers(1, 12)))
def test_what_is_released_is_kept_asked_for_and_good(kept: list[Meta], wanted: int | None) -> None:
    asked = [meta for meta in kept if wanted in (None, meta.version)]
    good = [meta.version for meta in asked if meta.expires is None or meta.expires > NOW]
    try:
        found: object = choose(kept, wanted, NOW, "a/b/c")
    except KokonError as error:
        found = error.code
    assert found == (max(good) if good else "secret-expired" if asked else "resource-unknown")


def test_a_version_that_expired_gives_way_to_no_other_if_it_was_asked_for() -> None:
    kept = [Meta(1), Meta(2, NOW)]
    assert choose(kept, None, NOW, "a/b/c") == 1
    with pytest.raises(KokonError) as caught:
        choose(kept, 2, NOW, "a/b/c")
    assert (caught.value.code, caught.value.expected) == ("secret-expired", f"before {NOW.isoformat()}")
    assert choose(kept, 2, NOW - timedelta(microseconds=1), "a/b/c") == 2


def test_who_asks_for_nothing_is_told_what() -> None:
    with pytest.raises(KokonError) as caught:
        choose([Meta(1)], 7, NOW, "clinic/secret/db")
    assert (caught.value.code, caught.value.found) == ("resource-unknown", "clinic/secret/db version 7")


@given(HISTORIES, st.one_of(st.none(), st.integers(1, 1000)))
def test_the_oldest_go_and_no_more_than_must(kept: list[Meta], keep: int | None) -> None:
    numbers = [meta.version for meta in kept]
    gone = list(surplus(kept, keep))
    left = [number for number in numbers if number not in gone]
    assert [*gone, *left] == numbers
    assert len(left) + 1 == min(len(numbers) + 1, keep or len(numbers) + 1)
