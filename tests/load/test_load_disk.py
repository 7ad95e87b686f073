"""A full disk below the server's database."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench.load.faults import database_disk_full, disk_full, may_mount
from bench.load.postgres import binaries

needs_mount = pytest.mark.skipif(not may_mount(), reason="NOT TESTED: small file systems need root to be mounted")


@needs_mount
def test_a_full_disk_below_sqlite(tmp_path: Path) -> None:
    disk_full(tmp_path, print)


@needs_mount
@pytest.mark.skipif(binaries() is None, reason="NOT TESTED: PostgreSQL is not installed (scripts/setup)")
def test_a_full_disk_below_postgresql(tmp_path: Path) -> None:
    database_disk_full(tmp_path, print)
