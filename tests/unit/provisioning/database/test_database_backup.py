"""Backups: made while the store serves, restored into either kind of database."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from database_factory import Lab, Postgres, log, put
from hypothesis import given, settings
from hypothesis import strategies as st

from kokon.errors import HostError, KokonError, MalformedError, UntrustedError, UsageError
from kokon.provisioning.custody.keyring import RING_LIMIT, make_ring
from kokon.provisioning.custody.master import make_master
from kokon.provisioning.database import Count, Delete, Entry, Store, Work
from kokon.provisioning.database.backup import backup, restore
from kokon.provisioning.database.engines import Backend, open_backend
from kokon.provisioning.database.opening import is_empty
from kokon.wire import b64, unb64


def fill(store: Store) -> None:
    for name in ("a", "a", "b", "c"):
        store.commit(put(name, name.encode() * 3))
    store.commit(log(changes=(Delete("secret", "c"),), counts=(Count("n"),)))
    store.commit(put("ü", b"", project="bank"))
    for _ in range(2):
        store.commit(Work("bank", (Entry("fill", {}),) * 200))


def saved(store: Store) -> bytes:
    sink = io.BytesIO()
    rows = backup(store.backend, sink)
    assert rows == len(sink.getvalue().splitlines()) - 2
    return sink.getvalue()


def restored(data: bytes, lab: Lab) -> int:
    backend = open_backend(lab.location)
    try:
        return restore(io.BytesIO(data), backend)
    finally:
        backend.close()


def code(call: Callable[[], object]) -> str:
    with pytest.raises(KokonError) as caught:
        call()
    return caught.value.code


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Lab:
    """An empty database to restore into."""
    if request.param == "sqlite":
        return Lab(tmp_path / "target.db")
    return Lab(request.getfixturevalue("postgres").create())


def test_a_backup_is_restored(lab: Lab, target: Lab) -> None:
    with lab.open() as store:
        fill(store)
        remembered, before = store.remember(), store.snapshot("default")
        entries = store.entries("bank", 0, 1000)
        data = saved(store)
        store.commit(log())
    target.ring = lab.ring
    assert restored(data, target) == len(data.splitlines()) - 2
    with target.open(remembered=remembered) as store:
        assert store.snapshot("default") == before
        assert store.read("default", "secret", "a") == b"aaa"
        assert store.entries("bank", 0, 1000) == entries
        assert store.verify("bank") == 401
        assert store.counter("default", "n") == 1
        assert saved(store) == data
        assert store.commit(put("c")).versions == (2,)


def test_an_older_backup_is_told_from_what_was_there(file_lab: Lab, tmp_path: Path) -> None:
    with file_lab.open() as store:
        fill(store)
        data = saved(store)
        store.commit(log())
        remembered = store.remember()
    target = Lab(tmp_path / "target.db", file_lab.ring)
    restored(data, target)
    with pytest.raises(UntrustedError) as caught:
        target.open(remembered=remembered)
    assert caught.value.code == "log-rolled-back"


def test_nothing_secret_is_in_a_backup(lab: Lab) -> None:
    with lab.open() as store:
        store.commit(put("a", b"canary" * 20))
        data = saved(store)
    assert b"canary" not in data
    assert b"Y2FuYXJ5" not in data
    lab.ring.keys.clear()


def test_a_backup_is_of_one_moment(lab: Lab, target: Lab) -> None:
    """Writes go on while it is read."""
    with lab.open() as store:
        fill(store)
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                store.commit(put("busy"))

        writer = threading.Thread(target=write)
        writer.start()
        data = saved(store)
        stop.set()
        writer.join()
    target.ring = lab.ring
    restored(data, target)
    with target.open() as store:
        assert store.verify("default") == store.frontier("default").size


def test_a_serving_file_can_be_backed_up_by_another_process(file_lab: Lab) -> None:
    with file_lab.open() as store:
        fill(store)
        other = open_backend(file_lab.location, alone=False)
        sink = io.BytesIO()
        backup(other, sink)
        other.close()
        assert sink.getvalue() == saved(store)
        store.commit(log())


def test_a_changed_backup_opens_nowhere(file_lab: Lab, tmp_path: Path) -> None:
    """The digest is anybody's to compute; the heads' tags are not."""
    with file_lab.open() as store:
        fill(store)
        lines = saved(store).splitlines(keepends=True)
    dropped = [line for line in lines if not line.startswith(b'["records","default","secret","b"')]
    assert len(dropped) == len(lines) - 1
    target = Lab(tmp_path / "target.db", file_lab.ring)
    restored(closed(dropped[:-1]), target)
    with pytest.raises(UntrustedError) as caught:
        target.open()
    assert caught.value.code == "store-tampered"


def closed(lines: list[bytes]) -> bytes:
    """Lines with a right end."""
    data = b"".join(lines)
    end = {"rows": len(lines) - 1, "sha256": hashlib.sha256(data).hexdigest()}
    return data + json.dumps(end).encode() + b"\n"


def test_a_backup_goes_into_an_empty_database(lab: Lab) -> None:
    with lab.open() as store:
        data = saved(store)
    assert code(lambda: restored(data, lab)) == "restore-not-empty"
    lab.open().close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The lines of a backup."""
    lab = Lab(tmp_path_factory.mktemp("made") / "kokon.db")
    with lab.open() as store:
        store.commit(put("a", project="bank"))
        store.commit(Work("default", (Entry("fill", {}),) * 256))
        return saved(store).splitlines(keepends=True)


@pytest.fixture(scope="module")
def tables(empty_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """An empty database whose tables are there."""
    backend = open_backend(Path(shutil.copy(empty_file, tmp_path_factory.mktemp("spoilt"))))
    yield backend
    backend.close()


def with_header(**changes: Any) -> Callable[[list[bytes]], bytes]:
    def change(lines: list[bytes]) -> bytes:
        header = {**json.loads(lines[0]), **changes}
        return closed([json.dumps(header).encode() + b"\n", *lines[1:-1]])

    return change


def with_row(row: object) -> Callable[[list[bytes]], bytes]:
    return lambda lines: closed([*lines[:-1], json.dumps(row).encode() + b"\n"])


COUNTER = ["counters", "default", "m", 1, 1]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda lines: b"", "backup-malformed"),
        (lambda lines: b"".join(lines[:-1]), "backup-malformed"),
        (lambda lines: b"".join(lines)[:-1], "backup-malformed"),
        (lambda lines: b"".join(lines) + b"\n", "backup-malformed"),
        (lambda lines: b"".join(lines[:5] + lines[6:]), "backup-malformed"),
        (lambda lines: b"".join(lines[:-1]) + lines[-1].replace(b'"rows":', b'"rows":1'), "backup-malformed"),
        (lambda lines: b"".join(lines).replace(b'"bank"', b'"tank"', 1), "backup-malformed"),
        (lambda lines: lines[0] + b"x" * (8 << 20) + b"\n", "backup-malformed"),
        (lambda lines: lines[0] + b"nonsense\n", "json-malformed"),
        (lambda lines: closed(lines[:-1]).replace(b'{"rows"', b'{"more": 1, "rows"'), "field-unknown"),
        (with_header(format="kokon backup 2"), "backup-malformed"),
        (with_header(schema="9999"), "store-newer"),
        (with_header(tables={}), "backup-malformed"),
        (with_header(more=1), "field-unknown"),
        (with_row([]), "backup-malformed"),
        (with_row([1]), "backup-malformed"),
        (with_row(["alembic_version", "0001"]), "backup-malformed"),
        (with_row(COUNTER[:-1]), "backup-malformed"),
        (with_row([*COUNTER, 1]), "backup-malformed"),
        (with_row(["counters", 1, "m", 1, 1]), "backup-malformed"),
        (with_row(["counters", "default", "m", True, 1]), "backup-malformed"),
        (with_row(["counters", "default", "m", 1 << 63, 1]), "backup-malformed"),
        (with_row(["counters", "default", "m\0", 1, 1]), "backup-malformed"),
        (with_row(["counters", "default", "m", None, 1]), "store-failed"),
        (with_row(["nodes", "default", 1, 0, 7]), "backup-malformed"),
        (with_row(["nodes", "default", 1, 0, "!"]), "base64-malformed"),
    ],
)
def test_what_is_no_backup_is_refused_and_leaves_nothing(
    made: list[bytes], tables: Backend, change: Callable[[list[bytes]], bytes], expected: str
) -> None:
    assert code(lambda: restore(io.BytesIO(change(made)), tables)) == expected
    with tables.reading() as connection:
        assert is_empty(connection)


def test_a_row_more_is_restored(made: list[bytes], file_lab: Lab) -> None:
    """So the ones above are refused for what is wrong with them."""
    assert restored(with_row(COUNTER)(made), file_lab) == len(made) - 1


def test_a_schema_without_its_tables_is_refused(made: list[bytes], tmp_path: Path) -> None:
    tables = json.loads(made[0])["tables"]
    for wrong in ({**tables, "more": []}, {**tables, "heads": tables["heads"][1:]}, {**tables, "heads": 1}):
        with pytest.raises(MalformedError) as caught:
            restored(with_header(tables=wrong)(made), Lab(tmp_path / "t.db"))
        assert caught.value.code == "backup-malformed"


@settings(max_examples=60)
@given(data=st.data())
def test_a_spoilt_backup_is_never_taken(made: list[bytes], tables: Backend, data: st.DataObject) -> None:
    whole = b"".join(made[:40] + made[-1:])
    at = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != whole[at]))
    spoilt = whole[:at] + bytes([byte]) + whole[at + 1 :]
    with pytest.raises((MalformedError, UsageError, HostError)) as caught:
        restore(io.BytesIO(spoilt), tables)
    assert caught.value.code != "restore-not-empty"


def test_postgresql_gets_what_sqlite_had(file_lab: Lab, postgres: Postgres) -> None:
    """And back, byte for byte."""
    with file_lab.open() as store:
        fill(store)
        data = saved(store)
    server = Lab(postgres.create(), file_lab.ring)
    restored(data, server)
    with server.open() as store:
        assert saved(store) == data


# -- with the key ring ---------------------------------------------------------------------------------------------

MASTER = make_master()


@pytest.fixture
def kept(lab: Lab) -> tuple[bytes, dict[str, tuple[int, bytes]], tuple[int, str]]:
    """A backup whose key ring was turned, and what was remembered then."""
    with lab.open_with(MASTER) as store:
        fill(store)
        store.add_data_key()
        store.commit(put("d", b"under the second key"))
        return saved(store), dict(store.remember()), (store.ring.generation, store.ring.identity)


def test_a_backup_opens_with_its_master_key(kept: Any, target: Lab) -> None:
    data, heads, known = kept
    assert MASTER.key.hex().encode() not in data
    assert b64(MASTER.key).encode() not in data
    restored(data, target)
    assert code(lambda: target.open_with(make_master())) == "keyring-foreign"
    with target.open_with(MASTER, known, remembered=heads) as store:
        assert store.read("default", "secret", "a") == b"aaa"
        assert store.read("default", "secret", "d") == b"under the second key"
        assert store.read("bank", "secret", "ü") == b""
        assert (store.ring.generation, store.ring.identity) == known
        assert store.verify("default") == heads["default"][0]
        assert store.add_data_key() == 3


def test_a_backup_from_before_the_key_was_turned_is_found(file_lab: Lab, tmp_path: Path) -> None:
    with file_lab.open_with(MASTER) as store:
        store.commit(put("a"))
        data = saved(store)
        store.add_data_key()
        known = store.ring.generation, store.ring.identity
    target = Lab(tmp_path / "target.db")
    restored(data, target)
    assert code(lambda: target.open_with(MASTER, known)) == "keyring-rolled-back"
    target.open_with(MASTER).close()


def _row(lines: list[bytes], start: str) -> int:
    (at,) = (at for at, line in enumerate(lines) if line.startswith(start.encode()))
    return at


def _set(lines: list[bytes], start: str, column: int, value: object) -> list[bytes]:
    """The lines with another value in the one row that begins so."""
    at = _row(lines, start)
    row = json.loads(lines[at])
    row[column] = value
    return [*lines[:at], json.dumps(row).encode() + b"\n", *lines[at + 1 :]]


def _drop(lines: list[bytes], start: str) -> list[bytes]:
    at = _row(lines, start)
    return lines[:at] + lines[at + 1 :]


def _other_generation(lines: list[bytes]) -> list[bytes]:
    members = json.loads(unb64(json.loads(lines[_row(lines, '["documents"')])[2], what="ring", limit=RING_LIMIT))
    changed = json.dumps({**members, "generation": members["generation"] + 1})
    return _set(lines, '["documents"', 2, b64(changed.encode()))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda lines: _drop(lines, '["documents"'), "keyring-missing"),
        (_other_generation, "keyring-tampered"),
        (lambda lines: _set(lines, '["documents"', 2, b64(make_ring().encode(MASTER))), "store-tampered"),
        (lambda lines: _set(lines, '["documents"', 2, b64(make_ring().encode(make_master()))), "keyring-foreign"),
        (lambda lines: _set(lines, '["documents"', 1, "key-ring/" + "0" * 32), "keyring-foreign"),
        (lambda lines: _drop(lines, '["heads",""'), "store-tampered"),
        (lambda lines: _drop(lines, '["heads","bank"'), "store-tampered"),
        (lambda lines: _drop(lines, '["records","default","secret","d"'), "store-tampered"),
        (lambda lines: _drop(lines, '["counters"'), "store-tampered"),
        (lambda lines: _drop(lines, '["entries","default",5,'), "log-broken"),
        (lambda lines: _set(lines, '["counters"', 3, 0), "store-tampered"),
        (lambda lines: _set(lines, '["records","default","secret","d"', 9, 7), "store-tampered"),
        (lambda lines: _set(lines, '["records","default","secret","d"', 7, b64(bytes(36))), "store-tampered"),
        (lambda lines: _set(lines, '["entries","default",5,', 3, b64(bytes(32))), "log-broken"),
    ],
)
def test_a_tampered_backup_is_refused_when_it_is_opened(
    ringed: list[bytes], file_lab: Lab, change: Callable[[list[bytes]], list[bytes]], expected: str
) -> None:
    """Its digest is anybody's to compute."""
    restored(closed(change(ringed)), file_lab)
    assert code(lambda: file_lab.open_with(MASTER)) == expected


def test_a_backup_that_was_not_tampered_with_opens(ringed: list[bytes], file_lab: Lab) -> None:
    restored(closed(ringed), file_lab)
    with file_lab.open_with(MASTER) as store:
        assert store.read("default", "secret", "d") == b"d"


@pytest.fixture(scope="module")
def ringed(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The lines of a backup with its key ring, but for the last."""
    lab = Lab(tmp_path_factory.mktemp("ringed") / "kokon.db")
    with lab.open_with(MASTER) as store:
        fill(store)
        store.commit(put("d", b"d"))
        return saved(store).splitlines(keepends=True)[:-1]
