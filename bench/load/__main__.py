"""`python -m bench.load [--only NAME ...] [--quick] [--out FILE]`: the table of docs/RELIABILITY.md on stdout."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.load.faults import clock_jumps, database_disk_full, disk_full
from bench.load.fleet import Fleet, fleet
from bench.load.hostile import huge_bodies, idle_connections, malformed_tls, one_address, slow_peers
from bench.load.scenarios import Finding, Note, Stage, crowd, database_killed, prepare, replica_killed, stage
from bench.load.seen import BrokenPromise
from kokon.errors import KokonError

Scenario = Callable[[Path, bool, Note], list[Finding]]
HANDSHAKES = int(os.environ.get("LOAD_HANDSHAKES", "100000"))
"""How many the long form of the crowd does."""


def _staged(run: Callable[[Stage, bool, Note], list[Finding]]) -> Scenario:
    """A scenario that needs 3 replicas on PostgreSQL."""

    def scenario(area: Path, quick: bool, note: Note) -> list[Finding]:
        with stage(area, 3) as on:
            return run(on, quick, note)

    return scenario


def _alone(run: Callable[[Fleet, bool, Note], list[Finding]]) -> Scenario:
    """A scenario that needs one server, on SQLite."""

    def scenario(area: Path, quick: bool, note: Note) -> list[Finding]:
        with fleet(area, 1, None) as on:
            prepare(on)
            return run(on, quick, note)

    return scenario


SCENARIOS: Mapping[str, Scenario] = {
    "crowd": _staged(
        lambda on, quick, note: crowd(on, 60 if quick else 500, 1500 if quick else HANDSHAKES, note, allowed=12.0)
    ),
    "replica-killed": _staged(lambda on, quick, note: replica_killed(on, 20, 4.0 if quick else 60.0, note)),
    "one-address": _alone(lambda on, quick, _: one_address(on, 30 if quick else 200, 4)),
    "slow-peers": _alone(lambda on, quick, _: slow_peers(on, 9 if quick else 300, 60.0)),
    "idle-connections": _alone(lambda on, quick, _: idle_connections(on, 900 if quick else 10_000)),
    "huge-bodies": _alone(lambda on, _quick, _note: huge_bodies(on, 1 << 30)),
    "malformed-tls": _alone(lambda on, quick, _: malformed_tls(on, 120 if quick else 3000)),
    "clock": _alone(lambda on, _quick, note: clock_jumps(on, note)),
    "disk-full": lambda area, _quick, note: disk_full(area, note),
    "database-disk-full": lambda area, _quick, note: database_disk_full(area, note),
    "database-killed": _staged(lambda on, quick, note: database_killed(on, 20, 4.0 if quick else 60.0, note)),
}


def main(words: Sequence[str]) -> int:
    """Run what was asked for. The exit status is 1 if a promise was broken or something could not be run."""
    parser = argparse.ArgumentParser(prog="python -m bench.load", description="Load and faults on this machine.")
    parser.add_argument("--only", nargs="+", choices=list(SCENARIOS), metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument("--quick", action="store_true", help="the short form, as the tests run it")
    parser.add_argument("--out", type=Path, metavar="FILE", help="add the rows to this file too")
    options = parser.parse_args(words)
    failed = 0
    for name in options.only or SCENARIOS:
        rows = _rows(name, options.quick)
        failed += rows is None
        for row in rows or [f"| {name} | **FAILED**, see above | | |"]:
            print(row, flush=True)
            if options.out is not None:
                with options.out.open("a") as file:
                    file.write(row + "\n")
    return 1 if failed else 0


def _rows(name: str, quick: bool) -> list[str] | None:
    """The table's rows of one scenario, None if it failed."""
    begin = time.monotonic()
    note(f"{name}: load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    with tempfile.TemporaryDirectory(prefix="kokon-load-") as area:
        try:
            findings = SCENARIOS[name](Path(area) / name, quick, note)
        except (BrokenPromise, KokonError) as error:
            note(f"{name}: FAILED: {error}")
            return None
    note(f"{name}: done in {time.monotonic() - begin:.0f} s")
    when = datetime.now(UTC).date().isoformat()
    form = "short form" if quick else "long form"
    return [f"| {one.done} | {one.seen} | {form}, {when} | {machine()} |" for one in findings]


def machine() -> str:
    """The machine in a few words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return f"{os.cpu_count()} x {model}, {memory} GiB"


def note(text: str) -> None:
    """A line about progress."""
    print(f"load: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
