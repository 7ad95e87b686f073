"""How a server begins and ends: signals, the time of grace, the service manager. Real processes."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from web_factory import WAIT, Peer, request, running

from kokon.errors import HostError, UsageError
from kokon.provisioning.web.pool import ConnectionLimits
from kokon.provisioning.web.server import fit_descriptors, listeners
from kokon.provisioning.web.systemd import inherited_sockets, notify, watchdog_seconds

SCRIPT = Path(__file__).with_name("web_process.py")


class Process:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.port = 0

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("x")
        self.process.stdin.flush()

    def peer(self, data: bytes = b"") -> Peer:
        peer = Peer(socket.create_connection(("127.0.0.1", self.port), timeout=WAIT))
        peer.send(data)
        return peer

    def rest(self) -> list[str]:
        out, _ = self.process.communicate(timeout=WAIT)
        return out.split("\n")[:-1]


@contextlib.contextmanager
def process(grace: int = 20, *more: str, wait: bool = True, **options: object) -> Iterator[Process]:
    command = [sys.executable, str(SCRIPT), "0", str(grace), *more]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, **options) as started:  # type: ignore[call-overload]
        try:
            run = Process(started)
            if wait:
                ready, port = run.line().split()
                assert ready == "ready"
                run.port = int(port)
            yield run
        finally:
            started.kill()


# -- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_under_way_is_finished_and_idle_connections_end_at_once(number: int) -> None:
    with process() as run:
        idle, half = run.peer(request()), run.peer(b"GET / HTTP/1.1\r\n")
        assert idle.response()[0] == 200
        busy = run.peer(request(path="/slow") + request(path="/queued"))
        assert run.line() == "under way"
        run.process.send_signal(number)
        assert run.line() == "ending"
        assert idle.rest() == b""
        assert half.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            run.peer()
        run.go_on()
        status, headers, _ = busy.response()
        assert (status, headers["connection"]) == (200, "close")
        assert busy.rest() == b""  # what had not begun is not begun any more
        assert run.rest() == ["application ends", "ended"]
        assert run.process.returncode == 0


def test_who_does_not_come_to_an_end_is_cut_off_after_the_time_of_grace() -> None:
    with process(1) as run:
        busy = run.peer(request(path="/never"))
        assert run.line() == "under way"
        run.process.terminate()
        assert run.line() == "ending"
        assert busy.rest().split(b"\r\n")[0] in (b"", b"HTTP/1.1 500 Internal Server Error")
        assert run.rest() == ["application ends", "ended"]
        assert run.process.returncode == 0


def test_a_second_signal_ends_without_grace() -> None:
    with process(1000) as run:
        run.peer(request(path="/never"))
        assert run.line() == "under way"
        run.process.terminate()
        assert run.line() == "ending"
        run.process.terminate()
        assert run.rest()[-1] == "ended"
        assert run.process.returncode == 0


def test_an_application_that_does_not_start() -> None:
    with process(1, "fail", wait=False) as run:
        assert run.rest() == []
        assert run.process.returncode == 1

    async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    from kokon.provisioning.web.server import Server

    (listener,) = listeners([("127.0.0.1", 0)])
    with contextlib.closing(listener), pytest.raises(HostError) as caught:
        Server(app, [listener], None).start()
    assert caught.value.code == "server-start-failed"


# -- the beginning ---------------------------------------------------------------------------------------------------


def test_a_port_that_is_taken_and_an_address_that_is_not_ours() -> None:
    (first,) = listeners([("127.0.0.1", 0)])
    with contextlib.closing(first):
        first.listen()
        free, taken = ("127.0.0.1", 0), ("127.0.0.1", first.getsockname()[1])
        with pytest.raises(HostError) as caught:
            listeners([free, taken])
        assert caught.value.code == "port-taken"
    for host in ("192.0.2.1", "no.such.host.invalid"):
        with pytest.raises(HostError) as caught:
            listeners([(host, 0)])
        assert caught.value.code == "listen-failed"


def test_several_addresses_and_ipv6() -> None:
    try:
        bound = listeners([("127.0.0.1", 0), ("::1", 0)])
    except HostError:
        pytest.skip("no IPv6 here")
    assert [listener.family for listener in bound] == [socket.AF_INET, socket.AF_INET6]
    for listener in bound:
        listener.close()


def test_descriptors_are_raised_to_what_is_needed_and_limits_lowered_to_what_there_is() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = ConnectionLimits(connections=400, idle=300)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
        assert fit_descriptors(limits, reserved=100) == limits
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 500
        fitted = fit_descriptors(ConnectionLimits(connections=1 << 40), reserved=100)
        assert fitted.connections + 100 == resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
        assert fitted.idle == ConnectionLimits().idle
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    script = (
        "import resource; from kokon.provisioning.web.server import *;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64));"
        "fitted = fit_descriptors(ConnectionLimits(), 16); print(fitted.connections, fitted.idle)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=WAIT)
    assert out.stdout.split() == ["48", "24"]


# -- the service manager ---------------------------------------------------------------------------------------------


MANAGER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "WATCHDOG_USEC": "200000"}
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
"""Does to itself what systemd does to a service before it starts it."""


def test_the_manager_is_told_and_its_sockets_are_used(tmp_path) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.settimeout(WAIT)
    (listener,) = listeners([("127.0.0.1", 0)])
    listener.listen()
    port, passed = listener.getsockname()[1], listener.fileno()
    command = [sys.executable, "-c", MANAGER, str(passed), str(SCRIPT), "0", "5"]
    environment = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    with (
        contextlib.closing(manager),
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, pass_fds=[passed]
        ) as started,
    ):
        run = Process(started)
        try:
            assert manager.recv(100) == b"READY=1"
            assert run.line() == f"ready {port}"
            run.port = port
            with contextlib.closing(run.peer(request())) as peer:
                assert peer.response()[0] == 200
            for _ in range(3):
                assert manager.recv(100) == b"WATCHDOG=1"
            started.terminate()
            while (told := manager.recv(100)) == b"WATCHDOG=1":
                pass
            assert told == b"STOPPING=1"
            assert run.rest()[-1] == "ended"
        finally:
            started.kill()
    listener.close()


def test_sockets_for_another_process_are_left_alone() -> None:
    environment = {"LISTEN_PID": "2", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "OTHER": "y"}
    assert inherited_sockets(environment, 1) == []
    assert environment == {"OTHER": "y"}
    assert inherited_sockets({}, 1) == []


@pytest.mark.parametrize("count", ["0", "-1", "x", "17", "\u0661"])
def test_a_number_of_sockets_that_is_none(count: str) -> None:
    with pytest.raises(UsageError) as caught:
        inherited_sockets({"LISTEN_PID": "1", "LISTEN_FDS": count}, 1)
    assert caught.value.code == "activation-malformed"


@pytest.mark.parametrize("kind", ["file", "datagram", "not-listening"])
def test_what_is_no_listening_socket_is_refused(kind: str, monkeypatch, tmp_path) -> None:
    from kokon.provisioning.web import systemd

    made = {
        "file": lambda: (tmp_path / "x").open("wb"),
        "datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "not-listening": lambda: socket.socket(),
    }[kind]()
    number = os.dup(made.fileno())
    made.close()
    monkeypatch.setattr(systemd, "FIRST", number)
    with pytest.raises(UsageError) as caught:
        inherited_sockets({"LISTEN_PID": "1", "LISTEN_FDS": "1"}, 1)
    assert caught.value.code == "activation-malformed"
    if kind == "file":  # the others have been closed, and the number may be somebody else's by now
        os.close(number)


def test_nobody_listens(tmp_path) -> None:
    assert not notify({}, "READY=1")
    assert not notify({"NOTIFY_SOCKET": "relative"}, "READY=1")
    assert not notify({"NOTIFY_SOCKET": str(tmp_path / "nothing")}, "READY=1")


def test_a_manager_without_a_file() -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(f"\0kokon-test-{os.getpid()}")
        assert notify({"NOTIFY_SOCKET": f"@kokon-test-{os.getpid()}"}, "READY=1", "STATUS=well")
        assert manager.recv(100) == b"READY=1\nSTATUS=well"


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "9" * 30}, None),
    ],
)
def test_how_often_a_sign_of_life_is_wanted(environment: dict[str, str], seconds: float | None) -> None:
    assert watchdog_seconds(environment, 7) == seconds


def test_a_server_in_a_thread_needs_no_signals() -> None:
    with running() as run:
        assert run.get()["path"] == "/"
