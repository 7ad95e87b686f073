"""The chain of the simulated chip (made once: RSA keys take seconds) and a world around it for each test."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from verified_world import VerifiedWorld

from kokon.tee.simulated.keys import load_processor
from kokon.tee.simulated.processor import Processor


@pytest.fixture(scope="session")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Processor:
    directory: Path = tmp_path_factory.mktemp("processor")
    directory.chmod(0o700)
    return load_processor(directory)


@pytest.fixture
def world(processor: Processor) -> Iterator[VerifiedWorld]:
    world = VerifiedWorld(processor, datetime.now(UTC).replace(microsecond=0))
    yield world
    world.close()
