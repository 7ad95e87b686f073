"""A stand-in for `python -m kokon.tee.simulated`: same orders and answers, no measuring.

Modes: `qemu` starts the real QEMU, paused, without the dummy kernel; `guest SCRIPT` starts a stand-in of QEMU that
plays a guest (SCRIPT is JSON, see `play`); `refuse`, `garbage`, `silent`, `die`, `unlaunchable` are ways to go wrong.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path


def main() -> None:
    if sys.argv[1] == "play":
        play(json.loads(sys.argv[2]), json.loads(sys.argv[3]))
        return
    order = json.load(sys.stdin)
    mode = sys.argv[1]
    if mode == "refuse":
        error = {"code": "kernel-unreadable", "kind": "malformed", "message": "the kernel cannot be read"}
        answer({"error": error})
    elif mode == "garbage":
        sys.stdout.write("Traceback, and no JSON")
    elif mode == "die":
        sys.exit("no keys for you")
    elif mode == "silent":
        time.sleep(60)
    else:
        serve(order, mode)


def answer(value: object) -> None:
    sys.stdout.write(json.dumps(value))
    sys.stdout.flush()


def serve(order: dict, mode: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(order["socket"])
    listener.listen()
    if os.fork():
        os._exit(0)
    with Path(order["log"]).open("ab") as log:
        child = subprocess.Popen(command(order["argv"], mode), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    given = {"measurement": "ab" * 48, "root": "cd" * 32}
    answer({"pid": child.pid, "processor_pid": os.getpid()} | given)
    devnull = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(devnull, stream)
    status = child.wait()
    ending = {"status": status} if status >= 0 else {"signal": -status, "status": None}
    Path(order["exit"]).write_text(json.dumps(ending))


def command(argv: list[str], mode: str) -> list[str]:
    if mode == "guest":
        return [sys.executable, "-I", __file__, "play", sys.argv[2], json.dumps(argv)]
    kept, words = [], iter(argv)
    for word in words:
        if word in ("-kernel", "-initrd", "-append", "-bios"):
            next(words)
        else:
            kept.append(word)
    return [*kept, "-S"] + (["-bogus"] if mode == "unlaunchable" else [])


def path_of(argv: list[str], name: str) -> str:
    for word in argv:
        if f"id={name}" in word:
            return next(part for part in word.split(",") if part.startswith("path=")).removeprefix("path=")
    raise ValueError(name)


def play(script: dict, argv: list[str]) -> None:
    """Say the lines of `say`, then on a stop request those of `stop` and end; `linger` ignores requests and quit."""
    status = os.open(path_of(argv, "status"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    control, monitor = listen(path_of(argv, "control")), listen(path_of(argv, "qmp"))

    def tell(lines: list[dict]) -> None:
        for line in lines:
            time.sleep(line.pop("after", 0))
            os.write(status, json.dumps({"t": 2.0} | line).encode() + b"\n")

    def on_quit() -> None:
        while True:
            peer, _ = monitor.accept()
            with contextlib.suppress(OSError), peer, peer.makefile("rwb", buffering=0) as lines:
                lines.write(b'{"QMP": {}}\n')
                for line in lines:
                    lines.write(b'{"event": "RESUME"}\n{"return": {}}\n')
                    if b"quit" in line and not script.get("linger"):
                        os._exit(0)

    def on_stop() -> None:
        peer, _ = control.accept()
        request = json.loads(peer.makefile("rb").readline())
        if request == {"op": "stop", "signal": request["signal"]} and not script.get("linger"):
            tell([line | {"exit": 128 + request["signal"]} for line in script["stop"]])
            os._exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=on_quit, daemon=True).start()
    threading.Thread(target=on_stop, daemon=True).start()
    time.sleep(0.4)  # A real guest takes longer to boot than the host to look.
    tell(script.get("say", []))
    if script.get("power-off"):
        os._exit(0)
    time.sleep(120)


def listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    return listener


main()
