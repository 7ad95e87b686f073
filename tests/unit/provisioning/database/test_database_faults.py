"""Kills, lost connections, full disks: nothing acknowledged is lost, and the store recovers by itself."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from database_factory import Lab, Postgres, log, put
from sqlalchemy.exc import OperationalError

from kokon.errors import HostError, KokonError
from kokon.provisioning.database import Store
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
