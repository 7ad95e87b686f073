"""How a database is found, locked, opened and brought to its form."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from database_factory import Lab, Postgres, log
from sqlalchemy import inspect

from kokon.errors import HostError, KokonError, UsageError
from kokon.provisioning.database import Store
from kokon.provisioning.database.engines import open_backend
from kokon.provisioning.database.schema import METADATA


def test_a_file_is_for_one_process(file_lab: Lab) -> None:
    with file_lab.open():
        with pytest.raises(HostError) as caught:
            file_lab.open()
        assert caught.value.code == "state-in-use"
    file_lab.open().close()


def test_a_file_that_could_not_be_opened_is_not_locked(file_lab: Lab) -> None:
    with file_lab.open() as store:
        store.commit(log())
    key = file_lab.ring.keys.pop(1)
    with pytest.raises(KokonError):
        file_lab.open()
    file_lab.ring.keys[1] = key
    file_lab.open().close()


def test_files_are_their_owners(file_lab: Lab) -> None:
    old = os.umask(0)
    try:
        with file_lab.open() as store:
            store.commit(log())
            modes = {path.name: path.stat().st_mode & 0o777 for path in Path(file_lab.location).parent.iterdir()}
    finally:
        os.umask(old)
    assert modes == dict.fromkeys(("kokon.db", "kokon.db-wal", "kokon.db-shm", "kokon.db.lock"), 0o600)


def test_sqlite_is_durable_and_forgets(file_lab: Lab) -> None:
    with file_lab.open() as store, store.backend.writing() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "secure_delete", "trusted_schema")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "trusted_schema": 0}


def test_postgresql_is_durable(server_lab: Lab) -> None:
    server_lab.sql("ALTER ROLE postgres SET synchronous_commit = off")
    try:
        with server_lab.open() as store, store.backend.writing() as connection:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
            assert connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar_one() == "15s"
    finally:
        server_lab.sql("ALTER ROLE postgres RESET synchronous_commit")


@pytest.mark.parametrize("place", ["missing/kokon.db", "directory"])
def test_a_file_that_cannot_be_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(HostError) as caught:
        Lab(tmp_path / place).open()
    assert caught.value.code == "store-failed"


def test_what_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "kokon.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(HostError) as caught:
        Lab(tmp_path / "kokon.db").open()
    assert caught.value.code == "store-failed"


@pytest.mark.parametrize(
    "url", ["mysql://root:hunter2@host/db", "sqlite:///x.db", "postgresql://a:hunter2@host:port/db", "://hunter2"]
)
def test_another_kind_of_database_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_backend(url)
    assert caught.value.code == "store-location"
    assert "hunter2" not in str(caught.value.as_dict())
    assert caught.value.__cause__ is None


def test_a_password_is_in_no_error() -> None:
    with pytest.raises(HostError) as caught:
        Lab("postgresql://kokon:hunter2@127.0.0.1:1/db").open()
    assert caught.value.code == "store-unreachable"
    assert "hunter2" not in f"{caught.value.as_dict()}{caught.value.__cause__}"


@pytest.mark.parametrize(
    ("url", "mode"),
    [
        ("postgresql://db.example/kokon", "verify-full"),
        ("postgresql://10.0.0.1/kokon?sslmode=disable", "disable"),
        ("postgresql://db.example/kokon?sslmode=require", "require"),
        ("postgresql:///kokon?host=db.example", "verify-full"),
        ("postgresql://127.0.0.1/kokon", None),
        ("postgresql://localhost/kokon", None),
        ("postgresql:///kokon?host=/run/postgresql", None),
        ("postgresql:///kokon", None),
    ],
)
def test_another_machine_is_spoken_to_over_tls(url: str, mode: str | None) -> None:
    backend = open_backend(url)
    assert backend.engine.url.query.get("sslmode") == mode
    assert backend.engine.url.query.get("sslrootcert") == ("system" if mode == "verify-full" else None)
    assert backend.engine.url.get_backend_name() == "postgresql"


def test_migrations_make_what_the_program_knows(lab: Lab) -> None:
    with lab.open() as store, store.backend.reading() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), METADATA)
        assert [one for one in differences if "alembic_version" not in str(one)] == []
        inspector = inspect(connection)
        for name, table in METADATA.tables.items():
            assert [column["name"] for column in inspector.get_columns(name)] == [c.name for c in table.columns]
            assert inspector.get_pk_constraint(name)["constrained_columns"] == [c.name for c in table.primary_key]
            found = {(one["name"], *one["column_names"], bool(one["unique"])) for one in inspector.get_indexes(name)}
            assert found == {(one.name, *(c.name for c in one.columns), one.unique) for one in table.indexes}


def test_tables_of_a_newer_program_are_refused(lab: Lab) -> None:
    lab.open().close()
    lab.sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(HostError) as caught:
        lab.open()
    assert caught.value.code == "store-newer"
    lab.sql("UPDATE alembic_version SET version_num = '0001'")
    lab.open().close()


def test_a_failed_migration_leaves_nothing(tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    for lab in (Lab(tmp_path / "kokon.db"), Lab(postgres.create())):
        with monkeypatch.context() as patched:
            patched.setattr("kokon.provisioning.database.store.begin", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                lab.open()
        lab.open().close()


@pytest.mark.parametrize("statement", ["UPDATE {} SET number = 7", "DELETE FROM {}"])
@pytest.mark.parametrize("table", ["entries", "nodes"])
def test_logs_are_append_only_even_for_mistakes(lab: Lab, statement: str, table: str) -> None:
    with lab.open() as store:
        for _ in range(2):
            work = log()
            store.commit(type(work)(work.project, work.entries * 200))
        with pytest.raises(HostError) as caught, store.backend.writing() as connection:
            connection.exec_driver_sql(statement.format(table))
        assert caught.value.found == "append-only"


def test_the_store_is_given_back(lab: Lab) -> None:
    with lab.open() as store:
        assert isinstance(store, Store)
    with pytest.raises(HostError):
        store.submit(log())
