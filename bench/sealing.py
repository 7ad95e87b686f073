"""Sealing and unsealing a large layer: throughput and memory, each in a process of its own so that memory is its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.table import Row, against
from kokon.demo.services import start_registry

SIZE = 2 << 30


def sealing(size: int = SIZE) -> list[Row]:
    """Rows for one incompressible layer of `size` bytes, sealed to a registry and unsealed from it."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        area = Path(scratch)
        registry = start_registry(area / "registry")
        try:
            rows = []
            for task in ("copy", "seal", "unseal"):
                words = [sys.executable, "-m", "bench.sealing_task", task, str(area), registry.url, str(size)]
                done = subprocess.run(words, capture_output=True, check=True)
                measured = json.loads(done.stdout)
                rows.append(Row(f"{task} a {size >> 20} MiB layer", measured["mbps"], "MB/s"))
                if task != "copy":
                    rows.append(Row(f"{task}: peak memory", measured["rss"], "MB"))
        finally:
            registry.stop()
    base = rows[0]
    return [base, *(against(row, base) if row.unit == base.unit else row for row in rows[1:])]
