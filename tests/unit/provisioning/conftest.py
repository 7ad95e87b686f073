"""A real provisioning server behind TLS on a loopback port, with a clock that tests can move."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import uvicorn.server
from cryptography.hazmat.primitives.asymmetric import ec

sys.path.insert(0, str(Path(__file__).parent / "database"))

from database_factory import BINARIES, Postgres, running_postgres
from provisioning_factory import Author, attestation, launch

from kokon.jose.jwe import public_jwk
from kokon.provisioning.client import ADMIN_FILE, AdminClient, read_access
from kokon.provisioning.client_transport import AdminAccess
from kokon.provisioning.core import Core, Demands
from kokon.provisioning.custody.file import FileHolder
from kokon.provisioning.database import Store
from kokon.provisioning.replica import Replica, open_replica, write_access
from kokon.provisioning.serve import Running, ServeOptions
from kokon.provisioning.state import Settings
from kokon.provisioning.tls import client_context
from kokon.provisioning.web.api import API
from kokon.provisioning.web.limits import LimitOptions
from kokon.provisioning.web.metrics import Metrics
from kokon.provisioning.web.run import RunOptions
from kokon.provisioning.web.server import listeners
from kokon.tee.endorsements import Endorsements
from kokon.tee.simulated.keys import fingerprint, load_processor
from kokon.tee.simulated.processor import Processor

HERE = Path(__file__).parent
MEMORY = Path("/dev/shm")


async def _doze(seconds: float) -> None:
    await asyncio.sleep(min(seconds, 0.01))


# uvicorn looks ten times a second whether it is to end, and sleeps before it does: for most tests half of their time.
uvicorn.server.asyncio = SimpleNamespace(**{**vars(asyncio), "sleep": _doze})


@dataclass
class Clock:
    offset: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.offset


@dataclass
class Chip:
    """A simulated chip vendor of this test run."""

    processor: Processor
    root: str


@dataclass
class Server:
    """A running server, and what a test may do to it."""

    url: str
    replica: Replica
    certificate: str
    clock: Clock
    admin: AdminClient
    guest: httpx2.Client
    author: Author
    tee_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def store(self) -> Store:
        return self.replica.store

    @property
    def core(self) -> Core:
        return self.replica.core

    def client(self) -> httpx2.Client:
        """Another guest's connection, without cookies."""
        return httpx2.Client(base_url=self.url, verify=client_context(self.certificate), timeout=10, trust_env=False)

    def admit(self, **changes: Any) -> bytes:
        """Admit the clinic and put its secret; the launch document."""
        request = self.author.request(**changes)
        self.admin.admit(request)
        self.admin.put("clinic/secret/db-password", b"correct horse")
        return request["launch_document"].encode()

    def challenge(self, client: httpx2.Client | None = None) -> str:
        request = {"version": "0.4.0", "tee": "snp", "extra-params": {}}
        answer = (client or self.guest).post("/kbs/v0/auth", json=request)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["nonce"])

    def attest(
        self, chip: Chip, document: bytes, client: httpx2.Client | None = None, **options: Any
    ) -> httpx2.Response:
        """A whole handshake of a guest that `chip` launched with `document`."""
        client = client or self.guest
        nonce = self.challenge(client)
        guest = launch(chip.processor, document, **options)
        return client.post("/kbs/v0/attest", json=attestation(guest, nonce, self.tee_key, document))

    def denial(self, answer: httpx2.Response) -> tuple[str, dict[str, Any]]:
        """The code that a guest was told, and what the owner is told of it."""
        code, _, identity = answer.json()["detail"].partition(": id ")
        return code, self.admin.denial(identity)

    def events(self) -> list[dict[str, Any]]:
        """What the log of the project tells, but for who logged in."""
        entries = [json.loads(entry) for entry in self.admin.log()[0]]
        return [entry for entry in entries if entry["event"] != "admin-login"]

    def server_events(self) -> list[dict[str, Any]]:
        return [json.loads(entry) for entry in self.admin.log(server=True)[0]]

    @property
    def token(self) -> str:
        return self.admin.access.token


@pytest.fixture(scope="session")
def chip(tmp_path_factory: pytest.TempPathFactory) -> Chip:
    directory = tmp_path_factory.mktemp("chip")
    return Chip(load_processor(directory), fingerprint(directory))


@pytest.fixture(scope="session")
def other_chip(tmp_path_factory: pytest.TempPathFactory) -> Chip:
    directory = tmp_path_factory.mktemp("other-chip")
    return Chip(load_processor(directory), fingerprint(directory))


@contextlib.contextmanager
def serving(state: Path, endorsements: Endorsements, **options: Any) -> Iterator[Server]:
    """A server with its state there; `options` are those of `Demands`, and `limits` of requests, `settings` of the
    state directory, and the owner's `token`, if it is not in there, as for a second replica."""
    clock = Clock()
    limits = options.pop("limits", LimitOptions(address=None, project=None))
    settings, token = options.pop("settings", Settings()), options.pop("token", None)
    literal = options.pop("literal_statuses", False)
    demands = Demands(endorsements, **options)
    metrics = Metrics(operation.name for operation in API.operations)
    with contextlib.ExitStack() as stack:
        replica = stack.enter_context(open_replica(state, FileHolder(), settings, demands, clock, counters=metrics))
        sockets = listeners([("127.0.0.1", 0)])
        url = f"https://127.0.0.1:{sockets[0].getsockname()[1]}"
        write_access(replica, url)
        serve = ServeOptions(state, run=RunOptions(limits), literal_statuses=literal)
        started = threading.Event()
        running = stack.enter_context(Running(replica, serve, metrics, sockets, started.set))
        thread = threading.Thread(target=running.start)
        thread.start()
        assert started.wait(20)
        certificate = replica.keys.certificate
        access = AdminAccess(url, token, certificate) if token else read_access(state / ADMIN_FILE)
        admin = stack.enter_context(AdminClient(access))
        guest = httpx2.Client(base_url=url, verify=client_context(access.certificate), timeout=10, trust_env=False)
        author = Author(public_jwk(replica.keys.owner.public_key()), access.certificate, url)
        yield Server(url, replica, access.certificate, clock, admin, guest, author)
        guest.close()
        admin.close()
        running.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a server with other endorsements and options than the usual ones."""
    with contextlib.ExitStack() as stack:
        yield lambda endorsements, **options: stack.enter_context(serving(tmp_path / "state", endorsements, **options))


@pytest.fixture
def serve() -> Callable[..., contextlib.AbstractContextManager[Server]]:
    """`serving`, for tests that start and end several servers."""
    return serving


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """For servers in memory, where there is such a place: fsync on a busy disk takes longer than all else."""
    if request.path.parent != HERE or not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="kokon-provisioning-", dir=MEMORY) as path:
        yield Path(path)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Started once for all tests of a process."""
    if not (BINARIES / "postgres").exists():
        warnings.warn(f"NOT TESTED: the server on PostgreSQL, for want of {BINARIES} (scripts/setup)", stacklevel=1)
        pytest.skip(f"PostgreSQL is not installed in {BINARIES}: run scripts/setup")
    with running_postgres() as server:
        yield server


@pytest.fixture
def database() -> str:
    """The kind of the server's database. Modules whose tests are for both kinds have another fixture of this name."""
    return "sqlite"


@pytest.fixture
def settings(request: pytest.FixtureRequest, database: str) -> Settings:
    return Settings(database=request.getfixturevalue("postgres").reuse() if database == "postgresql" else "")


@pytest.fixture
def server(tmp_path: Path, chip: Chip, settings: Settings) -> Iterator[Server]:
    endorsements = Endorsements(accepted_simulated=frozenset({chip.root}))
    with serving(tmp_path / "state", endorsements, settings=settings) as server:
        yield server
