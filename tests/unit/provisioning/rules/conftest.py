"""Guests of the simulated chips of this test run."""

from __future__ import annotations

from typing import Any

import pytest
from rules_kit import Guest


@pytest.fixture
def guest(chip: Any) -> Guest:
    return Guest(chip.processor, chip.root)


@pytest.fixture
def other_guest(other_chip: Any) -> Guest:
    return Guest(other_chip.processor, other_chip.root)
