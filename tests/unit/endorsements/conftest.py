from collections.abc import Iterator
from pathlib import Path

import pytest
from endorsement_kit import NOW, Clock, World

from kokon.endorsements.cache import Cache
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


@pytest.fixture
def world(server: VendorServer, cache: Cache, clock: Clock, roots: frozenset[str]) -> World:
    return World(server, cache, clock, roots)
