"""Memory: the agent in the guest, the guest with 256 MiB, and the host's processes beside QEMU."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.images import PORT, busybox_image
from bench.launching import Launched, launched
from bench.parties import parties
from bench.probe import probed_guest, read_samples
from bench.setting import Setting
from bench.table import Row
from kokon.errors import HostError

REQUESTS = 20
SMALL = 256
_PATIENCE = 30.0


def memory(setting: Setting) -> list[Row]:
    """Rows in MB (10^6 bytes); the image is 2 MB of busybox."""
    guest = probed_guest(setting.directory("probe"), setting.home / "cache")
    with parties(setting, "memory") as people:
        image = busybox_image(setting.directory("memory-image"))
        document = people.admit(image, "probed", guest, PORT)
        rows: list[Row] = []
        for size in (384, SMALL):
            setting.note(f"memory: a guest with {size} MiB")
            with launched(setting, people, document, guest=guest, memory=size) as run:
                samples = _samples(run)
                rows += _guest_rows(samples, size) if size == SMALL else _agent_rows(samples) + host_rows(run)
    return rows


def _samples(run: Launched) -> Sequence[dict[str, Any]]:
    """What the probe said; the last two samples are from after `REQUESTS` requests, each on a connection of its own."""
    for _ in range(REQUESTS):
        run.get()
    console = run.directory / "console.log"
    wanted = len(read_samples(console.read_bytes())) + 2
    deadline = time.monotonic() + _PATIENCE
    while len(samples := read_samples(console.read_bytes())) < wanted:
        if time.monotonic() > deadline:
            raise HostError("bench-probe-silent", "the probe in the guest says nothing", expected=wanted)
        time.sleep(0.1)
    return samples


def _agent_rows(samples: Sequence[dict[str, Any]]) -> list[Row]:
    serving = [sample for sample in samples if sample["phase"] == "serving"]
    first = samples[0]
    return [
        Row("agent in the guest, serving: RSS", megabytes(max(s["Rss"] for s in serving)), "MB"),
        Row("agent in the guest, serving: PSS", megabytes(max(s["Pss"] for s in serving)), "MB"),
        Row("agent in the guest: highest RSS ever", megabytes(serving[-1]["VmHWM"]), "MB"),
        Row("guest clock: Python runs the agent's first line", round(first["begin"], 2), "s"),
        Row("guest clock: the agent's modules are loaded", round(first["loaded"], 2), "s"),
    ]


def _guest_rows(samples: Sequence[dict[str, Any]], size: int) -> list[Row]:
    last = samples[-1]
    return [
        Row(f"guest with {size} MiB: visible to its kernel", megabytes(last["MemTotal"]), "MB"),
        Row(f"guest with {size} MiB: available while serving", megabytes(last["MemAvailable"]), "MB"),
    ]


def host_rows(run: Launched) -> list[Row]:
    """The processes that a running container has on the host, QEMU last for comparison."""
    record = run.record
    if record.processor is None or record.machine is None:
        raise HostError("bench-not-running", "the container's processes are gone")
    rows = []
    for name, pid in (
        ("simulated processor", record.processor.pid),
        ("kokon run", run.command),
        ("QEMU, 384 MiB guest", record.machine.pid),
    ):
        rollup = _rollup(pid)
        rows += [Row(f"host, {name}: {part}", megabytes(rollup[part.capitalize()]), "MB") for part in ("RSS", "PSS")]
    return rows


def _rollup(pid: int) -> dict[str, int]:
    """KiB by name of /proc/PID/smaps_rollup (proc(5))."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.partition(":")[0]: int(line.split()[1]) for line in lines}


def megabytes(kibibytes: int) -> float:
    """KiB as MB."""
    return round(kibibytes * 1024 / 1e6, 1)
