"""Shared by the end to end tests: one world for each worker of pytest-xdist."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.world import World


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """Registry, provisioning server, author, and the clinic's image sealed; nothing runs yet."""
    with World.open() as opened:
        yield opened
