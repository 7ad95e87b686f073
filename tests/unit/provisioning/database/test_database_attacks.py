"""Whoever holds the database changes it, behind a store that is closed and behind one that serves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from database_factory import Lab, Ring, log, put

from kokon.errors import KokonError, UntrustedError
from kokon.provisioning.database import Count, Delete, Store
from kokon.provisioning.ledger.merkle import EMPTY_ROOT

CANARY = b"canary-5e1f0c2a-value"


def refused(lab: Lab, **options: Any) -> str:
    """The code that opening fails with."""
    with pytest.raises(UntrustedError) as caught:
        lab.open(**options).close()
    assert CANARY.decode() not in str(caught.value)
    return caught.value.code


def failing(call: Callable[[], object]) -> str:
    with pytest.raises(KokonError) as caught:
        call()
    return caught.value.code


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, dict[str, Any]]:
    """Two projects, several versions, a mark of a deleted one, counters; and all rows."""
    if request.param == "sqlite":
        lab = Lab(tmp_path_factory.mktemp("attacked") / "kokon.db")
    else:
        lab = Lab(request.getfixturevalue("postgres").create())
    with lab.open() as store:
        for name, value in (("a", CANARY), ("a", b"two"), ("b", b"three"), ("c", b"four")):
            store.commit(put(name, value))
            store.commit(put(name, value, project="bank"))
        store.commit(log(changes=(Delete("secret", "c"),)))
        store.commit(log(counts=(Count("activations", 5),)))
    return lab, lab.dump()


@pytest.fixture
def filled(made: tuple[Lab, dict[str, Any]]) -> Lab:
    """The same database for each attack, as it was before the others."""
    lab, rows = made
    lab.load(rows)
    return replace(lab, ring=copy(lab.ring))


SEALED = "SELECT sealed FROM records WHERE project = 'default' AND name = ? AND version = ?"

ROWS = {
    "another value": "UPDATE records SET sealed = (SELECT sealed FROM records r WHERE r.project = 'default' AND"
    " r.name = 'b') WHERE project = 'default' AND name = 'a' AND version = 2",
    "renamed": "UPDATE records SET name = 'z' WHERE project = 'default' AND name = 'b'",
    "another kind": "UPDATE records SET kind = 'policy' WHERE project = 'default' AND name = 'b'",
    "another project": "UPDATE records SET project = 'bank', name = 'z' WHERE project = 'default' AND name = 'b'",
    "another version": "UPDATE records SET version = 7 WHERE project = 'default' AND name = 'b'",
    "versions swapped": "UPDATE records SET version = CASE version WHEN 1 THEN 102 ELSE 101 END WHERE name = 'a'",
    "made later": "UPDATE records SET created = created + 1 WHERE project = 'default' AND name = 'b'",
    "expires never": "UPDATE records SET expires = 1 WHERE project = 'default' AND name = 'b'",
    "another key": "UPDATE records SET key_id = 2 WHERE project = 'default' AND name = 'b'",
    "another nonce": "UPDATE records SET nonce = sealed WHERE project = 'default' AND name = 'b'",
    "newest deleted": "DELETE FROM records WHERE project = 'default' AND name = 'a' AND version = 2",
    "mark deleted": "DELETE FROM records WHERE project = 'default' AND name = 'c'",
    "mark made a value": "UPDATE records SET key_id = 1 WHERE project = 'default' AND name = 'c'",
    "all deleted": "DELETE FROM records",
    "counter set back": "UPDATE counters SET value = 0",
    "counter negative": "UPDATE counters SET value = -1",
    "counter deleted": "DELETE FROM counters",
    "counter renamed": "UPDATE counters SET name = 'other'",
    "absurd time": "UPDATE records SET created = 9000000000000000000 WHERE name = 'b'",
    "absurd version": "UPDATE records SET version = -1 WHERE name = 'b'",
    "head: size": "UPDATE heads SET size = size + 1 WHERE project = 'default'",
    "head: generation": "UPDATE heads SET generation = generation - 1 WHERE project = 'default'",
    "head: checkpoint": "UPDATE heads SET checkpoint = nonce WHERE project = 'default'",
    "head: frontier": "UPDATE heads SET frontier = (SELECT frontier FROM heads h WHERE h.project = '')"
    " WHERE project = 'default'",
    "head: tag": "UPDATE heads SET tag = nonce WHERE project = 'default'",
    "head: secret": "UPDATE heads SET wrapped = (SELECT wrapped FROM heads h WHERE h.project = 'bank')"
    " WHERE project = 'default'",
    "head: nonce": "UPDATE heads SET nonce = tag WHERE project = 'default'",
    "head: negative": "UPDATE heads SET generation = -1 WHERE project = 'default'",
    "heads swapped": "UPDATE heads SET project = CASE project WHEN 'bank' THEN 'bank2' ELSE 'bank3' END"
    " WHERE project <> ''",
    "head deleted": "DELETE FROM heads WHERE project = 'bank'",
    "server's head deleted": "DELETE FROM heads WHERE project = ''",
    "heads deleted": "DELETE FROM heads",
}


@pytest.mark.parametrize("attack", ROWS)
def test_a_changed_row_is_found_on_opening(filled: Lab, attack: str) -> None:
    filled.sql(ROWS[attack])
    assert failing(filled.check) == "store-tampered"


def test_an_old_row_put_back_is_found(filled: Lab) -> None:
    old = [row for row in filled.table("records") if row[2] == "b"]
    with filled.open() as store:
        store.commit(log(changes=(Delete("secret", "b"),)))
        store.commit(put("b", b"new"))
    for row in filled.table("records"):
        assert row[3] != 1 or row[2] != "b" or row[0] != "default"
    filled.insert("records", next(row for row in old if row[0] == "default"))
    assert refused(filled) == "store-tampered"


def test_an_older_mark_put_beside_a_newer_is_found(lab: Lab) -> None:
    with lab.open() as store:
        store.commit(put("a"))
        store.commit(log(changes=(Delete("secret", "a"),)))
        (mark,) = lab.table("records")
        store.commit(put("a"))
        store.commit(log(changes=(Delete("secret", "a"),)))
    lab.insert("records", mark)
    assert refused(lab) == "store-tampered"


def test_a_row_of_another_database_is_found(filled: Lab, tmp_path: Path) -> None:
    other = Lab(tmp_path / "other.db", filled.ring)
    with other.open() as store:
        store.commit(put("planted", b"mine"))
    filled.insert("records", other.table("records")[0])
    assert refused(filled) == "store-tampered"


def test_a_project_taken_out_as_a_whole_is_found(filled: Lab) -> None:
    for table in ("heads", "records", "entries", "nodes", "counters"):
        filled.sql(f"DELETE FROM {table} WHERE project = 'bank'")
    assert refused(filled) == "store-tampered"


def test_a_project_put_in_from_another_database_is_found(filled: Lab, tmp_path: Path) -> None:
    other = Lab(tmp_path / "other.db", filled.ring)
    with other.open() as store:
        store.commit(log(project="planted"))
    for table in ("heads", "entries"):
        for row in other.table(table):
            if row[0] == "planted":
                filled.insert(table, row)
    assert refused(filled) == "store-tampered"


def test_a_project_set_back_as_a_whole_is_found_by_what_was_remembered(filled: Lab) -> None:
    tables = ("heads", "records", "entries")
    old = {table: filled.table(table) for table in tables}
    with filled.open() as store:
        store.commit(log(project="default", changes=(Delete("secret", "a"),)))
        remembered = store.remember()
    for table in tables:
        filled.put_back(table, old[table])
    assert refused(filled, remembered=remembered) == "log-rolled-back"
    filled.open().close()  # nothing inside tells


def test_an_emptied_database_is_found_by_what_was_remembered(filled: Lab) -> None:
    with filled.open() as store:
        remembered = store.remember()
    for table in ("heads", "records", "entries", "nodes", "counters"):
        filled.sql(f"DELETE FROM {table}")
    assert refused(filled, remembered=remembered) == "log-rolled-back"


def test_another_history_is_found_by_what_was_remembered(filled: Lab) -> None:
    tables = ("heads", "records", "entries")
    old = {table: filled.table(table) for table in tables}
    with filled.open() as store:
        store.commit(log("denial"))
        remembered = store.remember()
    for table in tables:
        filled.put_back(table, old[table])
    with filled.open() as store:
        store.commit(log("release"))
        store.commit(log("release"))
    assert refused(filled, remembered=remembered) == "log-rolled-back"


def test_what_was_remembered_longer_ago_is_as_good(filled: Lab) -> None:
    with filled.open() as store:
        remembered = store.remember()
        for _ in range(3):
            store.commit(log())
    with filled.open(remembered={**remembered, "never": (0, EMPTY_ROOT), "bank": (0, b"")}) as store:
        assert store.frontier("default").size == remembered["default"][0] + 3


LOGS = {
    "last entry deleted": "DELETE FROM entries WHERE project = 'default' AND number = 5",
    "first entry deleted": "DELETE FROM entries WHERE project = 'default' AND number = 0",
    "hash changed": "UPDATE entries SET leaf_hash = (SELECT leaf_hash FROM entries e WHERE e.number = 1 AND"
    " e.project = 'bank') WHERE project = 'default' AND number = 0",
    "hash of a wrong size": "UPDATE entries SET leaf_hash = entry WHERE project = 'default' AND number = 0",
    "order changed": "UPDATE entries SET number = 1000 - number WHERE project = 'default'",
    "moved to another project": "UPDATE entries SET project = 'other' WHERE project = 'default'",
}


@pytest.mark.parametrize("attack", LOGS)
def test_a_changed_log_is_found_on_opening(filled: Lab, attack: str) -> None:
    filled.sql(LOGS[attack])
    assert failing(filled.check) == "log-broken"


def test_what_was_not_changed_opens(filled: Lab) -> None:
    filled.check()
    filled.open().close()


def test_a_changed_tile_is_found_on_opening(lab: Lab) -> None:
    with lab.open() as store:
        for _ in range(2):
            store.commit(_many(200))
    assert len(lab.table("nodes")) == 1
    lab.sql("UPDATE nodes SET hash = (SELECT leaf_hash FROM entries WHERE number = 1)")
    assert refused(lab) == "log-broken"
    lab.sql("DELETE FROM nodes")
    assert refused(lab) == "log-broken"


def _many(count: int) -> Any:
    work = log()
    return type(work)(work.project, work.entries * count)


def test_a_changed_entry_is_found_when_it_is_read(filled: Lab) -> None:
    other = "(SELECT entry FROM entries e WHERE e.project = 'bank' AND e.number = 1)"
    filled.sql(f"UPDATE entries SET entry = {other} WHERE project = 'default' AND number = 2")
    with filled.open() as store:
        assert len(store.entries("default", 0, 2)) == 2
        assert failing(lambda: store.entries("default", 2, 1)) == "log-broken"
        assert failing(lambda: store.verify("default")) == "log-broken"
        assert store.verify("bank") == 4


def test_an_entry_changed_with_its_hash_is_found_by_reading_all(lab: Lab) -> None:
    with lab.open() as store:
        for _ in range(2):
            store.commit(_many(200))
    lab.sql(
        "UPDATE entries SET entry = o.entry, leaf_hash = o.leaf_hash FROM entries o WHERE o.number = 399 AND"
        " entries.number = 0"
    )
    with lab.open() as store:
        assert failing(lambda: store.verify("default")) == "log-broken"


def test_an_entry_taken_out_of_a_full_tile_is_found_when_it_is_read(lab: Lab) -> None:
    with lab.open() as store:
        for _ in range(2):
            store.commit(_many(200))
    lab.sql("DELETE FROM entries WHERE number = 100")
    with lab.open() as store:
        assert failing(lambda: store.entries("default", 90, 20)) == "log-broken"
        assert failing(lambda: store.verify("default")) == "log-broken"


@pytest.mark.parametrize(
    "attack",
    ["another value", "renamed", "another version", "made later", "another key", "another nonce", "all deleted"],
)
def test_a_row_changed_behind_a_serving_store_is_found_when_it_is_read(filled: Lab, attack: str) -> None:
    with filled.open() as store:
        filled.sql(ROWS[attack])
        found = {_code(store, name, version) for name, version in (("a", 2), ("b", None))}
        assert "store-tampered" in found
        assert found <= {"store-tampered", None}, "None: the attack was on the other"


def read(store: Store, name: str, version: int | None) -> bytes | None:
    return store.read("default", "secret", name, version)


def _code(store: Store, name: str, version: int | None) -> str | None:
    """The code that reading fails with; None if it gives what was put."""
    try:
        assert read(store, name, version) == (b"two" if name == "a" else b"three")
    except UntrustedError as error:
        return error.code
    return None


def test_an_old_row_put_back_behind_a_serving_store_is_found_when_it_is_read(filled: Lab) -> None:
    with filled.open() as store:
        old = [row for row in filled.table("records") if row[:3] == ("default", "secret", "b")]
        store.commit(log(changes=(Delete("secret", "b"),)))
        assert read(store, "b", None) is None
        filled.sql("DELETE FROM records WHERE project = 'default' AND name = 'b'")
        filled.insert("records", old[0])
        assert read(store, "b", None) is None, "what is not in the catalogue is not there"
    assert refused(filled) == "store-tampered"


def test_a_head_changed_behind_a_serving_store_stops_its_project(filled: Lab) -> None:
    with filled.open() as store:
        filled.sql(ROWS["head: tag"])
        assert failing(lambda: store.commit(log())) == "store-tampered"
        assert store.commit(log(project="bank")).size == 5
    refused(filled)


@pytest.mark.parametrize("attack", ["head: generation", "head: checkpoint", "head: frontier"])
def test_a_head_changed_but_for_its_tag_is_written_anew(filled: Lab, attack: str) -> None:
    with filled.open() as store:
        before = store.remember()
        filled.sql(ROWS[attack])
        store.commit(log())
    with filled.open(remembered=before) as store:
        assert store.verify("default") == 7


def test_a_head_deleted_behind_a_serving_store_stops_its_project(filled: Lab) -> None:
    with filled.open() as store:
        filled.sql("DELETE FROM heads WHERE project = 'default'")
        assert failing(lambda: store.commit(log())) == "log-rolled-back"


def test_a_database_set_back_behind_a_serving_store_is_found(filled: Lab) -> None:
    tables = ("heads", "records", "entries")
    old = {table: filled.table(table) for table in tables}
    with filled.open() as store:
        for _ in range(2):
            store.commit(log())
        for table in tables:
            filled.put_back(table, old[table])
        assert failing(lambda: store.commit(log())) == "log-rolled-back"


def test_another_history_behind_a_serving_store_is_found(filled: Lab, tmp_path: Path) -> None:
    """The database is copied, another server writes to the copy, and the copy takes the original's place."""
    tables = ("heads", "records", "entries")
    with filled.open() as store:
        old = {table: filled.table(table) for table in tables}
        store.commit(log("ours"))
        ours = {table: filled.table(table) for table in tables}
        for table in tables:
            filled.put_back(table, old[table])
        twin = Lab(filled.location, filled.ring)
        if filled.shared:
            with twin.open() as other:
                other.commit(log("theirs"))
                other.commit(log("theirs"))
            assert failing(lambda: store.commit(log())) == "log-broken"
        for table in tables:
            filled.put_back(table, ours[table])
        assert store.commit(log()).first == 7


def test_another_key_ring_opens_nothing(filled: Lab) -> None:
    filled.ring = Ring()
    assert refused(filled) == "store-tampered"


def test_a_key_that_the_ring_lacks_is_named_by_the_ring(filled: Lab) -> None:
    filled.ring.keys.pop(1)
    filled.ring.rotate()
    assert refused(filled) == "test-key-unknown"


def test_no_value_stands_in_the_database(file_lab: Lab) -> None:
    with file_lab.open() as store:
        for number in range(50):
            store.commit(put(f"name-{number}", CANARY))
        store.commit(log(changes=(Delete("secret", "name-3"),)))
        store.reseal(10)
        files = list(Path(file_lab.location).parent.iterdir())
        assert len(files) == 4
        assert any(b"name-4" in path.read_bytes() for path in files)
        assert not any(CANARY in path.read_bytes() for path in files)
        assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_a_deleted_value_is_overwritten(file_lab: Lab) -> None:
    """Its ciphertext too, as far as the file goes."""
    with file_lab.open() as store:
        store.commit(put("a", CANARY * 300))
        sealed = file_lab.sql("SELECT sealed FROM records")[0][0]
        store.commit(log(changes=(Delete("secret", "a"),)))
        store.commit(log())
        for path in Path(file_lab.location).parent.iterdir():
            assert sealed[100:200] not in path.read_bytes(), path.name


def test_a_copied_file_is_refused_without_its_keys(file_lab: Lab, tmp_path: Path) -> None:
    with file_lab.open() as store:
        store.commit(put("a"))
    shutil.copy(file_lab.location, tmp_path / "copy.db")
    assert refused(Lab(tmp_path / "copy.db")) == "store-tampered"
