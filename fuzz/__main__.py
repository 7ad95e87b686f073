"""`python -m fuzz [--seconds N] [--only NAME ...]`: atheris over the targets, a process each, one after the other.

Needs atheris, which is among the development packages. A finding is kept in the corpus folder with the traceback, and
the exit status is 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from fuzz.corpus import seed
from fuzz.targets import targets

MEMORY = 1024
"""Megabytes for a whole process with Python and all parsers; a parser gets 64 by the limits on its input."""

SLOW = 2
"""Seconds for one input, instrumented, that count as a hang."""


def main(words: list[str]) -> int:
    """Run what was asked for, or with --one a single target in this very process."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Fuzz Kokon's parsers.")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default 60)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="targets (default: all)")
    parser.add_argument("--corpus", type=Path, default=Path(".fuzz"), help="folder for inputs and findings")
    parser.add_argument("--list", action="store_true", help="print the names of the targets")
    options = parser.parse_args(words)
    names = list(targets())
    if options.list:
        print("\n".join(names))
        return 0
    chosen = options.only or names
    unknown = sorted(set(chosen) - set(names))
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}")
    failed = [name for name in chosen if not run(name, options.seconds, options.corpus)]
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed")
    for name in failed:
        print(f"finding in {name}: see {options.corpus / name}")
    return 1 if failed else 0


def run(name: str, seconds: int, folder: Path) -> bool:
    """Fuzz one target in a process of its own; True if nothing was found."""
    place = folder / name
    corpus = seed(place / "corpus", targets()[name].seeds)
    begin = time.monotonic()
    command = [sys.executable, "-m", "fuzz.one", name, str(corpus)]
    limits = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY}", f"-timeout={SLOW}", "-print_final_stats=1"]
    with (place / "log").open("wb") as log:
        limits += [f"-artifact_prefix={place}/", "-max_len=32768"]
        status = subprocess.run([*command, *limits], stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    runs = [line for line in (place / "log").read_text(errors="replace").splitlines() if "number_of_executed" in line]
    count = runs[-1].split()[-1] if runs else "?"
    outcome = "nothing found" if status == 0 else "FINDING"
    print(f"{name:24} {time.monotonic() - begin:6.0f} s {count:>10} inputs  {outcome}", flush=True)
    return status == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
