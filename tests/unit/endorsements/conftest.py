from collections.abc import Iterator
from pathlib import Path

import pytest
from endorsement_kit import NOW, QUICK, Clock

from kokon.endorsements.cache import Cache
from kokon.endorsements.http import Getter
from kokon.endorsements.kds import Kds
from kokon.endorsements.limiter import Limiter
from kokon.endorsements.pcs import Access, Pcs
from kokon.endorsements.sources import Online
from kokon.testing.server import VendorServer
from kokon.testing.vendor import FakeVendor


@pytest.fixture(scope="session")
def vendor() -> FakeVendor:
    made = FakeVendor(now=NOW)
    made.amd.chain("Milan")  # RSA keys take a second: not within somebody's timeout
    return made


@pytest.fixture(scope="session")
def roots(vendor: FakeVendor) -> frozenset[str]:
    return frozenset({vendor.amd.ark("Milan").fingerprint, vendor.intel.root().fingerprint})


@pytest.fixture
def server(vendor: FakeVendor) -> Iterator[VendorServer]:
    with VendorServer(vendor) as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(tmp_path: Path, clock: Clock) -> Cache:
    return Cache(tmp_path / "cache", clock=clock)


class World:
    """The fake vendor's services, clients and a cache; every part may be exchanged."""

    def __init__(self, server: VendorServer, cache: Cache, clock: Clock, roots: frozenset[str]) -> None:
        self.server = server
        self.cache = cache
        self.clock = clock
        self.roots = roots
        self.patience = QUICK

    def online(self, **options: object) -> Online:
        getter = Getter(self.patience, sleep=lambda _seconds: None)
        limiter = Limiter(self.cache.directory / "kds-turn", 10, clock=self.clock, sleep=self.clock.sleep)
        clients = (Kds(getter, limiter, self.server.url), Pcs(getter, Access(self.server.url)))
        settings = {"accepted": self.roots, "clock": self.clock} | options
        return Online(clients, self.cache, **settings)  # type: ignore[arg-type]


@pytest.fixture
def world(server: VendorServer, cache: Cache, clock: Clock, roots: frozenset[str]) -> World:
    return World(server, cache, clock, roots)
