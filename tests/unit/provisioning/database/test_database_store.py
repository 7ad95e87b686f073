"""What the store promises, on both kinds of database."""

from __future__ import annotations

import json
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from database_factory import Clock, Lab, log, put, sign

from kokon.errors import DeniedError, HostError, KokonError, MalformedError, UsageError
from kokon.provisioning.database import Count, Delete, Entry, Put, Receipt, StaleDecision, Store, Work
from kokon.provisioning.database.draft import prepare
from kokon.provisioning.database.values import CHANGES_LIMIT, VALUE_LIMIT
from kokon.provisioning.ledger.entry import ENTRY_LIMIT, make_entry, parse_entry
from kokon.provisioning.ledger.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)
from kokon.provisioning.ledger.tiles import Tile, make_tile


def delete(name: str, version: int | None = None, project: str = "default") -> Work:
    return Work(project, (Entry("delete", {"name": name}),), (Delete("secret", name, version),))


def count(name: str, limit: int | None = None) -> Work:
    return log(counts=(Count(name, limit),))


def failing(future: Future[Receipt]) -> str:
    """The code that a work failed with."""
    error = future.exception(10)
    assert isinstance(error, KokonError)
    return error.code


def test_a_value_is_read_as_it_was_put(store: Store) -> None:
    expires = datetime(2027, 1, 1, 0, 0, 0, 7, tzinfo=UTC)
    first = store.commit(put("db/password", b"one"))
    second = store.commit(put("db/password", b"two", expires=expires))
    assert (first.versions, second.versions) == ((1,), (2,))
    assert store.read("default", "secret", "db/password") == b"two"
    assert store.read("default", "secret", "db/password", 1) == b"one"
    assert store.read("default", "secret", "db/password", 3) is None
    assert store.read("default", "secret", "other") is None
    assert store.read("other", "secret", "db/password") is None
    one, two = store.snapshot("default").versions("secret", "db/password")
    assert (one.version, one.expires, two.version, two.expires) == (1, None, 2, expires)
    assert store.snapshot("default").get("secret", "db/password") == two


def test_an_empty_value_is_a_value(store: Store) -> None:
    store.commit(put("empty", b""))
    assert store.read("default", "secret", "empty") == b""


def test_a_snapshot_stays_as_it_is(store: Store) -> None:
    store.commit(put("b"))
    before = store.snapshot("default")
    store.commit(put("a"))
    store.commit(delete("b"))
    assert (before.names("secret"), before.generation) == (("b",), 1)
    after = store.snapshot("default")
    assert (after.names("secret"), after.generation) == (("a",), 3)
    assert after.names("policy") == ()


def test_all_is_there_after_opening_again(lab: Lab) -> None:
    with lab.open() as store:
        store.commit(put("a", b"1"))
        store.commit(put("a", b"2"))
        store.commit(put("gone"))
        store.commit(delete("gone"))
        store.commit(count("activations"))
        store.commit(put("tenant", b"3", project="bank"))
        before = [store.snapshot("default"), store.snapshot("bank"), store.remember()]
    with lab.open(remembered=before[2]) as store:
        assert [store.snapshot("default"), store.snapshot("bank"), store.remember()] == before
        assert store.read("default", "secret", "a") == b"2"
        assert store.read("bank", "secret", "tenant") == b"3"
        assert store.counter("default", "activations") == 1
        assert store.projects() == ("bank", "default")
        assert store.commit(put("gone")).versions == (2,)


def test_projects_do_not_see_each_other(store: Store) -> None:
    store.commit(put("same", b"1", project="a"))
    store.commit(put("same", b"2", project="b"))
    store.commit(put("same", b"3", project=""))
    assert [store.read(project, "secret", "same") for project in ("a", "b", "")] == [b"1", b"2", b"3"]
    assert [store.frontier(project).size for project in ("a", "b", "", "c")] == [1, 1, 1, 0]


def test_previous_must_hold(store: Store) -> None:
    store.commit(put("a", previous=0))
    assert store.commit(put("a", previous=1)).versions == (2,)
    for previous in (0, 1, 3):
        with pytest.raises(DeniedError) as caught:
            store.commit(put("a", previous=previous))
        assert caught.value.code == "changed-meanwhile"
    assert store.frontier("default").size == 2, "what failed left no entry"


def test_a_deleted_version_is_gone_and_its_number_is_not_used_again(store: Store, lab: Lab) -> None:
    for value in (b"1", b"2", b"3"):
        store.commit(put("a", value))
    store.commit(delete("a", 3))
    assert store.snapshot("default").get("secret", "a").version == 2
    assert store.read("default", "secret", "a", 3) is None
    assert store.commit(put("a", b"4", previous=2)).versions == (4,)
    store.commit(delete("a"))
    assert store.snapshot("default").get("secret", "a") is None
    assert store.snapshot("default").names("secret") == ()
    assert store.commit(put("a", b"5", previous=0)).versions == (5,)
    assert [row[3] for row in lab.table("records")] == [5]


def test_what_is_not_there_cannot_be_deleted(store: Store) -> None:
    store.commit(put("a"))
    for work in (delete("b"), delete("a", 2)):
        with pytest.raises(DeniedError) as caught:
            store.commit(work)
        assert caught.value.code == "changed-meanwhile"


def test_a_count_stops_at_its_limit(store: Store) -> None:
    for _ in range(3):
        store.commit(count("activations", 3))
    with pytest.raises(DeniedError) as caught:
        store.commit(count("activations", 3))
    assert caught.value.code == "count-exhausted"
    store.commit(count("activations"))
    assert (store.counter("default", "activations"), store.counter("default", "other")) == (4, 0)
    assert store.snapshot("default").generation == 0


def test_a_work_is_all_or_nothing(store: Store) -> None:
    store.commit(put("a", b"1"))
    work = Work(
        "default",
        (Entry("many", {}),),
        (Put("secret", "a", b"2"), Put("secret", "b", b"3"), Delete("secret", "missing")),
        (Count("n"),),
    )
    with pytest.raises(DeniedError):
        store.commit(work)
    with pytest.raises(DeniedError):
        store.commit(Work("default", (Entry("many", {}),), (Put("secret", "a", b"2"),), (Count("n"), Count("n", 1))))
    assert store.snapshot("default").names("secret") == ("a",)
    assert store.read("default", "secret", "a") == b"1"
    assert (store.counter("default", "n"), store.frontier("default").size) == (0, 1)


def test_a_work_sees_its_own_changes(store: Store) -> None:
    changes = (
        Put("secret", "a", b"1", previous=0),
        Put("secret", "a", b"2", previous=1),
        Delete("secret", "a", 1),
        Put("policy", "a", b"3"),
    )
    receipt = store.commit(Work("default", (Entry("many", {}),), changes))
    assert receipt.versions == (1, 2, 1)
    assert [meta.version for meta in store.snapshot("default").versions("secret", "a")] == [2]
    assert receipt.generation == store.snapshot("default").generation == 1


def test_a_decision_on_old_records_is_refused(store: Store) -> None:
    old = store.snapshot("default").generation
    store.commit(put("policy"))
    store.commit(log(generation=old + 1))
    with pytest.raises(StaleDecision):
        store.commit(log(generation=old))
    assert store.frontier("default").size == 2


def test_only_records_move_the_generation(store: Store) -> None:
    store.commit(put("a"))
    store.commit(log())
    store.commit(count("n"))
    assert store.snapshot("default").generation == 1


def test_works_of_one_batch_fail_alone(store: Store, blocked: Any) -> None:
    store.commit(put("a"))
    with blocked(store):
        works = [
            log(generation=1),
            put("a", previous=7),
            put("a", b"new", previous=1),
            log(generation=1),
            count("n", 1),
            count("n", 1),
            put("x", project="bank"),
            log(generation=2),
        ]
        futures = [store.submit(work) for work in works]
    done = [future.result(10) for future in (futures[0], futures[2], futures[4], futures[7])]
    assert [receipt.first for receipt in done] == [1, 2, 3, 4]
    assert {receipt.size for receipt in done} == {5}, "one checkpoint for all"
    assert len({receipt.checkpoint for receipt in done}) == 1
    assert futures[6].result(10).size == 1
    assert (failing(futures[1]), failing(futures[5])) == ("changed-meanwhile", "count-exhausted")
    assert isinstance(futures[3].exception(10), StaleDecision)


def test_a_batch_of_failures_writes_nothing(store: Store, lab: Lab) -> None:
    heads = lab.table("heads")
    with pytest.raises(StaleDecision):
        store.commit(log(project="new", generation=5))
    assert lab.table("heads") == heads


def test_entries_are_what_the_ledger_makes(store: Store, lab: Lab) -> None:
    details = {"a": [1, "ü", None, True], "zeta": {"x": "y"}, "timed": "then", "tim": 2, "event2": 3}
    store.commit(Work("bank", (Entry("first", {}), Entry("second", details, denial="ABC"))))
    first, second = store.entries("bank", 0, 10)
    now = parse_entry(second).time
    assert now == lab.clock.now.replace(microsecond=lab.clock.now.microsecond // 1000 * 1000)
    assert first == make_entry("bank", now, "first", {})
    assert second == make_entry("bank", now, "second", details)
    assert store.denial("bank", "ABC") == second
    assert store.denial("bank", "ABD") is None
    assert store.denial("bank", "A\0") is None
    assert store.denial("bank", "A" * 65) is None
    assert store.denial("default", "ABC") is None
    assert store.entries("bank", 1, 10) == [second]
    assert store.entries("bank", 0, 1) == [first]
    assert store.entries("bank", 2, 10) == []
    assert store.entries("bank", 0, 0) == []
    with pytest.raises(UsageError) as caught:
        store.entries("bank", -1, 1)
    assert caught.value.code == "log-proof-range"


def test_entries_stop_at_their_limits(store: Store) -> None:
    large = Entry("large", {"text": "x" * 65000})
    for _ in range(3):
        store.commit(Work("default", (large,) * 50))
    assert len(store.entries("default", 0, 1000)) == 129, "some 8 MiB"
    assert [json.loads(entry)["event"] for entry in store.entries("default", 149, 5)] == ["large"]


def test_the_log_is_a_tree_with_proofs(store: Store) -> None:
    sizes = []
    for number in range(9):
        store.commit(Work("default", tuple(Entry("fill", {"n": number, "i": at}) for at in range(75))))
        sizes.append((store.frontier("default").size, store.frontier("default").root()))
    entries = store.entries("default", 0, 1000)
    size, root = sizes[-1]
    assert (size, Frontier().append(map(leaf_hash, entries))) == (675, store.frontier("default"))
    assert store.checkpoint("default") == sign("default", size, root)

    def hash_at(level: int, index: int) -> bytes:
        return store.hash_at("default", level, index)

    for index in (0, 255, 256, 511, 512, 674):
        path = inclusion_proof(index, size, hash_at)
        verify_inclusion(index, size, leaf_hash(entries[index]), path, root)
    for first, first_root in sizes:
        verify_consistency(first, first_root, size, root, consistency_proof(first, size, hash_at))
    leaves = [leaf_hash(entry) for entry in entries]
    assert make_tile(Tile(0, 2, 163), hash_at) == b"".join(leaves[512:])
    assert make_tile(Tile(1, 0, 2), hash_at) == b"".join(
        Frontier().append(leaves[at : at + 256]).root() for at in (0, 256)
    )
    with pytest.raises(UsageError) as caught:
        hash_at(0, 675)
    assert caught.value.code == "log-proof-range"
    assert store.verify("default") == 675
    assert store.verify("none") == 0


def test_an_empty_log_has_a_checkpoint(store: Store) -> None:
    assert store.checkpoint("default") == sign("default", 0, EMPTY_ROOT)


def test_nothing_is_signed_before_the_first_entry(lab: Lab) -> None:
    signed = []

    def noting(project: str, size: int, root: bytes) -> bytes:
        signed.append(project)
        return b"x"

    with lab.open(sign=noting) as store:
        assert signed == []
        store.commit(log(project="bank"))
    assert signed == ["bank"]


def test_a_log_that_cannot_be_signed_fails_alone(lab: Lab, blocked: Any) -> None:
    def refusing(project: str, size: int, root: bytes) -> bytes:
        if project in ("bank", ""):
            raise HostError("test-no-key", "no key for this log")
        return sign(project, size, root)

    with lab.open(sign=refusing) as store:
        store.commit(log())
        with blocked(store):
            futures = [store.submit(log(project=project)) for project in ("bank", "default")]
        assert failing(futures[0]) == "test-no-key"
        assert futures[1].result(10).size == 2
        with blocked(store):
            futures = [store.submit(log(project=project)) for project in ("new", "")]
        assert [failing(future) for future in futures] == ["test-no-key"] * 2, (
            "a new project stands in the server's head"
        )
        assert store.commit(log(project="new")).size == 1
    with lab.open() as store:
        assert store.projects() == ("default", "new")


def test_a_second_denial_of_one_id_fails_alone(store: Store, blocked: Any) -> None:
    twice = Work("default", (Entry("denial", {}, denial="ID"),))
    with blocked(store):
        futures = [store.submit(work) for work in (log(), twice, twice, log())]
    results = [future.exception(10) for future in futures]
    assert [results[at] for at in (0, 1, 3)] == [None] * 3
    assert failing(futures[2]) == "store-failed"
    assert [future.result().first for future in (futures[0], futures[1], futures[3])] == [0, 1, 2]
    assert store.commit(Work("bank", twice.entries)).first == 0


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        (Entry("e", {"time": "x"}), "log-entry-malformed"),
        (Entry("e", {"event": "x"}), "log-entry-malformed"),
        (Entry("e", {"project": "x"}), "log-entry-malformed"),
        (Entry("e", {"text": "x" * ENTRY_LIMIT}), "log-entry-malformed"),
        (Entry("", {}), "log-entry-malformed"),
        (Entry("e" * 65, {}), "log-entry-malformed"),
        (Entry("e", {}, denial=""), "log-entry-malformed"),
        (Entry("e", {}, denial="d" * 65), "log-entry-malformed"),
        (Entry("e", {1: "x"}), "log-entry-malformed"),  # type: ignore[dict-item]
        (Entry("e", {"x": 1.5}), "json-not-canonical"),
        (Entry("e", {"x": b"bytes"}), "json-not-canonical"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(entry: Entry, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        prepare(Work("default", (entry,)))
    assert caught.value.code == code


def test_the_longest_entry_is_kept(store: Store) -> None:
    empty = len(make_entry("default", datetime.now(UTC), "e", {"x": ""}))
    store.commit(Work("default", (Entry("e", {"x": "x" * (ENTRY_LIMIT - empty)}),)))
    assert len(store.entries("default", 0, 1)[0]) == ENTRY_LIMIT


@pytest.mark.parametrize(
    "work",
    [
        Work("default", ()),
        Work("default", (Entry("e", {}),) * 257),
        Work("Default", (Entry("e", {}),)),
        Work("a/b", (Entry("e", {}),)),
        Work("-a", (Entry("e", {}),)),
        Work("a" * 41, (Entry("e", {}),)),
        log(changes=(Put("Secret", "a", b""),)),
        log(changes=(Put("", "a", b""),)),
        log(changes=(Put("secret", "", b""),)),
        log(changes=(Put("secret", "a\0", b""),)),
        log(changes=(Put("secret", "a" * 513, b""),)),
        log(changes=(Put("secret", "a", bytes(VALUE_LIMIT + 1)),)),
        log(changes=(Put("secret", "a", b"", datetime(2026, 1, 1)),)),  # noqa: DTZ001
        log(changes=(Delete("secret", "a"),) * (CHANGES_LIMIT + 1)),
        log(counts=(Count(""),)),
        log(counts=(Count("a", -1),)),
    ],
)
def test_a_work_that_cannot_be_is_refused(work: Work) -> None:
    with pytest.raises(UsageError) as caught:
        prepare(work)
    assert caught.value.code == "work-malformed"


def test_what_cannot_be_is_refused_at_once(file_lab: Lab) -> None:
    with file_lab.open() as store:
        with pytest.raises(UsageError):
            store.submit(Work("default", ()))
        with pytest.raises(MalformedError):
            store.submit(Work("default", (Entry("e", {"time": 1}),)))


def test_a_value_has_no_repr() -> None:
    assert "hunter2" not in repr(put("a", b"hunter2"))


def test_expired_records_are_purged(lab: Lab) -> None:
    soon, later = lab.clock.now + timedelta(hours=1), lab.clock.now + timedelta(hours=2)
    with lab.open() as store:
        for number in range(130):
            store.commit(put(f"session-{number:03}", expires=soon))
        store.commit(put("key", b"1", expires=soon))
        store.commit(put("key", b"2", expires=later))
        store.commit(put("for-ever"))
        store.commit(put("other", project="bank", expires=soon))
        assert store.purge(soon - timedelta(microseconds=1)) == 0
        assert store.purge(soon) == 132
        assert store.purge(soon) == 0
        assert store.snapshot("default").names("secret") == ("for-ever", "key")
        assert store.read("default", "secret", "key", 1) is None
        assert store.read("default", "secret", "key") == b"2"
        told = [json.loads(entry) for entry in store.entries("default", 133, 1000)]
        assert {entry["event"] for entry in told} == {"record-expired"}
        assert sorted(entry["name"] for entry in told)[:2] == ["key", "session-000"]
        assert store.purge(later) == 1
        assert store.commit(put("key", b"3")).versions == (1,), "an expired name is forgotten"
    assert len(lab.table("records")) == 2


def test_an_expired_newest_version_leaves_its_number(lab: Lab) -> None:
    with lab.open() as store:
        store.commit(put("key", b"1"))
        store.commit(put("key", b"2", expires=lab.clock.now))
        assert store.purge(lab.clock.now) == 1
        assert store.commit(put("key", b"3")).versions == (3,)
    lab.open().close()


def test_a_closed_store_takes_nothing(lab: Lab) -> None:
    store = lab.open()
    last = store.submit(log())
    store.close()
    store.close()
    assert last.result(0).size == 1
    with pytest.raises(HostError) as caught:
        store.submit(log())
    assert caught.value.code == "store-closed"


def test_too_many_waiting_works_are_refused(store: Store, blocked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kokon.provisioning.database.writer.WAITING_LIMIT", 10)
    futures: list[Future[Receipt]] = []
    with blocked(store):
        with pytest.raises(HostError) as caught:
            futures.extend(store.submit(log()) for _ in range(11))
        assert caught.value.code == "store-busy"
        assert len(futures) in (9, 10), "a refresh may wait among them"
    assert [future.result(10).first for future in futures] == list(range(len(futures)))


def test_a_batch_is_bounded(store: Store, blocked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kokon.provisioning.database.writer.BATCH_WORKS", 4)
    with blocked(store):
        futures = [store.submit(log()) for _ in range(10)]
    assert [future.result(10).size for future in futures] == [4] * 4 + [8] * 4 + [10] * 2
    monkeypatch.setattr("kokon.provisioning.database.writer.BATCH_BYTES", 100_000)
    with blocked(store):
        futures = [store.submit(put("large", bytes(60_000))) for _ in range(4)]
    assert [future.result(10).size for future in futures] == [12, 12, 14, 14]


def test_a_cancelled_work_is_not_done(store: Store, blocked: Any) -> None:
    with blocked(store):
        futures = [store.submit(log()) for _ in range(3)]
        assert futures[1].cancel()
    assert [futures[at].result(10).first for at in (0, 2)] == [0, 1]


def test_a_bug_fails_the_batch_and_not_the_writer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Clock, "__call__", lambda clock: 1 / 0)
        with pytest.raises(KokonError) as caught:
            store.commit(log())
        assert caught.value.code == "store-bug"
    assert store.commit(log()).size == 1


def test_the_store_answers(store: Store) -> None:
    store.ping()
