"""What process 1 of a guest uses, seen from inside: the guest's own code with a window in it.

Nothing outside can see into the guest, and the agent tells nobody. So this builds a second guest image, which differs
from the product's by one file: an `Agent` that also writes what /proc/self says to the serial console at every phase
and each second while serving. It measures to another digest; no product image has it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kokon
from kokon.guest.build.image import build
from kokon.launch.image import GuestImage

MARK = "bench-probe "
_AGENT = Path("guest") / "agent"
_PROBE = """
import time

BEGIN = time.clock_gettime(time.CLOCK_BOOTTIME)

import json
import os
import threading

from kokon.guest.agent import product
from kokon.guest.agent.status import uptime

LOADED = uptime()


def kilobytes(path, *names):
    with open(path) as file:
        found = dict(line.split(":", 1) for line in file if ":" in line)
    return {name: int(found[name].split()[0]) for name in names}


def say(phase):
    values = kilobytes("/proc/self/smaps_rollup", "Rss", "Pss", "Private_Dirty")
    values |= kilobytes("/proc/self/status", "VmHWM")
    values |= kilobytes("/proc/meminfo", "MemTotal", "MemAvailable")
    line = json.dumps({"phase": phase, "t": uptime(), "begin": BEGIN, "loaded": LOADED, **values})
    console = os.open("/dev/ttyS0", os.O_WRONLY | os.O_NOCTTY)
    os.write(console, f"MARK{line}\\n".encode())
    os.close(console)


def watch():
    while True:
        say("serving")
        time.sleep(1)


class Probed(product.Agent):
    def _phase(self, phase):
        super()._phase(phase)
        if phase == "serving":
            threading.Thread(target=watch, daemon=True).start()
        else:
            say(phase)


def main():
    product.Agent = Probed
    product.main()
""".replace("MARK", MARK)


def probed_guest(area: Path, cache: Path) -> GuestImage:
    """The guest image with the probe, built in `area` from the packages in `cache`. Raises as `build` does."""
    package = area / "kokon"
    shutil.copytree(Path(kokon.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / _AGENT / "main.py").rename(package / _AGENT / "product.py")
    (package / _AGENT / "main.py").write_text(_PROBE)
    return build(area / "guest", cache, package_root=package)


def read_samples(console: bytes) -> Sequence[dict[str, Any]]:
    """What the probe wrote to the console, in order; sizes in KiB."""
    lines = console.decode(errors="replace").splitlines()
    found = [line.partition(MARK)[2] for line in lines if MARK in line]
    samples = []
    for text in found:
        try:
            samples.append(json.loads(text))
        except ValueError:
            continue  # the line is still being written
    return samples
