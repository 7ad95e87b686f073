"""Databases of both kinds; the server of PostgreSQL is that of all tests of the provisioning server."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from database_factory import Lab, Postgres

from kokon.provisioning.database import Store
from kokon.provisioning.database.engines import open_backend
from kokon.provisioning.database.migrate import upgrade


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where there is such a place: fsync on a busy disk takes longer than all else."""
    place = Path("/dev/shm")
    where = place if os.access(place, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="kokon-database-", dir=where) as path:
        yield Path(path)


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with empty tables: making them takes longer than most tests."""
    path = tmp_path_factory.mktemp("empty") / "kokon.db"
    backend = open_backend(path)
    with backend.writing() as connection:
        upgrade(connection)
    backend.close()
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def lab(request: pytest.FixtureRequest, tmp_path: Path, empty_file: Path) -> Lab:
    """A database of each kind, its tables there and empty."""
    if request.param == "sqlite":
        return Lab(Path(shutil.copy(empty_file, tmp_path)))
    return Lab(request.getfixturevalue("postgres").reuse())


@pytest.fixture
def server_lab(postgres: Postgres) -> Lab:
    """A database on PostgreSQL."""
    return Lab(postgres.reuse())


@pytest.fixture
def file_lab(tmp_path: Path, empty_file: Path) -> Lab:
    """A database in a file."""
    return Lab(Path(shutil.copy(empty_file, tmp_path)))


@pytest.fixture
def store(lab: Lab) -> Iterator[Store]:
    with lab.open() as store:
        yield store


@pytest.fixture
def blocked() -> Callable[[Store], contextlib.AbstractContextManager[None]]:
    """Keeps a store's writer busy, so that works that come meanwhile share a batch."""

    @contextlib.contextmanager
    def blocking(store: Store) -> Iterator[None]:
        if store._listener:
            store._listener.connected.wait()  # it has the writer do something too
        begun, go = threading.Event(), threading.Event()

        def wait() -> None:
            begun.set()
            go.wait()

        store._writer._task(wait)
        begun.wait()
        with contextlib.ExitStack() as stack:
            stack.callback(go.set)
            yield

    return blocking
