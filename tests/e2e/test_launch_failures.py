"""Launches that fail after the guest booted: a clear code, no application, and nothing that goes on running."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.registry import LocalRegistry
from support.world import World, free_port, read_until, wait_until

pytestmark = pytest.mark.vm

HUNGRY = """
import socket
door = socket.create_server(('127.0.0.1', 8080))
hoard = []
while True:
    hoard.append(b'x' * (4 << 20))
"""
AUTH_BYTES = 2500
"""More than a TLS hello and the request for a challenge take; evidence with its certificates takes more than twice."""


def test_the_image_does_not_fit_on_the_scratch_disk(world: World) -> None:
    document = world.admit("cramped")
    error = world.run_fails("disk-full", 8, document, "--scratch", "24M")
    assert "--scratch" in error["message"]
    assert world.phases("cramped")[-1] == "failed"
    assert "started" not in world.phases("cramped")
    assert world.owner.entries()[-1]["code"] == "disk-full"


def test_the_guest_runs_out_of_memory(world: World) -> None:
    document = world.admit_program("hungry", HUNGRY)
    done = world.kokon("run", document, "--publish", "127.0.0.1:0", "--memory", 256, "--json")
    ended = world.container("hungry")
    assert (done.status, ended["state"], ended["exit"], ended["code"]) == (137, "exited", 137, "guest-out-of-memory")
    assert '"guest-out-of-memory"' in done.out
    world.assert_gone("hungry")
    assert world.owner.entries()[-1]["code"] == "guest-out-of-memory"


def test_the_registry_is_gone(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.registry.directory, tmp_path / "copy")
    with LocalRegistry(tmp_path / "copy") as registry:
        document = world.admit("orphan", image=f"{registry.host}/clinic:1")
    world.run_fails("registry-unreachable", 7, document)
    assert world.phases("orphan") == ["agent-ready", "attested", "failed"]
    assert world.owner.entries()[-1]["code"] == "registry-unreachable"


def test_the_server_is_not_there(world: World) -> None:
    document = world.admit("lonely", "--server", f"https://127.0.0.1:{free_port()}")
    world.run_fails("provisioning-unreachable", 7, document)
    assert world.phases("lonely") == ["agent-ready", "failed"]


def test_the_server_is_killed_in_the_middle_of_the_handshake(world: World) -> None:
    with middleman(world) as port:
        document = world.admit("interrupted", "--server", f"https://127.0.0.1:{port}")
        error = world.run_fails("provisioning-unreachable", 7, document)
    assert error["hint"]
    assert world.phases("interrupted") == ["agent-ready", "failed"]
    world.owner.start()
    events = [entry for entry in world.owner.entries() if entry.get("workload") == "interrupted"]
    assert [entry["event"] for entry in events] == ["workload-admitted"], "nothing was granted, nothing released"


@contextmanager
def middleman(world: World) -> Iterator[int]:
    """Stands between guest and server, and kills the server when the evidence comes: after the first challenge."""
    listener = socket.create_server(("127.0.0.1", 0))
    killed = threading.Event()

    def carry(source: socket.socket, target: socket.socket, limit: int | None) -> None:
        count = 0
        try:
            while data := source.recv(65536):
                count += len(data)
                if limit is not None and count > limit and not killed.is_set():
                    killed.set()
                    world.owner.stop(kill=True)
                target.sendall(data)
        except OSError:
            pass
        finally:
            source.close()
            target.close()

    def accept() -> None:
        while True:
            try:
                guest, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", world.owner.port))
            except OSError:
                guest.close()
                continue
            threading.Thread(target=carry, args=(guest, server, AUTH_BYTES), daemon=True).start()
            threading.Thread(target=carry, args=(server, guest, None), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    assert killed.is_set()


def test_the_guest_is_killed_while_it_starts(world: World) -> None:
    document = world.admit("short-lived")
    process = world.begin("run", document, "--publish", "127.0.0.1:0", "--json")
    read_until(process.stderr, "virtual machine started")
    container = world.container("short-lived")
    assert container["state"] == "starting"
    os.kill(container["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (8, ""), err
    assert '"guest-vanished"' in err
    world.assert_gone("short-lived", int(container["publish"].rpartition(":")[2]))
    world.ask("rm", "short-lived")


def test_ctrl_c_while_it_starts(world: World) -> None:
    document = world.admit("hasty")
    process = world.begin("run", document, "--publish", "127.0.0.1:0")
    read_until(process.stderr, "guest booted")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    wait_until(lambda: world.container("hasty")["pid"] is None, 10, "the guest goes on")
    world.assert_gone("hasty")
    assert "started" not in world.phases("hasty")
