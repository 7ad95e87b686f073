"""The application's network namespace, where this machine lets us make one."""

import os
import socket
import threading
from pathlib import Path

import pytest

from kokon.errors import InternalError
from kokon.guest.agent import kernel, netns
from kokon.guest.agent.netns import AppNetwork


def can_unshare() -> bool:
    def attempt() -> None:
        try:
            kernel.unshare(kernel.CLONE_NEWNET)
            allowed.append(True)
        except OSError:
            pass

    allowed: list[bool] = []
    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return bool(allowed)


@pytest.mark.skipif(not can_unshare(), reason="may not make network namespaces here")
def test_sockets_live_in_a_namespace_of_their_own() -> None:
    network = AppNetwork()
    assert os.fstat(network.descriptor).st_ino != Path("/proc/self/ns/net").stat().st_ino
    with socket.create_server(("127.0.0.1", 0)) as outside:
        port = outside.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):  # loopback is up, and it is another one
            network.connect(port, 2)
    with AppNetwork._socket() as here:
        assert here.family == socket.AF_INET


def test_a_namespace_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(1, "no")

    monkeypatch.setattr(netns.kernel, "unshare", refuse)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    with pytest.raises(InternalError) as caught:
        AppNetwork()
    assert caught.value.code == "network-namespace"


def test_no_socket_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a namespace that is ours after all: what is left to test is the way of a connection."""
    monkeypatch.setattr(netns.kernel, "unshare", lambda _: None)
    monkeypatch.setattr(netns, "bring_up", lambda *_: None)
    network = AppNetwork()
    with socket.create_server(("127.0.0.1", 0)) as server, network.connect(server.getsockname()[1]) as client:
        peer, _ = server.accept()
        client.sendall(b"x")
        assert peer.recv(1) == b"x"
        peer.close()

    def fail() -> socket.socket:
        raise OSError(24, "too many")

    monkeypatch.setattr(AppNetwork, "_socket", staticmethod(fail))
    with pytest.raises(OSError, match="no socket"):
        network.connect(1)
