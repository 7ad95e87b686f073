"""Rows, heads and drafts as such, by properties."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from database_factory import Ring, put, sign
from hypothesis import given, settings
from hypothesis import strategies as st

from kokon.errors import KokonError, MalformedError, UntrustedError
from kokon.provisioning.database.batch import finish
from kokon.provisioning.database.catalogue import Named, Snapshot
from kokon.provisioning.database.draft import Draft, prepare, render, time_text
from kokon.provisioning.database.head import Head, HeadRow, Secret
from kokon.provisioning.database.sealing import (
    Row,
    digest,
    mark_gone,
    meta,
    micros,
    moment,
    row_of,
    seal,
    unseal,
)
from kokon.provisioning.database.state import State
from kokon.provisioning.database.values import Count, Delete, Entry, Expire, Key, Put, Work
from kokon.provisioning.ledger.entry import make_entry
from kokon.provisioning.ledger.merkle import Frontier, leaf_hash

RING = Ring()
TEXTS = st.text("abü/|\n0", max_size=4)
ROWS = st.builds(
    Row,
    st.builds(Key, TEXTS, TEXTS, TEXTS),
    st.integers(0, 3),
    st.integers(-1, 2),
    st.binary(max_size=3),
    st.binary(max_size=3),
    st.integers(-2, 2),
    st.none() | st.integers(-2, 2),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abtz\x7f", max_size=3), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=6).filter(
    lambda name: name not in ("time", "event", "project")
) | st.sampled_from(["tim", "timf", "time2", "timd~", "u", "", "TIME"])
NOW = datetime(2026, 11, 23, 10, 0, 0, 999999, tzinfo=UTC)


@given(ROWS, ROWS)
def test_two_rows_never_have_one_digest(one: Row, two: Row) -> None:
    assert (digest(one) == digest(two)) == (one == two)


@given(st.builds(Key, TEXTS, TEXTS, TEXTS), st.binary(max_size=40), st.integers(0, 9), st.none() | st.integers(-9, 9))
def test_a_row_opens_only_as_what_it_was_sealed_for(key: Key, value: bytes, version: int, expires: int | None) -> None:
    row = seal(RING, key, version, value, 5, expires)
    assert unseal(RING, row) == value
    changes: list[dict[str, Any]] = [
        {"key": replace(key, project=key.project + "x")},
        {"key": replace(key, kind=key.kind + "x")},
        {"key": Key(key.project + key.kind, "", key.name)} if key.kind else {"version": version + 2},
        {"key": Key(key.project, key.kind + key.name, "")} if key.name else {"version": version + 3},
        {"version": version + 1},
        {"created": 6},
        {"expires": 17},
        {"expires": -(2**62)},
        {"nonce": bytes(12)},
        {"nonce": b""},
        {"sealed": row.sealed[:-1]},
        {"sealed": b""},
        {"sealed": row.sealed + b"x"},
    ]
    for change in changes:
        with pytest.raises(UntrustedError) as caught:
            unseal(RING, replace(row, **change))
        assert caught.value.code == "store-tampered"


@pytest.mark.parametrize("column", range(8))
@pytest.mark.parametrize("value", [None, 1.5, "text", b"bytes", 2**63, -(2**63) - 1])
def test_a_column_of_a_wrong_kind_is_named_or_another_row(column: int, value: object) -> None:
    row = seal(RING, Key("p", "k", "n"), 1, b"v", 5, None)
    columns: list[Any] = ["k", "n", row.version, row.key_id, row.nonce, row.sealed, row.created, row.expires]
    columns[column] = value
    found = digest(row)
    with contextlib.suppress(UntrustedError):
        found = meta(row_of("p", columns)).digest
        assert found != digest(row) or (column, value) == (7, None)
    if value == 1.5:
        assert found == digest(row), "refused"


@given(st.datetimes(timezones=st.just(UTC)))
def test_times_are_kept_exactly(time: datetime) -> None:
    assert moment(micros(time)) == time


@given(st.dictionaries(NAMES, JSON, max_size=5), st.sampled_from(["a", "handshake", "zz"]))
def test_an_entry_is_rendered_as_the_ledger_makes_it(details: dict[str, Any], event: str) -> None:
    rendered = render("default", Entry(event, details))
    assert rendered.at(time_text(NOW)) == make_entry("default", NOW, event, details)


def test_the_time_is_cut_to_milliseconds() -> None:
    assert time_text(NOW) == b"2026-11-23T10:00:00.999Z"


def test_a_details_mapping_may_change_after_submitting() -> None:
    details = {"a": 1}
    job = prepare(Work("default", (Entry("e", details),)))
    details["a"] = 2
    assert json.loads(job.entries[0].at(time_text(NOW)))["a"] == 1


def _head() -> Head:
    secret = Secret.new(RING, "default")
    frontier = Frontier().append([leaf_hash(b"x")] * 3)
    return Head.make("default", 7, frontier, b"checkpoint", 2**256 + 5, secret)


def test_a_head_is_read_as_it_was_written() -> None:
    head = _head()
    row = HeadRow.of(head.columns())
    secret = row.secret(RING)
    assert secret == head.secret
    assert Head.verified(row, secret, 5) == head
    assert head.size == 3
    assert secret.value.hex() not in repr(head) + repr(row)
    assert repr(secret.value) not in repr(head) + repr(secret)


@pytest.mark.parametrize(
    "change",
    [
        {"project": "other"},
        {"size": 4},
        {"generation": 8},
        {"frontier": Frontier().append([leaf_hash(b"y")] * 3).encode()},
        {"checkpoint": b"checkpoint2"},
        {"checkpoint": b""},
        {"tag": bytes(32)},
        {"tag": b""},
    ],
)
def test_a_changed_head_does_not_verify(change: dict[str, Any]) -> None:
    head = _head()
    row = HeadRow.of(head.columns())
    assert Head.verified(replace(row, **change), head.secret, 5) is None
    assert Head.verified(row, head.secret, 6) is None
    assert Head.verified(row, Secret.new(RING, "default"), 5) is None


def test_a_head_that_contradicts_itself_is_refused() -> None:
    secret = Secret.new(RING, "default")
    for frontier, size in ((b"x", 3), (Frontier().append([leaf_hash(b"x")] * 3).encode(), 4)):
        fake: Any = SimpleNamespace(size=size, encode=lambda frontier=frontier: frontier)
        row = HeadRow.of(Head.make("default", 1, fake, b"", 0, secret).columns())
        with pytest.raises(UntrustedError) as caught:
            Head.verified(row, secret, 0)
        assert caught.value.code == "store-tampered"


def test_a_secret_opens_only_in_its_project() -> None:
    row = HeadRow.of(_head().columns())
    for change in ({"project": "other"}, {"nonce": b""}, {"wrapped": b""}, {"wrapped": bytes(48)}):
        with pytest.raises(UntrustedError):
            replace(row, **change).secret(RING)


def test_elements_of_the_total_are_apart() -> None:
    secret = Secret.new(RING, "default")
    assert len({secret.row(b"x"), secret.counter("x", 0), secret.project("x"), secret.counter("x", 1)}) == 4
    assert secret.total([b"x", b"y"], {}, []) == secret.total([b"y", b"x"], {}, [])
    assert secret.total([b"x", b"x"], {}, []) != secret.total([], {}, []), "not an exclusive or"
    assert secret.total([], {}, []) == 0


NAME = st.sampled_from(["a", "b"])
CHANGES = st.one_of(
    st.builds(Put, st.just("secret"), NAME, st.binary(max_size=2), st.none(), st.none() | st.integers(0, 3)),
    st.builds(Delete, st.just("secret"), NAME, st.none() | st.integers(1, 4)),
    st.builds(Expire, st.just("secret"), NAME, st.integers(1, 4)),
)
WORKS = st.builds(
    lambda changes, counts: Work("default", (Entry("e", {}),), tuple(changes), tuple(counts)),
    st.lists(CHANGES, max_size=3),
    st.lists(st.builds(Count, NAME, st.none() | st.integers(0, 3)), max_size=2),
)


class Model:
    """What a store of one project should hold: versions by name, the highest number of each, counters."""

    def __init__(self) -> None:
        self.values: dict[str, dict[int, bytes]] = {}
        self.highest: dict[str, int] = {}
        self.counters: dict[str, int] = {}

    def apply(self, work: Work) -> Model | None:
        after = Model()
        after.values = {name: dict(versions) for name, versions in self.values.items()}
        after.highest, after.counters = dict(self.highest), dict(self.counters)
        return after if all(map(after._change, work.changes)) and all(map(after._count, work.counts)) else None

    def _change(self, change: Put | Delete | Expire) -> bool:
        versions = self.values.setdefault(change.name, {})
        if isinstance(change, Put):
            if change.previous not in (None, max(versions, default=0)):
                return False
            self.highest[change.name] = self.highest.get(change.name, 0) + 1
            versions[self.highest[change.name]] = change.value
            return True
        removed = [version for version in versions if change.version in (None, version)]
        for version in removed:
            del versions[version]
        if isinstance(change, Expire) and not versions:
            self.highest.pop(change.name, None)
        return bool(removed)

    def _count(self, count: Count) -> bool:
        self.counters[count.name] = self.counters.get(count.name, 0) + 1
        return count.limit is None or self.counters[count.name] <= count.limit


@settings(max_examples=80)
@given(st.lists(st.lists(WORKS, min_size=1, max_size=4), max_size=5))
def test_drafts_do_what_the_model_does(batches: list[list[Work]]) -> None:
    """And the rows they write are those whose total stands in the head."""
    context: Any = SimpleNamespace(sign=sign)
    secret = Secret.new(RING, "default")
    state = State(Snapshot("default"), Head.make("default", 0, Frontier(), b"", 0, secret))
    model, table = Model(), dict[tuple[str, str, int], Row]()
    for batch in batches:
        draft = Draft(state, RING, NOW, fresh=False)
        for work in batch:
            after = model.apply(work)
            try:
                draft.apply(prepare(work))
            except KokonError:
                assert after is None
            else:
                assert after is not None
                model = after
        state = finish(context, draft)
        for place, row in draft.rows.items():
            table.pop(place, None)
            if row is not None:
                table[place] = row
        _check(state, model, table)


def _check(state: State, model: Model, table: dict[tuple[str, str, int], Row]) -> None:
    secret = state.head.secret
    assert state.total(secret) == state.head.total
    assert secret.total(map(digest, table.values()), state.counters, ()) == state.head.total
    assert {name: value for name, value in model.counters.items() if value} == dict(state.counters)
    for name in ("a", "b"):
        named = state.snapshot.named("secret", name)
        assert [one.version for one in named.versions] == sorted(model.values.get(name, {}))
        assert named.highest == model.highest.get(name, 0)
        for version, value in model.values.get(name, {}).items():
            assert unseal(RING, table["secret", name, version]) == value
    assert len(table) == len(list(state.snapshot.digests()))


def test_a_name_knows_its_rows() -> None:
    row = meta(seal(RING, Key("p", "k", "n"), 2, b"v", 5, None))
    mark = meta(mark_gone(Key("p", "k", "n"), 3, 5))
    named = Named((row,), mark)
    assert (named.newest, named.highest, named.find(2), named.find(3), named.find(1)) == (2, 3, row, mark, None)
    assert Named().highest == 0


def test_the_length_of_an_entry_is_checked_before() -> None:
    with pytest.raises(MalformedError):
        render("default", Entry("e", {"x": "ü" * 40_000}))


def test_sizes_are_counted() -> None:
    assert prepare(put("a", bytes(1000))).size > 1000
