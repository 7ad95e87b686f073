"""Sealing and unsealing a large layer: throughput and memory, each in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from bench.sealing_task import prepare
from bench.setting import Setting
from bench.table import Row, against
from kokon.demo.services import start_registry
from kokon.errors import HostError

SIZE = 2 << 30
QUICK_SIZE = 64 << 20


def sealing(setting: Setting) -> list[Row]:
    """Rows for one incompressible gzip layer, sealed to a registry and unsealed from it, as `kokon seal` and the agent
    do. Each task runs once: it is long enough. The copy reads, hashes (SHA-256) and writes the same bytes."""
    size = QUICK_SIZE if setting.quick else SIZE
    area = setting.directory("sealing")
    setting.note(f"sealing: making a layer of {size >> 20} MiB")
    prepare(area, size)
    registry = start_registry(area / "registry")
    try:
        rows: list[Row] = []
        for task in ("copy", "seal", "unseal", *(("skopeo",) if shutil.which("skopeo") else ())):
            rows += _task(setting, task, area, registry.url, size)
    finally:
        registry.stop()
    base = rows[0]
    return [base, *(against(row, base) if row.unit == base.unit else row for row in rows[1:])]


def _task(setting: Setting, task: str, area: Path, registry: str, size: int) -> list[Row]:
    setting.note(f"sealing: {task}")
    words = [sys.executable, "-m", "bench.sealing_task", task, str(area), registry]
    done = subprocess.run(words, capture_output=True, check=False)
    if done.returncode:
        raise HostError("bench-task-failed", f"{task} failed", found=done.stderr.decode(errors="replace")[-600:])
    measured = json.loads(done.stdout)
    name = {"copy": "copy and SHA-256", "skopeo": "skopeo copy --encryption-key"}.get(task, task)
    label = f"{name}: {size >> 20} MiB layer"
    return [
        Row(label, round(size / 1e6 / measured["seconds"], 1), "MB/s"),
        Row(f"{name}: peak memory", round(measured["kilobytes"] * 1024 / 1e6, 1), "MB"),
    ]
