"""`python -I -m kokon.tee.simulated --keys DIR`: one order as JSON on stdin, the answer as JSON on stdout, then in
the background.

`--fingerprint` instead prints the root's fingerprint (and makes the keys if there are none). The answer is
`{"pid", "processor_pid", "measurement", "root"}` or `{"error": {...}}`; exit status 0 or that of the error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from kokon.errors import HostError, KokonError, UsageError
from kokon.tee.simulated.keys import are_made, fingerprint, load_processor, stored_fingerprint
from kokon.tee.simulated.launch import ORDER_LIMIT, Order, open_log, parse_order
from kokon.tee.simulated.service import Service, error_answer


def main(arguments: list[str]) -> int:
    """Run the processor; returns the exit status of the process that the caller waits for."""
    try:
        keys, only_fingerprint = _arguments(arguments)
        if only_fingerprint:
            _say(fingerprint(keys))
            return 0
        order = parse_order(sys.stdin.buffer.read(ORDER_LIMIT + 1))
        if not are_made(keys):
            _make_keys(keys)
        service = Service(load_processor(keys), order)
        root = stored_fingerprint(keys)
    except KokonError as error:
        _say(json.dumps(error_answer(error)))
        return error.exit_status
    sys.stdout.flush()
    if os.fork():
        return 0
    _background(service, order, root)
    return 0


def _arguments(arguments: list[str]) -> tuple[Path, bool]:
    rest = [item for item in arguments if item != "--fingerprint"]
    if len(rest) != 2 or rest[0] != "--keys":
        raise UsageError("processor-usage", "usage: python -I -m kokon.tee.simulated --keys DIR [--fingerprint]")
    return Path(rest[1]).absolute(), len(rest) != len(arguments)


def _make_keys(keys: Path) -> None:
    """Make the keys in a process of its own, so that this long-lived one does not keep the memory that it takes."""
    command = [sys.executable, "-I", "-m", "kokon.tee.simulated", "--keys", str(keys), "--fingerprint"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        load_processor(keys)  # says what is wrong
        raise HostError("processor-keys-broken", "the keys could not be made", found=f"status {done.returncode}")


def _background(service: Service, order: Order, root: str) -> None:
    """The part that outlives the caller: own session, nothing of the caller's left open but stdout until the
    answer."""
    os.setsid()
    finished = False
    try:
        with open_log(order.log) as log, Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(log, 2)  # whatever goes wrong from here on is told in the log
        pid = service.start()
        answer = {
            "pid": pid,
            "processor_pid": os.getpid(),
            "measurement": service.measurement.hex(),
            "root": root,
        }
        _say(json.dumps(answer))
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 1)
        service.serve()
        finished = True
    except KokonError as error:
        _say(json.dumps(error_answer(error)))
    finally:
        if not finished:
            service.stop()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
