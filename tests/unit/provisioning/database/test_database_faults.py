"""Kills, lost connections, full disks: nothing acknowledged is lost, and the store recovers by itself."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from database_factory import Lab, Postgres, log, put
from sqlalchemy.exc import OperationalError

from kokon.errors import HostError, KokonError
from kokon.provisioning.custody.master import make_master
from kokon.provisioning.database import Store
from kokon.provisioning.database.cache import Cache
from kokon.provisioning.database.engines import failure

CHILD = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
sys.path.insert(0, sys.argv[1])
from database_factory import Lab, log, put
lab = Lab(sys.argv[2] if "://" in sys.argv[2] else Path(sys.argv[2]))
lab.ring.keys[1] = AESGCM(bytes.fromhex(sys.argv[3]))
store = lab.open()
waiting = []
for number in range(100_000):
    waiting.append(store.submit(put(f"n{number}") if number % 7 == 0 else log()))
    if len(waiting) == 8:
        print(*(future.result().first for future in waiting), flush=True)
        waiting = []
"""


def test_what_was_acknowledged_survives_a_kill(lab: Lab) -> None:
    key = os.urandom(32)
    lab.ring.keys[1] = AESGCM(key)
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(lab.location), key.hex()]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    lines = [child.stdout.readline() for _ in range(6)]
    child.send_signal(signal.SIGKILL)
    lines += child.stdout.readlines()
    child.wait()
    child.stdout.close()
    acknowledged = [int(word) for line in lines if line.endswith("\n") for word in line.split()]
    assert len(acknowledged) >= 48
    with lab.open() as store:
        size = store.verify("default")
        assert size == store.frontier("default").size > max(acknowledged)
        assert acknowledged == list(range(len(acknowledged)))
        names = store.snapshot("default").names("secret")
        assert {f"n{number}" for number in acknowledged if number % 7 == 0} <= set(names)
        assert all(store.read("default", "secret", name) == b"value" for name in names)
        assert store.commit(log()).first == size


TURNING = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from database_factory import Lab, put
from kokon.provisioning.custody.master import MasterKey
lab = Lab(sys.argv[2] if "://" in sys.argv[2] else Path(sys.argv[2]))
store = lab.open_with(MasterKey(bytes.fromhex(sys.argv[3])))
for number in range(100_000):
    key = store.add_data_key()
    store.commit(put(f"n{number}", b"%d" % number))
    while store.reseal(3):
        pass
    store.retire_data_keys()
    print(number, key, flush=True)
"""


def test_a_kill_while_keys_are_turned_loses_nothing(lab: Lab) -> None:
    """Neither a key that seals a row, nor a row."""
    master = make_master()
    command = [sys.executable, "-c", TURNING, str(Path(__file__).parent), str(lab.location), master.key.hex()]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    lines = [child.stdout.readline() for _ in range(4)]
    child.send_signal(signal.SIGKILL)
    lines += child.stdout.readlines()
    child.wait()
    child.stdout.close()
    done = [line.split() for line in lines if line.endswith("\n")]
    assert len(done) >= 4
    with lab.open_with(master) as store:
        names = store.snapshot("default").names("secret")
        assert {f"n{number}" for number, _ in done} <= set(names)
        assert all(store.read("default", "secret", name) == name[1:].encode() for name in names)
        assert store.verify("default") == store.frontier("default").size
        assert store.ring.current >= max(int(key) for _, key in done)
        assert store.add_data_key() == store.ring.current


def test_postgresql_is_killed_and_comes_back(postgres: Postgres, server_lab: Lab) -> None:
    acknowledged: list[int] = []
    failed: list[str] = []
    stop = threading.Event()

    def work(store: Store) -> None:
        while not stop.is_set():
            try:
                acknowledged.append(store.commit(log()).first)
            except HostError as error:
                failed.append(error.code)
                stop.wait(0.02)

    with server_lab.open() as store:
        store.commit(put("a", b"1"))
        threads = [threading.Thread(target=work, args=(store,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        _wait(lambda: len(acknowledged) > 20)
        postgres.kill()
        _wait(lambda: len(failed) > 3)
        assert _code(store.ping) == "store-unreachable"
        assert _code(lambda: store.entries("default", 0, 1)) == "store-unreachable"
        assert _code(lambda: server_lab.open().close()) == "store-unreachable"
        before = len(acknowledged)
        postgres.start()
        _wait(lambda: len(acknowledged) > before + 20)
        stop.set()
        for thread in threads:
            thread.join()
        assert set(failed) == {"store-unreachable"}
        assert len(set(acknowledged)) == len(acknowledged)
        assert store.verify("default") > max(acknowledged)
        assert store.read("default", "secret", "a") == b"1"
        remembered = store.remember()
        assert store._listener
        assert store._listener.connected.wait(10), "it hears again"
    server_lab.open(remembered=remembered).close()


def test_a_connection_that_was_cut_between_two_commits_is_not_noticed(server_lab: Lab) -> None:
    with server_lab.open() as store:
        store.commit(put("a", b"1"))
        _cut(server_lab)
        assert store.commit(log()).first == 1
        _cut(server_lab)
        assert store.read("default", "secret", "a") == b"1"


def test_a_commit_of_unknown_outcome_is_no_success(server_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks after COMMIT was sent: here it was done, and the store must find that out by itself."""
    with server_lab.open() as store:
        store.commit(log())
        committed = psycopg.Connection.commit
        with monkeypatch.context() as patched:

            def commit_and_break(connection: psycopg.Connection[Any]) -> None:
                committed(connection)
                connection.close()
                raise psycopg.OperationalError("server closed the connection unexpectedly")

            patched.setattr(psycopg.Connection, "commit", commit_and_break)
            assert _code(lambda: store.commit(put("a"))) == "store-unreachable"
        assert store.commit(log()).first == 2, "the entry of the one that failed is there"
        assert store.snapshot("default").names("secret") == ("a",)
        assert store.verify("default") == 3


def test_a_full_disk_is_named_and_passes(file_lab: Lab) -> None:
    with file_lab.open() as store:
        store.commit(put("a", b"1"))
        _allow_pages(store, "(SELECT 1)")
        large = put("large", bytes(1 << 20))
        assert _code(lambda: store.commit(large)) == "disk-full"
        assert store.commit(log()).first == 1, "what fits goes on"
        assert store.read("default", "secret", "a") == b"1"
        _allow_pages(store, "1000000")
        assert store.commit(large).first == 2
        assert store.verify("default") == 3
    file_lab.open().close()


class Disk:
    """A small one, with some space that can be given free."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._filler = place / "filler"
        self._filler.write_bytes(bytes(1 << 20))

    def free(self) -> None:
        self._filler.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m,mode=0777", "kokon-test", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("NOT TESTED: a full disk, since only root may mount one")
    yield Disk(place)
    subprocess.run(["umount", "--lazy", place], check=True)


def fill_up(store: Store, value: bytes = os.urandom(20_000)) -> tuple[list[str], str]:
    """Write until it fails: the names that were acknowledged, and the code."""
    names: list[str] = []
    while True:
        name = f"n{len(names)}"
        try:
            store.commit(put(name, value))
        except HostError as error:
            return names, error.code
        names.append(name)
        assert len(names) < 1000


def check_full(store: Store, names: list[str], value: bytes) -> None:
    """What was acknowledged is there while the disk is full, and nothing else."""
    assert len(names) > 10
    check_named(store, names, value)


def check_named(store: Store, names: list[str], value: bytes) -> None:
    assert set(store.snapshot("default").names("secret")) == set(names)
    store._cache = Cache(0)
    assert all(store.read("default", "secret", name) == value for name in names)
    assert store.verify("default") == len(names)


def test_a_disk_that_is_really_full(disk: Disk) -> None:
    lab, value = Lab(disk.place / "kokon.db"), os.urandom(20_000)
    with lab.open() as store:
        names, code = fill_up(store, value)
        assert code == "disk-full"
        check_full(store, names, value)
        disk.free()
        assert store.commit(put("more", value)).versions == (1,)
    with lab.open() as store:
        check_full(store, [*names, "more"], value)


def test_a_server_that_filled_its_disk_starts_again(disk: Disk) -> None:
    """All that it needs for reading is there."""
    lab, value = Lab(disk.place / "kokon.db"), os.urandom(20_000)
    with lab.open() as store:
        names, _ = fill_up(store, value)
    with lab.open() as store:
        check_full(store, names, value)
        assert _code(lambda: store.commit(put("more", value))) == "disk-full"
        disk.free()
        assert store.commit(put("more", value)).versions == (1,)


def test_a_server_that_starts_on_a_disk_that_others_filled(disk: Disk) -> None:
    lab = Lab(disk.place / "kokon.db")
    with lab.open() as store:
        store.commit(put("a"))
    _use_up(disk.place)
    assert _code(lambda: lab.open().close()) == "disk-full"
    disk.free()
    with lab.open() as store:
        check_named(store, ["a"], b"value")
        assert store.commit(put("more")).versions == (1,)


def test_a_disk_of_postgresql_that_is_really_full(postgres: Postgres, disk: Disk) -> None:
    """Of the tables alone: a full disk under its own log stops PostgreSQL, which is as good as a kill."""
    with postgres.on_disk(disk.place) as location:
        lab, value = Lab(location), os.urandom(20_000)
        with lab.open() as store:
            names, code = fill_up(store, value)
            assert code == "disk-full"
            check_full(store, names, value)
            disk.free()
            assert store.commit(put("more", value)).versions == (1,)
            check_full(store, [*names, "more"], value)


def test_a_file_that_may_not_grow(file_lab: Lab) -> None:
    """A limit of the system, as a quota: no error that the database knows, and it passes too."""
    value = os.urandom(20_000)
    with file_lab.open() as store:
        store.commit(log())
        allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, allowed[1]))
        try:
            names, code = fill_up(store, value)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
        assert code == "store-failed"
        assert store.commit(put("more", value)).versions == (1,)
        assert set(store.snapshot("default").names("secret")) == {*names, "more"}
    with file_lab.open() as store:
        assert store.verify("default") == len(names) + 2
        assert all(store.read("default", "secret", name) == value for name in names)


def test_a_database_that_refuses_is_named(lab: Lab) -> None:
    with lab.open() as store:
        store.commit(put("a"))
        lab.sql("ALTER TABLE entries RENAME TO hidden")
        assert _code(lambda: store.commit(log())) == "store-failed"
        assert _code(lambda: store.entries("default", 0, 1)) == "store-failed"
        lab.sql("ALTER TABLE hidden RENAME TO entries")
        assert store.commit(log()).first == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (psycopg.errors.DiskFull("could not extend file"), "disk-full"),
        (psycopg.errors.AdminShutdown("terminating connection"), "store-unreachable"),
        (psycopg.errors.TooManyConnections("sorry"), "store-unreachable"),
        (psycopg.errors.CannotConnectNow("starting up"), "store-unreachable"),
        (psycopg.OperationalError("server closed the connection"), "store-unreachable"),
        (psycopg.errors.LockNotAvailable("lock timeout"), "store-failed"),
        (psycopg.errors.UniqueViolation("twice"), "store-failed"),
        (sqlite3.OperationalError("disk I/O error"), "store-failed"),
    ],
)
def test_what_errors_mean(error: Exception, code: str) -> None:
    assert failure(error).code == code
    assert failure(OperationalError("SELECT 'canary'", {"value": "canary"}, error)).code == code
    assert "canary" not in str(failure(OperationalError("SELECT 'canary'", {"value": "canary"}, error)))


def _use_up(place: Path) -> None:
    """To the last byte."""
    with (place / "rest").open("ab", buffering=0) as rest:
        for size in (4096, 1):
            with contextlib.suppress(OSError):
                while rest.write(bytes(size)):
                    pass


def _allow_pages(store: Store, pages: str) -> None:
    """SQLite's own limit stands for the disk's: the error is the same."""

    def limit() -> None:
        connection = store._writer._connection
        assert connection is not None
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        raw.execute(f"PRAGMA max_page_count = {pages if pages.isdigit() else 1}").close()

    store._writer._discard = lambda spoilt=False: None  # type: ignore[method-assign] # the limit is the connection's
    store._writer._task(limit).result(10)


def _cut(lab: Lab) -> None:
    lab.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type ="
        " 'client backend'"
    )


def _code(call: Callable[[], object]) -> str:
    with pytest.raises(KokonError) as caught:
        call()
    return caught.value.code


def _wait(holds: Callable[[], bool]) -> None:
    for _ in range(2000):
        if holds():
            return
        threading.Event().wait(0.01)
    raise AssertionError("never")
