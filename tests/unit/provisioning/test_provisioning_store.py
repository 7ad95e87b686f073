from __future__ import annotations

import sqlite3
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kokon.errors import HostError, KokonError, MalformedError, UntrustedError
from kokon.provisioning.log import verify_chain
from kokon.provisioning.store import DATABASE, Store

NOW = datetime(2026, 5, 1, tzinfo=UTC)
KEY = bytes(range(32))


@pytest.fixture
def store(tmp_path: Path):
    store = Store(tmp_path, KEY)
    yield store
    store.close()


def raw(directory: Path) -> sqlite3.Connection:
    return sqlite3.connect(directory / DATABASE, isolation_level=None)


def test_records_are_versioned_sealed_and_survive(tmp_path: Path) -> None:
    store = Store(tmp_path, KEY)
    assert store.get("resource", "a/b/c") is None
    assert store.put("resource", "a/b/c", b"canary-secret-1", NOW) == 1
    assert store.put("resource", "a/b/c", b"canary-secret-2", NOW) == 2
    assert store.get("resource", "a/b/c") == b"canary-secret-2"
    store.close()
    assert not any(b"canary" in path.read_bytes() for path in tmp_path.iterdir())
    again = Store(tmp_path, KEY)
    assert again.get("resource", "a/b/c") == b"canary-secret-2"
    assert [info.version for info in again.names("resource")] == [2]
    assert again.delete("resource", "a/b/c")
    assert not again.delete("resource", "a/b/c")
    assert again.get("resource", "a/b/c") is None
    assert again.names("resource") == []
    assert again.put("resource", "a/b/c", b"3", NOW) == 3
    assert (tmp_path / DATABASE).stat().st_mode & 0o777 == 0o600
    again.close()


def test_wrong_master_key_is_refused_and_releases_the_directory(tmp_path: Path) -> None:
    Store(tmp_path, KEY).close()
    with pytest.raises(UntrustedError) as caught:
        Store(tmp_path, bytes(32))
    assert caught.value.code == "store-tampered"
    Store(tmp_path, KEY).close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE records SET version = version + 1 WHERE name = 'a/b/c'",
        "UPDATE records SET sealed = (SELECT sealed FROM records WHERE name = 'x/y/z') WHERE name = 'a/b/c'",
        "UPDATE records AS r SET (nonce, sealed) = (SELECT nonce, sealed FROM records WHERE name = 'x/y/z')",
        "UPDATE records SET sealed = x'00' WHERE name = 'a/b/c'",
        "UPDATE records SET nonce = x'' WHERE name = 'a/b/c'",
    ],
)
def test_swapped_or_altered_rows_are_noticed(tmp_path: Path, store: Store, change: str) -> None:
    store.put("resource", "a/b/c", b"one", NOW)
    store.put("resource", "x/y/z", b"two", NOW)
    raw(tmp_path).execute(change)
    with pytest.raises(UntrustedError) as caught:
        store.get("resource", "a/b/c")
    assert caught.value.code == "store-tampered"


def test_an_old_row_put_back_under_the_new_version_is_noticed(tmp_path: Path, store: Store) -> None:
    store.put("resource", "a/b/c", b"old", NOW)
    old = raw(tmp_path).execute("SELECT nonce, sealed FROM records WHERE name='a/b/c'").fetchone()
    store.put("resource", "a/b/c", b"new", NOW)
    raw(tmp_path).execute("UPDATE records SET nonce=?, sealed=? WHERE name='a/b/c'", old)
    with pytest.raises(UntrustedError):
        store.get("resource", "a/b/c")


def test_a_transaction_is_all_or_nothing(store: Store) -> None:
    head = store.head

    def fail() -> None:
        with store.transaction():
            store.put("resource", "a/b/c", b"one", NOW)
            store.append(NOW, "test", {})
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert store.get("resource", "a/b/c") is None
    assert store.head == head
    assert store.append(NOW, "test", {}).sequence == head.sequence + 1


def test_the_log_cannot_be_rewritten_and_tampering_stops_the_server(tmp_path: Path) -> None:
    store = Store(tmp_path, KEY)
    for number in range(3):
        store.append(NOW, "test", {"number": number}, denial=f"id{number}")
    entries, head = store.entries(0, 10)
    assert verify_chain(entries) == head == store.head
    assert store.entries(2, 10)[0] == entries[2:]
    assert store.denial("id1")["number"] == 1  # type: ignore[index]
    assert store.denial("nothing") is None
    store.close()
    database = raw(tmp_path)
    for statement in ("UPDATE log SET entry = x'00'", "DELETE FROM log"):
        with pytest.raises(sqlite3.IntegrityError):
            database.execute(statement)
    database.execute("DROP TRIGGER log_no_update")
    database.execute("UPDATE log SET entry = replace(entry, '\"number\":1', '\"number\":9') WHERE sequence = 2")
    database.close()
    with pytest.raises(KokonError) as caught:
        Store(tmp_path, KEY)
    assert caught.value.code == "log-broken"


def test_a_store_that_does_not_open_keeps_nothing_open(tmp_path: Path) -> None:
    store = Store(tmp_path, KEY)
    store.append(NOW, "test", {})
    store.close()
    database = raw(tmp_path)
    database.execute("DROP TRIGGER log_no_update")
    database.execute("UPDATE log SET entry = x'00'")
    database.close()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):  # not state-in-use the second time
        with pytest.raises(MalformedError) as caught:
            Store(tmp_path, KEY)
        assert caught.value.code == "json-malformed"
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_entries_cut_off_at_the_end_are_missed(tmp_path: Path) -> None:
    store = Store(tmp_path, KEY)
    for number in range(3):
        store.append(NOW, "test", {"number": number})
    store.close()
    database = raw(tmp_path)
    database.execute("DROP TRIGGER log_no_delete")
    database.execute("DELETE FROM log WHERE sequence = 3")
    database.close()
    with pytest.raises(UntrustedError) as caught:
        Store(tmp_path, KEY)
    assert caught.value.code == "log-broken"


def test_one_server_at_a_time(tmp_path: Path, store: Store) -> None:
    with pytest.raises(HostError) as caught:
        Store(tmp_path, KEY)
    assert caught.value.code == "state-in-use"


def test_unusable_directory_and_file(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        Store(tmp_path / "missing", KEY)
    assert caught.value.code == "store-failed"
    (tmp_path / DATABASE).write_bytes(b"not a database, but long enough to look at" * 30)
    with pytest.raises(HostError) as caught:
        Store(tmp_path, KEY)
    assert caught.value.code == "store-failed"


def test_a_full_disk_loses_nothing_acknowledged(store: Store) -> None:
    store.put("resource", "a/b/c", b"kept", NOW)
    pages = store._database.execute("PRAGMA page_count").fetchone()[0]
    store._database.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(HostError) as caught:
        store.put("resource", "d/e/f", bytes(100_000), NOW)
    assert caught.value.code == "disk-full"
    assert store.get("resource", "a/b/c") == b"kept"
    assert store.get("resource", "d/e/f") is None
    store._database.execute("PRAGMA max_page_count=100000")
    assert store.put("resource", "d/e/f", bytes(100_000), NOW) == 1


def test_threads_share_it(store: Store) -> None:
    def work(name: str) -> None:
        for _ in range(20):
            with store.transaction():
                store.put("resource", f"a/b/{name}", name.encode(), NOW)
                store.append(NOW, "test", {"name": name})

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries, head = store.entries(0, 1000)
    assert verify_chain(entries) == head
    assert head.sequence == 80
    assert {info.version for info in store.names("resource")} == {20}
