"""`python -m bench [--out FILE] [--only NAME ...] [--quick]`: a table on stdout, progress on stderr."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from bench.benchmarks import BENCHMARKS
from bench.setting import Setting
from bench.table import Row, show, write
from kokon.errors import HostError, KokonError
from kokon.guest.build.image import default_guest, default_home
from kokon.host.kvm import probe_kvm
from kokon.launch.image import read_guest_image


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Kokon on this machine.")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the rows as JSON too")
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="one repetition, small inputs: is everything working?")
    return parser.parse_args(words)


def measure(
    setting: Setting, benchmarks: Mapping[str, Callable[[Setting], list[Row]]]
) -> tuple[list[Row], dict[str, KokonError]]:
    """All rows, and the benchmarks that could not be run with the reason; one that fails does not stop the others."""
    rows: list[Row] = []
    failed: dict[str, KokonError] = {}
    for name, benchmark in benchmarks.items():
        begin = time.monotonic()
        setting.note(f"{name}: load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
        try:
            rows += benchmark(setting)
        except KokonError as error:
            failed[name] = error
            setting.note(f"{name}: failed: {error.code}: {error}")
        else:
            setting.note(f"{name}: done in {time.monotonic() - begin:.0f} s")
    return rows, failed


def main(words: Sequence[str]) -> int:
    """Run what was asked for. The exit status is 1 if a benchmark could not be run."""
    options = arguments(words)
    signal.signal(signal.SIGTERM, _ended)  # what a benchmark started is ended on the way out
    chosen = {name: run for name, run in BENCHMARKS.items() if not options.only or name in options.only}
    home = default_home().absolute()
    directory = default_guest(home)
    if directory is None:
        raise HostError("guest-image-missing", f"no guest image below {home}", hint="kokon guest build")
    guest = read_guest_image(directory)
    area = Path(tempfile.mkdtemp(prefix="bench-", dir=home))
    try:
        accelerator = "kvm" if probe_kvm(home, guest).usable else "tcg"
        setting = Setting(home, area, guest, accelerator, options.quick, note)
        rows, failed = measure(setting, chosen)
    finally:
        shutil.rmtree(area, ignore_errors=True)
    print(show(rows))
    if options.out is not None:
        write(rows, options.out)
    return 1 if failed else 0


def _ended(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def note(text: str) -> None:
    """A line about progress."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KokonError as failure:
        note(f"{failure.code}: {failure}" + (f" ({failure.hint})" if failure.hint else ""))
        sys.exit(1)
