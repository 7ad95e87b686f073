"""One simulated chip for all tests here: its RSA keys take seconds to make."""

import pytest
from tee_kit import Chip, make_chip


@pytest.fixture(scope="session")
def chip(tmp_path_factory: pytest.TempPathFactory) -> Chip:
    return make_chip(tmp_path_factory.mktemp("kit") / "chip")
