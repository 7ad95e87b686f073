"""Shared by the image tests: a real registry, and a small image sealed into it."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from kokon.image.reference import parse_reference
from kokon.image.registry import Registry
from kokon.image.seal import seal
from kokon.image.source import open_source
from kokon.jose.jwe import public_jwk
from support.images import write_layout
from support.registry import LocalRegistry
from support.sealed import AUTHOR, CLAIMS, LOWER, OWNER, UPPER, SealedFixture


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    """A registry for tests that spoil nothing, or only what they pushed themselves."""
    with LocalRegistry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def registry(server: LocalRegistry) -> Iterator[Registry]:
    with Registry(server.url) as client:
        yield client


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    directory = tmp_path / "layout"
    run = {"Cmd": ["/bin/app"], "Env": [f"UNIQUE={uuid.uuid4()}"], "ExposedPorts": {"8080/tcp": {}}}
    write_layout(directory, [LOWER, UPPER], run=run)
    return directory


@pytest.fixture
def fixture(server: LocalRegistry, registry: Registry, layout: Path) -> SealedFixture:
    """A freshly sealed image: nothing that another test does can touch it."""
    reference = parse_reference(f"{server.host}/clinic:1")
    with open_source(f"oci:{layout}") as source:
        sealed = seal(source, registry, reference, AUTHOR, public_jwk(OWNER), CLAIMS)
    return SealedFixture(server, registry, reference, sealed)
