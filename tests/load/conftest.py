"""Load and faults in their short form: the scenarios are those of `python -m bench.load`, and so are the promises."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
from bench.load.fleet import Fleet, fleet
from bench.load.postgres import binaries
from bench.load.scenarios import Stage, prepare, stage


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Three replicas on one PostgreSQL."""
    if binaries() is None:
        warnings.warn("NOT TESTED: replicas on PostgreSQL, for want of it (scripts/setup)", stacklevel=1)
        pytest.skip("PostgreSQL is not installed: run scripts/setup")
    with stage(tmp_path_factory.mktemp("stage"), 3) as three:
        yield three


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One server on SQLite."""
    with fleet(tmp_path_factory.mktemp("alone"), 1, None) as one:
        prepare(one)
        yield one
