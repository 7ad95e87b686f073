"""One engine for all tests of a file that do it no harm."""

from collections.abc import Iterator

import pytest

from kokon.provisioning.rego.engine import PolicyEngine


@pytest.fixture(scope="module")
def engine() -> Iterator[PolicyEngine]:
    with PolicyEngine() as engine:
        yield engine
