"""Rotation of data keys, and the cache of sealed rows."""

from __future__ import annotations

import json
import threading
from copy import copy

import pytest
from database_factory import Lab, log, put, sign

from kokon.errors import UntrustedError
from kokon.provisioning.custody.keyring import make_ring
from kokon.provisioning.database import Count, Delete, Key, StaleDecision, Store
from kokon.provisioning.database.cache import Cache
from kokon.provisioning.database.sealing import Row, digest, seal
from kokon.provisioning.database.values import Expire


def test_rows_are_sealed_anew_a_few_at_a_time(lab: Lab) -> None:
    with lab.open() as store:
        for number in range(5):
            store.commit(put(f"a{number}", b"%d" % number))
        store.commit(log(changes=(Delete("secret", "a0"),), counts=(Count("n"),)))
        store.commit(put("b", b"x", project="bank"))
        before = store.snapshot("default")
        lab.ring.rotate()
        left = [store.reseal(3)]
        while left[-1]:
            left.append(store.reseal(3))
        assert left == [5, 2, 0], "five records and three heads"
        assert store.reseal(3) == 0
        after = store.snapshot("default")
        assert before.names("secret") == after.names("secret")
        assert after.generation > before.generation
        old, new = before.get("secret", "a1"), after.get("secret", "a1")
        assert (old.version, old.created, old.expires) == (new.version, new.created, new.expires)
        assert old.digest != new.digest
        told = [json.loads(entry) for entry in store.entries("default", 6, 10)]
        assert {entry["event"] for entry in told} == {"records-resealed"}
        assert (sum(entry["records"] for entry in told), told[0]["key"]) == (4, 2)
        del lab.ring.keys[1]
        assert [store.read("default", "secret", f"a{number}") for number in range(1, 5)] == [b"1", b"2", b"3", b"4"]
    with lab.open() as store:
        assert store.read("bank", "secret", "b") == b"x"
        assert store.commit(put("a0")).versions == (2,)
        assert store.counter("default", "n") == 1


def test_a_head_gets_a_new_secret_with_a_new_key(lab: Lab) -> None:
    with lab.open() as store:
        store.commit(put("a"))
        before = lab.sql("SELECT nonce, wrapped FROM heads WHERE project = 'default'")
        store.commit(put("a"))
        assert lab.sql("SELECT nonce, wrapped FROM heads WHERE project = 'default'") == before
        old = store._context.states["default"].head.secret.value
        lab.ring.rotate()
        assert store.reseal(100) == 0
        assert store._context.states["default"].head.secret.value != old


def test_new_values_are_under_the_new_key_at_once(lab: Lab) -> None:
    with lab.open() as store:
        store.commit(put("a"))
        lab.ring.rotate()
        store.commit(put("b"))
        assert lab.sql("SELECT name, key_id FROM records ORDER BY name") == [("a", 1), ("b", 2)]


def test_another_ring_takes_over(lab: Lab) -> None:
    """As the real one, which never changes: rotation makes another."""
    with lab.open() as store:
        store.commit(put("a", b"1"))
        ring = copy(lab.ring)
        ring.keys = dict(ring.keys)
        ring.rotate()
        store.use(ring)
        assert store.reseal(10) == 0
        del ring.keys[1]
        assert store.read("default", "secret", "a") == b"1"
        store.commit(put("b", b"2"))
    with pytest.raises(UntrustedError) as caught:
        lab.open()
    assert caught.value.code == "test-key-unknown"
    lab.ring = ring
    lab.open().close()


def test_the_real_ring_fits(lab: Lab) -> None:
    ring = make_ring()
    with lab.open() as store:
        assert store.reseal(10) == 0
    empty = Lab(lab.location, clock=lab.clock)
    for table in ("heads", "records", "entries"):
        empty.sql(f"DELETE FROM {table}")
    with Store.open(lab.location, ring, sign=sign, clock=lab.clock) as store:
        store.commit(put("a", b"1"))
        store.use(ring.add())
        assert store.reseal(10) == 0
        assert store.read("default", "secret", "a") == b"1"


def test_rows_go_out_of_the_write_ahead_log_though_one_reads(file_lab: Lab) -> None:
    with file_lab.open() as store:
        store.commit(put("a", b"1"))
        with store.backend.reading() as connection:
            connection.exec_driver_sql("SELECT * FROM records").fetchone()
            store.commit(log(changes=(Delete("secret", "a"),)))
        assert store.read("default", "secret", "a") is None


def test_a_decision_meanwhile_is_made_anew(lab: Lab) -> None:
    with lab.open() as store:
        store.commit(put("a"))
        generation = store.snapshot("default").generation
        lab.ring.rotate()
        store.reseal(10)
        with pytest.raises(StaleDecision):
            store.commit(log(generation=generation))


def test_reading_goes_on_meanwhile(lab: Lab) -> None:
    with lab.open() as store:
        for number in range(20):
            store.commit(put(f"a{number}", b"%d" % number))
        store._cache = Cache(0)
        wrong: list[object] = []
        done = threading.Event()

        def read() -> None:
            try:
                while not done.is_set():
                    values = [store.read("default", "secret", f"a{number}") for number in range(20)]
                    if values != [b"%d" % number for number in range(20)]:
                        wrong.append(values)
            except UntrustedError as error:
                wrong.append(error)

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(4):
            lab.ring.rotate()
            while store.reseal(3):
                pass
        done.set()
        reader.join()
    assert wrong == []


def test_a_changed_row_is_not_sealed_anew(lab: Lab) -> None:
    with lab.open() as store:
        store.commit(put("a"))
        lab.ring.rotate()
        lab.sql("UPDATE records SET created = created + 1")
        with pytest.raises(UntrustedError) as caught:
            store.reseal(10)
        assert caught.value.code == "store-tampered"


def test_an_old_row_put_back_is_not_sealed_anew(lab: Lab) -> None:
    """One that opens: it was once the version's."""
    with lab.open() as store:
        store.commit(put("a", b"revoked"))
        (old,) = lab.table("records")
        store.commit(log(changes=(Expire("secret", "a", 1),)))
        store.commit(put("a", b"new"))
        lab.put_back("records", [old])
        lab.ring.rotate()
        with pytest.raises(UntrustedError) as caught:
            store.reseal(10)
        assert caught.value.code == "store-tampered"


def test_a_row_that_was_read_is_read_from_memory(lab: Lab) -> None:
    with lab.open() as store:
        store.commit(put("a", b"canary"))
        assert store.read("default", "secret", "a") == b"canary"
        lab.sql("DELETE FROM records")
        assert store.read("default", "secret", "a") == b"canary"
        (row,) = store._cache._rows.values()
        assert b"canary" not in row.sealed
        assert "canary" not in repr(row)


def test_the_cache_is_bounded(lab: Lab) -> None:
    def row(number: int, size: int = 1000) -> Row:
        return seal(lab.ring, Key("default", "secret", str(number)), 1, bytes(size), 0, None)

    cache, rows = Cache(6000), [row(number) for number in range(10)]
    for number, one in enumerate(rows):
        cache.put(digest(one), one)
        if number > 1:
            assert cache.get(digest(rows[0])) == rows[0], "what is used stays"
        assert cache.size <= 6000
    assert cache.get(digest(rows[1])) is None
    assert cache.get(digest(rows[9])) == rows[9]
    large = row(0, 10_000)
    cache.put(digest(large), large)
    assert cache.get(digest(large)) is None
    size = cache.size
    cache.put(digest(rows[9]), rows[9])
    assert cache.size == size
