"""Several stores on one PostgreSQL."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from database_factory import Lab, Postgres, log, put
from sqlalchemy import Connection

from kokon.errors import DeniedError
from kokon.provisioning.database import Count, Delete, KeyRing, StaleDecision, Store
from kokon.provisioning.database.cache import Cache
from kokon.provisioning.database.head import HeadRow
from kokon.provisioning.database.notify import Listener
from kokon.provisioning.database.state import State, load
from kokon.provisioning.database.values import Expire


@pytest.fixture
def pair(server_lab: Lab) -> Iterator[tuple[Store, Store]]:
    with server_lab.open() as one, server_lab.open() as two:
        yield one, two


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without notifications, as after a lost connection."""
    monkeypatch.setattr(Listener, "_listen", lambda listener: None)


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end, "never"
        time.sleep(0.01)


def test_what_one_writes_the_other_hears(pair: tuple[Store, Store]) -> None:
    one, two = pair
    for store in pair:
        assert store._listener
        assert store._listener.connected.wait(10)
    one.commit(put("a", b"1"))
    eventually(lambda: two.snapshot("default").names("secret") == ("a",))
    assert two.read("default", "secret", "a") == b"1"
    two.commit(log(changes=(Delete("secret", "a"),)))
    eventually(lambda: one.snapshot("default").names("secret") == ())
    assert one.read("default", "secret", "a") is None


@pytest.mark.usefixtures("deaf")
def test_a_decision_on_records_that_another_replica_changed_is_refused(pair: tuple[Store, Store]) -> None:
    one, two = pair
    one.commit(put("policy", b"allow"))
    with pytest.raises(StaleDecision):
        two.commit(log(generation=two.snapshot("default").generation))
    assert two.snapshot("default").generation == 1, "it is known now"
    one.commit(put("policy", b"deny"))
    assert two.read("default", "secret", "policy") == b"allow", "not heard of yet"
    with pytest.raises(StaleDecision):
        two.commit(log("release", generation=1))
    assert two.read("default", "secret", "policy") == b"deny"
    two.commit(log("denial", generation=2))


@pytest.mark.usefixtures("deaf")
def test_replicas_take_turns(pair: tuple[Store, Store]) -> None:
    one, two = pair
    for number in range(10):
        writer, other = (one, two) if number % 2 else (two, one)
        assert writer.commit(put(f"a{number}", previous=0)).first == number * 3
        writer.commit(log(counts=(Count("n", 100),)))
        writer.commit(log(project="bank", changes=put("x").changes))
        assert other.commit(log()).first == number * 3 + 2
    for store in pair:
        store.commit(log())
        assert len(store.snapshot("default").names("secret")) == 10
        assert store.counter("default", "n") == 10
        assert store.verify("default") == store.frontier("default").size
        assert store.checkpoint("bank").startswith(b"bank\n10\n")
    assert one.projects() == two.projects() == ("bank", "default")


@pytest.mark.usefixtures("deaf")
def test_what_another_replica_removed_is_noticed(pair: tuple[Store, Store]) -> None:
    one, two = pair
    for name in ("a", "b", "c"):
        one.commit(put(name))
    two.commit(log())
    one.commit(log(changes=(Delete("secret", "a"),)))
    assert two.read("default", "secret", "a") is None, "not taken for an attack"
    one.commit(log(changes=(Delete("secret", "b"),)))
    with pytest.raises(DeniedError):
        two.commit(put("b", previous=1))
    assert two.snapshot("default").names("secret") == ("c",)


@pytest.mark.usefixtures("deaf")
def test_only_what_changed_is_read_again(pair: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = pair
    one.commit(put("a"))
    one.commit(log(changes=(Delete("secret", "a"),)))
    two.commit(log())
    loads: list[str] = []

    def loading(connection: Connection, ring: KeyRing, row: HeadRow) -> State:
        loads.append(row.project)
        return load(connection, ring, row)

    monkeypatch.setattr("kokon.provisioning.database.state.load", loading)
    one.commit(put("a"))
    one.commit(log(counts=(Count("n"),)))
    one.commit(put("b"))
    two.commit(log())
    one.commit(log())
    assert loads == []
    one.commit(log(changes=(Delete("secret", "b", 1), *put("c").changes)))
    one.commit(log(changes=(Expire("secret", "a", 2),)))
    two.commit(log())
    assert loads == ["default"], "what is gone cannot be read"
    assert two.snapshot("default") == one.snapshot("default")


@pytest.mark.usefixtures("deaf")
def test_a_limit_holds_over_all_replicas(pair: tuple[Store, Store]) -> None:
    one, two = pair
    for store in (one, two, one):
        store.commit(log(counts=(Count("activations", 3),)))
    for store in pair:
        with pytest.raises(DeniedError) as caught:
            store.commit(log(counts=(Count("activations", 3),)))
        assert caught.value.code == "count-exhausted"


@pytest.mark.usefixtures("deaf")
def test_another_replica_seals_anew(server_lab: Lab, pair: tuple[Store, Store]) -> None:
    one, two = pair
    one._cache = Cache(0)
    one.commit(put("a", b"1"))
    two.commit(log())
    server_lab.ring.rotate()
    assert two.reseal(100) == 0
    assert one.read("default", "secret", "a") == b"1", "not taken for an attack"
    assert one.commit(log()).size == 4
    assert one.reseal(100) == 0


@pytest.mark.usefixtures("deaf")
def test_proofs_are_of_what_is_there_now(pair: tuple[Store, Store]) -> None:
    one, two = pair
    one.commit(log())
    assert two.frontier("default") == one.frontier("default")
    assert two.checkpoint("default") == one.checkpoint("default")
    assert two.hash_at("default", 0, 0) == one.hash_at("default", 0, 0)


def test_many_replicas_hammer_one_database(server_lab: Lab) -> None:
    """Every acknowledged entry is in the log where its receipt says, and no update is lost."""
    receipts: list[int] = []
    taken: list[int] = []

    def work(store: Store, number: int) -> None:
        for at in range(8):
            receipts.append(store.commit(log()).first)
            with contextlib.suppress(StaleDecision, DeniedError):
                snapshot = store.snapshot("default")
                meta = snapshot.get("secret", "shared")
                previous = meta.version if meta else 0
                changes = put("shared", b"%d" % at, previous=previous).changes
                receipt = store.commit(log(changes=changes, generation=snapshot.generation))
                receipts.append(receipt.first)
                taken.append(receipt.versions[0])
            receipts.append(store.commit(log(counts=(Count("n"),))).first)
            store.commit(log(project=f"p{number}"))

    with contextlib.ExitStack() as stack:
        stores = [stack.enter_context(server_lab.open()) for _ in range(3)]
        threads = [threading.Thread(target=work, args=(store, at)) for at, store in enumerate(stores * 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(receipts) == list(range(len(receipts)))
        assert sorted(taken) == list(range(1, len(taken) + 1))
        assert stores[0].verify("default") == len(receipts)
        stores[1].commit(log())
        assert stores[1].counter("default", "n") == 48
    with server_lab.open() as store:
        assert store.projects() == ("default", *(f"p{number}" for number in range(6)))


def test_replicas_may_start_on_an_empty_database_at_once(postgres: Postgres) -> None:
    lab = Lab(postgres.create())
    stores: list[Store] = []
    threads = [threading.Thread(target=lambda: stores.append(lab.open())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [store.commit(log()).first for store in stores] == [0, 1, 2, 3]
    for store in stores:
        store.close()
