"""A registry apart for these tests: they push images in plain, and others prove that theirs never are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.registry import LocalRegistry


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    """A registry that holds plain images."""
    with LocalRegistry(tmp_path_factory.mktemp("plain")) as running:
        yield running
