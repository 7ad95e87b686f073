"""Where the hardware-signed vectors are: KOKON_VECTORS, else ../shared/vectors beside the repository."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]


def vectors_directory() -> Path | None:
    """The directory with manifest.json, None if there is none."""
    named = os.environ.get("KOKON_VECTORS")
    directory = Path(named) if named else REPOSITORY.parent / "shared" / "vectors"
    return directory if (directory / "manifest.json").is_file() else None


@pytest.fixture(scope="session")
def vectors() -> Path:
    directory = vectors_directory()
    if directory is None:
        pytest.skip(
            "HARDWARE VECTORS ARE MISSING: verification against real AMD reports IS NOT TESTED in this run. "
            "Set KOKON_VECTORS to the directory that holds manifest.json."
        )
    return directory


@pytest.fixture(scope="session")
def manifest(vectors: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((vectors / "manifest.json").read_text())
    return entries
