"""Cold start: from `kokon run` to the application's first answer over attested TLS, beside a bare busybox initrd."""

from __future__ import annotations

from pathlib import Path

from bench.busybox import boot_busybox, tuned_options
from bench.images import PORT, busybox_image
from bench.launching import Launched, launched
from bench.parties import Parties, parties
from bench.setting import Setting
from bench.table import Row, against, median

PLAIN = "console=ttyS0 panic=-1 quiet"
BARE = "bare busybox initrd, same kernel"
TUNED = "the same with the guest's tuned options"
TOTAL = "cold start to first answer (busybox httpd)"
_STEPS = (
    ("attest", "agent-ready", "attested"),
    ("pull and verify", "attested", "pulled"),
    ("get keys, decrypt, unpack", "pulled", "unsealed"),
    ("provision", "unsealed", "provisioned"),
    ("start the container", "provisioned", "started"),
    ("the application listens", "started", "serving"),
)


def cold_start(setting: Setting) -> list[Row]:
    """Rows: the yardsticks, the whole, and the steps of the run that was the median. The image is 2 MB of busybox.

    The whole is compared with a bare initrd on an untouched command line, and, as its second row, with one that gains
    from the same tuning of the kernel's options as the guest.
    """
    bare: list[float] = []
    tuned: list[float] = []
    runs: list[tuple[float, list[Row]]] = []
    with parties(setting, "cold") as people:
        image = busybox_image(setting.directory("cold-image"))
        document = people.admit(image, "small", setting.guest, PORT)
        for number in range(setting.runs):
            bare.append(boot_busybox(setting.guest, setting.accelerator, PLAIN))
            tuned.append(boot_busybox(setting.guest, setting.accelerator, tuned_options(setting.guest)))
            total, steps = _run(setting, people, document)
            runs.append((total, steps))
            setting.note(f"cold-start {number + 1}/{setting.runs}: {total:.2f} s, bare busybox {bare[-1]:.2f} s")
    bases = [Row(BARE, round(median(bare), 2), "s"), Row(TUNED, round(median(tuned), 2), "s")]
    total, steps = sorted(runs, key=lambda run: run[0])[len(runs) // 2]
    return [*bases, *(against(Row(TOTAL, round(total, 2), "s"), base) for base in bases), *steps]


def _run(setting: Setting, people: Parties, document: Path) -> tuple[float, list[Row]]:
    with launched(setting, people, document) as run:
        return run.answered, breakdown(run)


def breakdown(run: Launched) -> list[Row]:
    """The steps of a launch; they add up to the whole."""
    ready = run.said["agent-ready"]
    kernel = run.seen["agent-ready"] - ready
    values = [
        ("host: checks, measuring, QEMU", run.machine),
        ("firmware, unpacking the kernel", kernel - run.machine),
        ("kernel, init, agent ready", ready),
        *((name, run.seen[end] - run.seen[begin]) for name, begin, end in _STEPS),
        ("verify, first answer", run.answered - run.seen["serving"]),
    ]
    return [Row(f"cold start: {name}", round(value, 2), "s") for name, value in values]
