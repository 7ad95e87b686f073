"""What is remembered outside of the database, and the older database that it finds."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from database_factory import Lab, log, put

from kokon.errors import HostError, KokonError
from kokon.provisioning.custody.master import make_master
from kokon.provisioning.database import Store, memory
from kokon.provisioning.database.memory import Memory, Remembered, read_memory
from kokon.provisioning.ledger.merkle import EMPTY_ROOT

MASTER = make_master()


def opened(lab: Lab, path: Path) -> Store:
    """As a server does."""
    known = read_memory(path)
    return lab.open_with(MASTER, known.ring, remembered=known.heads)


def session(lab: Lab, path: Path, *names: str) -> None:
    """A server's life: it starts, writes, and ends."""
    with opened(lab, path) as store:
        memory = Memory(path, store)
        for name in names:
            store.commit(put(name))
        memory.close()


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(KokonError) as caught:
        call()
    return caught.value.code


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, "never"
        time.sleep(0.005)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.json"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PERIOD", 0.01)


# -- the file ------------------------------------------------------------------------------------------------------


def test_nothing_is_remembered_at_first(path: Path) -> None:
    assert read_memory(path) == Remembered({}, None)


def test_what_was_is_remembered(lab: Lab, path: Path) -> None:
    with lab.open_with(MASTER) as store:
        store.commit(put("a"))
        store.commit(log(project="bank"))
        store.add_data_key()
        Memory(path, store).close()
        assert read_memory(path) == Remembered(dict(store.remember()), (2, store.ring.identity))
        root = store.frontier("bank").root()
    assert read_memory(path).heads["bank"] == (1, root)
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_is_kept_up_to_date_beside_what_the_store_does(quick: None, file_lab: Lab, path: Path) -> None:
    with file_lab.open_with(MASTER) as store:
        keeper = Memory(path, store)
        store.commit(put("a"))
        eventually(lambda: read_memory(path).heads.get("default", (0, b""))[0] == 1)
        store.add_data_key()
        eventually(lambda: read_memory(path).ring == (2, store.ring.identity))
        keeper.close()


def test_nothing_is_written_unless_something_changed(
    quick: None, file_lab: Lab, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    replace = memory.replace_private
    monkeypatch.setattr(memory, "replace_private", lambda path, data: (written.append(path), replace(path, data)))
    with file_lab.open_with(MASTER) as store:
        looks: list[int] = []
        remember = store.remember
        monkeypatch.setattr(store, "remember", lambda: looks.append(1) or remember())
        keeper = Memory(path, store)
        eventually(lambda: len(looks) > 5)
        assert written == [path]
        store.commit(log())
        eventually(lambda: len(written) == 2)
        keeper.close()
    assert len(written) == 2


def test_the_last_is_written_at_the_end(file_lab: Lab, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PERIOD", 3600)
    with file_lab.open_with(MASTER) as store:
        keeper = Memory(path, store)
        store.commit(log())
        assert read_memory(path).heads == {}
        keeper.close()
        assert read_memory(path).heads["default"][0] == 1


def test_a_full_disk_is_no_end(quick: None, file_lab: Lab, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full: list[int] = []

    def refuse(path: Path, data: bytes) -> None:
        full.append(len(data))
        raise HostError("state-unusable", "no space left")

    with file_lab.open_with(MASTER) as store:
        keeper = Memory(path, store)
        with monkeypatch.context() as patched:
            patched.setattr(memory, "replace_private", refuse)
            store.commit(log())
            eventually(lambda: len(full) > 2)
            assert read_memory(path).heads == {}
        eventually(lambda: "default" in read_memory(path).heads)
        keeper.close()


def with_member(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda members: {**members, name: value}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (with_member("version", 2), "field-range"),
        (with_member("more", 1), "field-unknown"),
        (with_member("ring", {"generation": 0, "identity": "x"}), "field-range"),
        (with_member("ring", {"generation": 1, "identity": "x" * 65}), "field-too-long"),
        (with_member("ring", {"generation": 1, "identity": "x", "more": 1}), "field-unknown"),
        (with_member("ring", None), "field-type"),
        (with_member("logs", {"a": {"size": -1, "root": "00" * 32}}), "field-range"),
        (with_member("logs", {"a": {"size": 1, "root": "00" * 31}}), "size-mismatch"),
        (with_member("logs", {"a": {"size": 1, "root": "zz" * 32}}), "hex-malformed"),
        (with_member("logs", {"a": {"size": 1, "root": "00" * 32, "more": 1}}), "field-unknown"),
        (with_member("logs", {"a": 1}), "field-type"),
        (lambda members: [members], "field-type"),
    ],
)
def test_what_is_no_memory_is_refused(path: Path, change: Callable[[dict[str, Any]], Any], code: str) -> None:
    logs = {"a": {"size": 1, "root": "00" * 32}}
    good = {"version": 1, "ring": {"generation": 1, "identity": "x"}, "logs": logs}
    path.touch(0o600)
    path.write_text(json.dumps(good))
    assert read_memory(path) == Remembered({"a": (1, bytes(32))}, (1, "x"))
    path.write_text(json.dumps(change(good)))
    assert refused(lambda: read_memory(path)) == code


def test_a_spoilt_or_open_file_is_not_taken_for_none(path: Path) -> None:
    path.touch(0o600)
    assert refused(lambda: read_memory(path)) == "key-file-malformed"
    path.write_text("{")
    assert refused(lambda: read_memory(path)) == "json-malformed"
    path.write_text('{"version": 1, "version": 1}')
    assert refused(lambda: read_memory(path)) == "json-malformed"
    path.chmod(0o644)
    assert refused(lambda: read_memory(path)) == "key-file-exposed"
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))
    assert refused(lambda: read_memory(path)) == "state-unusable"
    path.unlink()
    path.mkdir(0o700)
    assert refused(lambda: read_memory(path)) == "key-file-malformed"
    (path.parent / "file").touch()
    assert refused(lambda: read_memory(path.parent / "file" / "memory.json")) == "state-unusable"


# -- what it finds -------------------------------------------------------------------------------------------------


def copied(lab: Lab, name: str) -> Path:
    """A copy of a database's file, which nobody has open."""
    source = Path(lab.location)
    assert not source.with_name(source.name + "-wal").exists(), "all is in the one file"
    return Path(shutil.copy(source, source.with_name(name)))


def test_the_whole_file_put_back_is_found(file_lab: Lab, path: Path, tmp_path: Path) -> None:
    session(file_lab, path, "a", "revoked")
    old, memory_then = copied(file_lab, "old"), path.read_bytes()
    session(file_lab, path, "b")
    memory_now = path.read_bytes()
    old.replace(file_lab.location)
    assert refused(lambda: opened(file_lab, path)) == "log-rolled-back"
    assert path.read_bytes() == memory_now, "it is not forgotten by looking"
    path.write_bytes(memory_then)
    opened(file_lab, path).close()


def test_a_file_of_before_the_key_was_turned_is_found(file_lab: Lab, path: Path) -> None:
    session(file_lab, path, "a")
    old = copied(file_lab, "old")
    with opened(file_lab, path) as store:
        store.add_data_key()
        Memory(path, store).close()
    old.replace(file_lab.location)
    assert refused(lambda: opened(file_lab, path)) == "keyring-rolled-back"


def test_a_file_that_is_gone_is_not_begun_anew(file_lab: Lab, path: Path) -> None:
    session(file_lab, path, "a")
    Path(file_lab.location).unlink()
    assert refused(lambda: opened(file_lab, path)) == "keyring-missing"


def test_another_servers_file_is_found(file_lab: Lab, path: Path, tmp_path: Path, empty_file: Path) -> None:
    """Of the same master key, and with a longer log."""
    session(file_lab, path, "a")
    place = Path(shutil.copy(empty_file, tmp_path / "other.db"))
    other = Lab(place)
    session(other, tmp_path / "other.json", "a", "b", "c")
    place.replace(file_lab.location)
    assert refused(lambda: opened(file_lab, path)) == "keyring-foreign"


def test_rows_put_back_in_a_shared_database_are_found(server_lab: Lab, path: Path) -> None:
    session(server_lab, path, "a")
    old = server_lab.dump()
    session(server_lab, path, "b")
    server_lab.load(old)
    assert refused(lambda: opened(server_lab, path)) == "log-rolled-back"


def test_what_is_remembered_may_be_behind(lab: Lab, path: Path) -> None:
    """As after a kill: what came in the last second is not in it."""
    session(lab, path, "a")
    with opened(lab, path) as store:
        store.commit(put("b"))
        store.add_data_key()
    with opened(lab, path) as store:
        assert store.frontier("default").size == 2
        assert store.ring.generation == 2


def test_an_empty_log_is_not_remembered(lab: Lab, path: Path) -> None:
    session(lab, path)
    assert read_memory(path).heads == {}
    with opened(lab, path) as store:
        assert store.frontier("default").root() == EMPTY_ROOT
