"""The key ring in the database: shared by replicas, turned, and wrapped by another master key."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator

import pytest
from database_factory import Lab, log, put

from kokon.errors import KokonError, UntrustedError
from kokon.provisioning.custody.keyring import KeyRing, decode_ring, make_ring
from kokon.provisioning.custody.master import MasterKey, make_master
from kokon.provisioning.database import Store
from kokon.provisioning.database.engines import Backend, open_backend
from kokon.provisioning.database.rings import PREFIX, RingLoader, SharedRing, add_master, change, remove_masters
from kokon.provisioning.database.schema import VOUCHED

MASTER, OTHER = make_master(), make_master()


def refused(call: Callable[[], object]) -> str:
    """The code of the error."""
    with pytest.raises(KokonError) as caught:
        call()
    return caught.value.code


def opening(lab: Lab, master: MasterKey = MASTER, known: tuple[int, str] | None = None) -> Callable[[], None]:
    return lambda: lab.open_with(master, known).close()


def document(lab: Lab, master: MasterKey = MASTER) -> bytes:
    ((value,),) = lab.sql("SELECT value FROM documents WHERE name = ?", PREFIX + master.identity)
    return bytes(value)


def replace_document(lab: Lab, value: object) -> None:
    lab.sql("UPDATE documents SET value = ?", value)


def turn(store: Store) -> tuple[int, ...]:
    """Add a data key, seal everything anew, retire what can be; the ids of those that were."""
    store.add_data_key()
    while store.reseal(100):
        pass
    return store.retire_data_keys()


@pytest.fixture
def backend(lab: Lab) -> Iterator[Backend]:
    """A back end of its own, as commands have beside servers."""
    backend = open_backend(lab.location, alone=False)
    yield backend
    backend.close()


@pytest.fixture
def served(lab: Lab) -> Lab:
    """A database with a ring of `MASTER` and a secret in it."""
    with lab.open_with(MASTER) as store:
        store.commit(put("a", b"1"))
    return lab


# -- made and opened -----------------------------------------------------------------------------------------------


def test_a_ring_is_made_in_an_empty_database_and_is_there_the_next_time(lab: Lab) -> None:
    with lab.open_with(MASTER) as store:
        store.commit(put("a", b"1"))
        known, label = (store.ring.generation, store.ring.identity), store.ring.subkey("label")
    assert known[0] == 1
    assert [name for name, _ in lab.table("documents")] == [PREFIX + MASTER.identity]
    with lab.open_with(MASTER, known) as store:
        assert (store.ring.generation, store.ring.identity, store.ring.current) == (*known, 1)
        assert store.ring.subkey("label") == label
        assert store.read("default", "secret", "a") == b"1"


def test_no_key_stands_in_the_database_or_in_a_text(served: Lab) -> None:
    ring = decode_ring(document(served), MASTER)
    with served.open_with(MASTER) as store:
        shown = repr(RingLoader(MASTER)) + repr(store.ring) + repr(store._context) + repr(ring)
    stored = repr(served.dump()) + shown
    for key in (ring._root, *ring._keys.values(), MASTER.key):
        for form in (repr(key)[2:-1], key.hex(), base64.b64encode(key).decode()):
            assert form not in stored


def test_replicas_that_start_at_once_have_one_ring(server_lab: Lab) -> None:
    found: list[str] = []
    gate = threading.Barrier(3)

    def start() -> None:
        gate.wait()
        with server_lab.open_with(MASTER) as store:
            found.append(store.ring.identity)

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert len(server_lab.table("documents")) == 1


def test_another_master_key_opens_nothing(served: Lab) -> None:
    before = served.dump()
    assert refused(opening(served, OTHER)) == "keyring-foreign"
    assert served.dump() == before


def test_a_lost_ring_is_not_made_anew(served: Lab) -> None:
    served.sql("DELETE FROM documents")
    assert refused(opening(served)) == "keyring-missing"
    assert served.table("documents") == []


def test_an_empty_database_is_not_taken_for_the_one_of_before(lab: Lab) -> None:
    assert refused(opening(lab, known=(1, "0" * 32))) == "keyring-missing"
    assert [rows for rows in lab.dump().values() if rows] == []


@pytest.mark.parametrize("master", [MASTER, OTHER], ids=["own", "foreign"])
def test_a_ring_without_what_it_sealed_is_found(served: Lab, master: MasterKey) -> None:
    for table in VOUCHED:
        served.sql(f"DELETE FROM {table}")
    assert refused(opening(served, master)) == "store-tampered"
    assert served.table("heads") == []


def test_a_changed_ring_is_found(served: Lab) -> None:
    members = json.loads(document(served))
    for name, value in (("generation", 9), ("root", {**members["root"], "sealed": members["keys"][0]["sealed"]})):
        replace_document(served, json.dumps({**members, name: value}).encode())
        assert refused(opening(served)) == "keyring-tampered"
    replace_document(served, b"{}")
    assert refused(opening(served)) == "field-missing"
    replace_document(served, b"x" * (65 << 10))
    assert refused(opening(served)) == "json-too-large"


@pytest.mark.parametrize("value", [1 << 40, "text"])
def test_a_ring_that_is_no_bytes_is_found(file_lab: Lab, value: object) -> None:
    """Whoever holds the file can make a table of another kind."""
    opening(file_lab)()
    (row,) = file_lab.table("documents")
    file_lab.sql("DROP TABLE documents")
    file_lab.sql("CREATE TABLE documents (name, value)")
    file_lab.insert("documents", (row[0], value))
    assert refused(opening(file_lab)) == "store-tampered"


def test_another_servers_ring_of_the_same_master_key_is_found(served: Lab) -> None:
    with served.open_with(MASTER) as store:
        known = store.ring.generation, store.ring.identity
    replace_document(served, make_ring().encode(MASTER))
    assert refused(opening(served, known=known)) == "keyring-foreign"
    assert refused(opening(served)) == "store-tampered", "even if nothing is remembered: it does not open the heads"


def test_an_old_ring_that_was_put_back_is_found(served: Lab) -> None:
    old = document(served)
    with served.open_with(MASTER) as store:
        store.add_data_key()
        known = store.ring.generation, store.ring.identity
    assert known[0] == 2
    new = document(served)
    replace_document(served, old)
    assert refused(opening(served, known=known)) == "keyring-rolled-back"
    replace_document(served, new)
    opening(served, known=known)()


def test_a_store_with_a_ring_of_its_callers_has_none_to_turn(lab: Lab) -> None:
    with lab.open() as store:
        for call in (lambda: store.ring, store.add_data_key, store.retire_data_keys):
            assert refused(call) == "ring-given"
    assert lab.table("documents") == []


# -- data keys -----------------------------------------------------------------------------------------------------


def test_keys_are_turned(served: Lab) -> None:
    with served.open_with(MASTER) as store:
        store.commit(put("b", b"2", project="bank"))
        assert store.add_data_key() == 2
        store.commit(put("c", b"3"))
        assert served.sql("SELECT name, key_id FROM records ORDER BY name") == [("a", 1), ("b", 1), ("c", 2)]
        assert store.retire_data_keys() == (), "the old one is in use"
        assert store.reseal(100) == 0
        assert store.retire_data_keys() == (() if served.shared else (1,)), "another replica may still use it"
        assert turn(store) == ((1,) if served.shared else (2,))
        assert decode_ring(document(served), MASTER).ids == ((2, 3) if served.shared else (3,))
        assert (store.ring.current, store.ring.generation) == (3, 4 if served.shared else 5)
        known = store.ring.generation, store.ring.identity
    with served.open_with(MASTER, known) as store:
        assert [store.read("default", "secret", name) for name in ("a", "c")] == [b"1", b"3"]
        assert store.read("bank", "secret", "b") == b"2"


def test_a_row_out_of_memory_whose_key_was_retired_meanwhile_is_read_anew(
    served: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that was held up between looking at the catalogue and opening the row."""
    with served.open_with(MASTER) as store:
        assert store.read("default", "secret", "a") == b"1"
        before = store.snapshot("default")
        assert 1 in turn(store) + turn(store)
        now = store.snapshot
        given = iter([before])
        monkeypatch.setattr(store, "snapshot", lambda project: next(given, None) or now(project))
        assert store.read("default", "secret", "a") == b"1"
        assert next(given, None) is None
        monkeypatch.setattr(store, "snapshot", lambda project: before)
        assert refused(lambda: store.read("default", "secret", "a")) in ("store-key-unknown", "store-tampered")


def test_replicas_turn_keys_at_once(server_lab: Lab) -> None:
    added: list[int] = []

    def work(store: Store) -> None:
        for number in range(4):
            added.append(store.add_data_key())
            store.commit(put(f"{store._context.replica}-{number}", b"x"))

    with server_lab.open_with(MASTER) as one, server_lab.open_with(MASTER) as two:
        threads = [threading.Thread(target=work, args=(store,)) for store in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(added) == list(range(2, 10)), "no change of one was lost to the other's"
        one.commit(log())
        two.commit(log())
        for store in (one, two):
            names = store.snapshot("default").names("secret")
            assert len(names) == 8
            assert [store.read("default", "secret", name) for name in names] == [b"x"] * 8
        assert one.retire_data_keys() == (), "not before all heads are under the newest"
        while one.reseal(3):
            pass
        assert set(one.retire_data_keys()) == set(range(1, 8))
        assert two.commit(put("late", b"y"))
        assert one._writer.refresh("default").result() is None
        assert one.read("default", "secret", "late") == b"y"
    assert decode_ring(document(server_lab), MASTER).ids == (8, 9)


def test_a_key_that_another_replica_may_seal_with_stays(server_lab: Lab) -> None:
    """It has heard of no newer one yet, and nothing is sealed under its own so far."""
    with server_lab.open_with(MASTER) as one, server_lab.open_with(MASTER) as two:
        one.commit(put("a", b"1"))
        assert (two.add_data_key(), one.add_data_key(), one.add_data_key()) == (2, 3, 4)
        assert one.retire_data_keys() == ()
        two.commit(put("b", b"2"))
        two.commit(put("c", b"3", project="fresh"))
        assert server_lab.sql("SELECT key_id FROM records WHERE name <> 'a'") == [(2,), (2,)]
        assert one.reseal(100) == 0
        assert one.retire_data_keys() == (1, 2)
        two.commit(put("d", b"4"))
        two.commit(put("e", b"5", project="newer"))
        assert server_lab.sql("SELECT DISTINCT key_id FROM records") == [(4,)], "it had to hear of it"
    with server_lab.open_with(MASTER) as store:
        found = [store.read("default", "secret", name) for name in "abd"]
        assert found == [b"1", b"2", b"4"]
        assert (store.read("fresh", "secret", "c"), store.read("newer", "secret", "e")) == (b"3", b"5")


def test_the_ring_is_changed_by_one_at_a_time(served: Lab) -> None:
    """Whoever reads it before another has written would undo the other's change."""
    backends = [open_backend(served.location, alone=False) for _ in range(2)]
    inside, go = threading.Event(), threading.Event()

    def slowly(_connection: object, ring: KeyRing) -> KeyRing:
        inside.set()
        go.wait(20)
        return ring.add()

    first = threading.Thread(target=change, args=(backends[0], MASTER, slowly))
    second = threading.Thread(target=change, args=(backends[1], MASTER, lambda _, ring: ring.add()))
    first.start()
    assert inside.wait(20)
    second.start()
    second.join(0.3)
    assert second.is_alive(), "it waits"
    go.set()
    for thread in (first, second):
        thread.join()
    for backend in backends:
        backend.close()
    ring = decode_ring(document(served), MASTER)
    assert (ring.ids, ring.generation) == ((1, 2, 3), 3)


def test_a_replica_learns_of_a_key_from_the_first_row_under_it(server_lab: Lab) -> None:
    with server_lab.open_with(MASTER) as one, server_lab.open_with(MASTER) as two:
        one.add_data_key()
        assert two.ring.current == 1
        one.commit(put("a", b"1"))
        two.commit(log())
        assert two.read("default", "secret", "a") == b"1"
        assert two.ring.current == 2
        two.commit(put("b", b"2"))
        assert server_lab.sql("SELECT name, key_id FROM records ORDER BY name") == [("a", 2), ("b", 2)]


def test_an_unknown_key_has_the_ring_read_once() -> None:
    ring = make_ring()
    newer = ring.add()
    asked: list[tuple[int, str]] = []
    found = [ring, newer]

    def fetch(generation: int, identity: str) -> KeyRing:
        asked.append((generation, identity))
        return found[len(asked) - 1]

    shared = SharedRing(ring, fetch)
    assert refused(lambda: shared.aead(2)) == "store-key-unknown"
    assert asked == [(1, ring.identity)]
    sealed = newer.aead(2).encrypt(bytes(12), b"x", b"")
    assert shared.aead(2).decrypt(bytes(12), sealed, b"") == b"x"
    assert (len(asked), shared.current, shared.generation) == (2, 2, 2)
    shared.aead(1)
    shared.aead(2)
    assert len(asked) == 2, "what is known is not asked for"


def test_an_older_or_foreign_ring_does_not_take_over() -> None:
    first = make_ring()
    ring, fork = first.add(), first.add()
    shared = SharedRing(ring, lambda *_: ring)
    shared.use(fork)
    sealed = ring.aead(2).encrypt(bytes(12), b"x", b"")
    assert shared.aead(2).decrypt(bytes(12), sealed, b"") == b"x", "of two of one generation the first stays"
    assert refused(lambda: shared.use(make_ring().add().add())) == "keyring-foreign"
    assert shared.identity == ring.identity
    shared.use(ring.add())
    assert (shared.current, shared.generation) == (3, 3)
    shared.use(ring)
    assert (shared.current, shared.generation) == (3, 3)


@pytest.mark.parametrize("turned", [Store.add_data_key, Store.retire_data_keys])
def test_a_ring_put_back_behind_a_serving_store_is_not_built_on(served: Lab, turned: Callable[[Store], object]) -> None:
    """It would get a second key of an id that is in use, and the rows under the first would be lost."""
    old = document(served)
    with served.open_with(MASTER) as store:
        store.add_data_key()
        store.add_data_key()
        store.commit(put("b", b"2"))
        new = document(served)
        replace_document(served, old)
        assert refused(lambda: turned(store)) == "keyring-rolled-back"
        assert document(served) == old, "nothing was written"
        assert refused(lambda: store.ring.aead(9)) == "keyring-rolled-back"
        assert store.read("default", "secret", "b") == b"2"
        replace_document(served, make_ring().add().add().encode(MASTER))
        assert refused(lambda: turned(store)) == "keyring-foreign"
        served.sql("DELETE FROM documents")
        assert refused(lambda: turned(store)) == "keyring-missing"
        served.insert("documents", (PREFIX + MASTER.identity, new))
        assert store.add_data_key() == 4


# -- the master key ------------------------------------------------------------------------------------------------


def test_the_master_key_is_replaced_and_may_be_stopped_anywhere(served: Lab, backend: Backend) -> None:
    def opens(master: MasterKey) -> bool:
        with contextlib.suppress(UntrustedError), served.open_with(master) as store:
            return store.read("default", "secret", "a") == b"1"
        assert refused(opening(served, master)) == "keyring-foreign"
        return False

    assert (opens(MASTER), opens(OTHER)) == (True, False)
    add_master(backend, MASTER, OTHER)
    assert (opens(MASTER), opens(OTHER)) == (True, True), "stopped before or after the directory has the new key"
    add_master(backend, MASTER, OTHER)
    assert (opens(MASTER), opens(OTHER)) == (True, True), "done again"
    remove_masters(backend, OTHER)
    assert (opens(MASTER), opens(OTHER)) == (False, True)
    remove_masters(backend, OTHER)
    assert opens(OTHER)
    assert [name for name, _ in served.table("documents")] == [PREFIX + OTHER.identity]


def test_a_change_that_was_given_up_is_taken_back(served: Lab, backend: Backend) -> None:
    add_master(backend, MASTER, OTHER)
    remove_masters(backend, MASTER)
    assert refused(opening(served, OTHER)) == "keyring-foreign"
    opening(served)()


def test_a_master_key_that_opens_nothing_changes_nothing(served: Lab, backend: Backend) -> None:
    before = served.table("documents")
    assert refused(lambda: add_master(backend, OTHER, make_master())) == "keyring-foreign"
    assert refused(lambda: remove_masters(backend, OTHER)) == "keyring-foreign"
    assert served.table("documents") == before


def test_other_documents_are_left_alone(served: Lab, backend: Backend) -> None:
    served.insert("documents", ("something-else", b"x"))
    add_master(backend, MASTER, OTHER)
    remove_masters(backend, OTHER)
    assert sorted(name for name, _ in served.table("documents")) == [PREFIX + OTHER.identity, "something-else"]
    with served.open_with(OTHER) as store:
        assert store.add_data_key() == 2


def test_data_keys_stay_while_the_master_key_is_replaced(served: Lab, backend: Backend) -> None:
    """One that was added to the old master key's ring alone would be lost with it."""
    with served.open_with(MASTER) as store:
        add_master(backend, MASTER, OTHER)
        before = served.table("documents")
        for turned in (store.add_data_key, store.retire_data_keys):
            assert refused(turned) == "master-changing"
        assert served.table("documents") == before
        assert store.commit(put("b", b"2")).versions == (1,), "all else goes on"
        remove_masters(backend, OTHER)
        assert store.read("default", "secret", "b") == b"2"
        assert refused(store.add_data_key) == "keyring-foreign", "this replica has to start with the new master key"
    with served.open_with(OTHER) as store:
        assert store.add_data_key() == 2
        assert store.read("default", "secret", "b") == b"2"


def test_both_documents_are_one_ring(served: Lab, backend: Backend) -> None:
    with served.open_with(MASTER) as store:
        turn(store)
    add_master(backend, MASTER, OTHER)
    one, two = decode_ring(document(served), MASTER), decode_ring(document(served, OTHER), OTHER)
    assert (one.identity, one.generation, one.current, one.ids) == (two.identity, two.generation, two.current, two.ids)
    assert dict(one._keys) == dict(two._keys)
