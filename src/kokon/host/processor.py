"""Starts the security processor, a process of its own that starts QEMU and measures what it starts.

In simulation `python -m kokon.tee.simulated` stands where the hardware does. The host only talks to it: it never
imports it, and the processor's keys are nothing that the host's code ever reads.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kokon.errors import HostError, KokonError
from kokon.host.processes import Process, find_process
from kokon.host.status import relayed_error, shown
from kokon.wire import Fields, parse_json

ANSWER_LIMIT = 64 << 10
ANSWER_TIMEOUT = 120.0
"""Seconds: at first use the processor makes RSA keys, on a slow machine that takes a while."""

DEFAULT_POLICY = 0x30000
"""SEV-SNP guest policy: SMT allowed and the bit that must be one (SNP ABI, table 10); no debugging, no migration."""

_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")


@dataclass(frozen=True, slots=True)
class Order:
    """What the processor is told: QEMU's command line, HOST_DATA (32 bytes), policy, and files of the container."""

    argv: Sequence[str]
    host_data: bytes
    policy: int
    socket: Path
    exit: Path
    log: Path


@dataclass(frozen=True, slots=True)
class Started:
    """What the processor answered: QEMU's process (None: ended already), its own, launch measurement and root (hex)."""

    machine: Process | None
    processor: Process | None
    measurement: str
    root: str


def default_command(keys: Path) -> tuple[str, ...]:
    """The simulated security processor with its keys in `keys`."""
    return (sys.executable, "-I", "-m", "kokon.tee.simulated", "--keys", str(keys))


def start_processor(command: Sequence[str], order: Order, log: Path) -> Started:
    """Run `command` with `order` and return its answer; its own stderr goes to `log`.

    Raises the processor's own error, or `HostError` (`processor-failed`).
    """
    request = {
        "argv": list(order.argv),
        "host_data": order.host_data.hex(),
        "policy": order.policy,
        "socket": str(order.socket),
        "exit": str(order.exit),
        "log": str(order.log),
    }
    # Only what programs need: the caller's environment may hold tokens.
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    with log.open("ab") as errors:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
    answer = None
    try:
        answer = _exchange(child, json.dumps(request).encode())
        return _parse_answer(answer, log)
    finally:
        if answer is None:
            child.kill()
        # Whether it went to the background or not, it must not stay as a zombie of ours.
        threading.Thread(target=child.wait, daemon=True).start()


def _exchange(child: subprocess.Popen[bytes], request: bytes) -> bytes:
    if child.stdin is None or child.stdout is None:
        raise HostError("processor-failed", "the security processor has no pipes")
    try:
        with child.stdin as pipe:
            pipe.write(request)
    except BrokenPipeError:
        pass  # It ended early; what it said, or its log, has the reason.
    with child.stdout as pipe, selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        deadline, answer = time.monotonic() + ANSWER_TIMEOUT, b""
        while selector.select(max(0.0, deadline - time.monotonic())):
            chunk = os.read(pipe.fileno(), ANSWER_LIMIT)
            answer += chunk
            if not chunk or len(answer) > ANSWER_LIMIT:
                return answer
    raise HostError("processor-failed", "the security processor does not answer", expected=f"<= {ANSWER_TIMEOUT:.0f} s")


def _parse_answer(answer: bytes, log: Path) -> Started:
    try:
        value = parse_json(answer, limit=ANSWER_LIMIT, what="answer of the security processor")
        fields = Fields(value, "answer of the security processor")
        error = fields.table("error", default=None)
        if error is None:
            return _started(fields)
    except KokonError as malformed:
        raise HostError(
            "processor-failed",
            "the security processor failed",
            found=tail(log) or malformed.message,
        ) from malformed
    raise relayed_error(error)


def _started(fields: Fields) -> Started:
    return Started(
        machine=find_process(fields.integer("pid", low=2, high=2**31)),
        processor=find_process(fields.integer("processor_pid", low=2, high=2**31)),
        measurement=fields.text("measurement", limit=96),
        root=fields.text("root", limit=64),
    )


def tail(log: Path, size: int = 400) -> str:
    """The end of a log file as one line of text, for an error."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            data: Any = file.read(size)
    except OSError:
        return ""
    return " | ".join(shown(line) for line in data.decode("utf-8", "replace").split("\n") if line.strip())
