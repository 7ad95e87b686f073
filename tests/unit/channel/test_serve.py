"""The guest's front door, with real TLS 1.3 over loopback."""

import contextlib
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from channel_world import TOKEN, Application, ScriptedGuest, echo, launch_document, public_pem, shout
from cryptography.hazmat.primitives.asymmetric import ec

from kokon.channel.certificate import read_certificate
from kokon.channel.mint import make_certificate
from kokon.channel.protocol import (
    ALPN,
    FRAME_LIMIT,
    AttestRequest,
    LogsRequest,
    Request,
    StatusRequest,
    encode_frame,
    parse_answer,
    parse_message,
    request_message,
)
from kokon.channel.serve import AttestedServer, Limits
from kokon.channel.tls import TlsStream, client_context, receive_message, send_message
from kokon.errors import HostError, UnreachableError

NOW = datetime(2026, 11, 23, tzinfo=UTC)
KEY = ec.generate_private_key(ec.SECP384R1())
AUTHOR = ec.generate_private_key(ec.SECP256R1())


@dataclass
class Served:
    """A running server and what a test needs of it."""

    server: AttestedServer
    guest: ScriptedGuest
    app: Application
    address: tuple[str, int]

    def dial(self, alpn: str | None = ALPN) -> TlsStream:
        stream = TlsStream(
            socket.create_connection(self.address), client_context([alpn] if alpn else []), server_side=False
        )
        stream.handshake(10)
        return stream

    def ask(self, request: Request, stream: TlsStream | None = None) -> dict[str, object]:
        stream = stream or self.dial()
        send_message(stream, request_message(request), 10)
        body = receive_message(stream, limit=FRAME_LIMIT, timeout=10)
        assert body is not None
        return parse_message(body)


Start = Callable[..., Served]


@pytest.fixture
def start() -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def begin(serve: Callable[[socket.socket], None] = echo, limits: Limits | None = None) -> Served:
            guest = ScriptedGuest(launch_document(public_pem(AUTHOR)))
            app = Application(serve)
            certificate = make_certificate(KEY, guest.evidence, NOW)
            server = AttestedServer(guest, KEY, certificate, app.connect, limits=limits)
            stack.callback(server.close)
            return Served(server, guest, app, server.start("127.0.0.1", 0))

        yield begin


def eventually(condition: Callable[[], bool], seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_attest_answers_over_nonce_and_key(start: Start) -> None:
    served = start()
    stream = served.dial()
    answer = parse_answer(served.ask(AttestRequest(b"n" * 32), stream))
    assert answer.runtime.nonce == b"n" * 32
    assert answer.runtime.key_digest == read_certificate(stream.peer_certificate).key_digest
    assert answer.runtime.released == ("db",)
    assert answer.document == served.guest.document
    assert served.guest.asked[-1] == answer.runtime.report_data()
    again = parse_answer(served.ask(AttestRequest(b"m" * 32), stream))
    assert again.runtime.nonce == b"m" * 32
    stream.close()


def test_application_is_never_connected_to_for_the_control_protocol(start: Start) -> None:
    served = start()
    served.ask(AttestRequest(bytes(32)))
    served.ask(StatusRequest())
    stream = served.dial()
    stream.write(b"GET / HTTP/1.1\r\n\r\n", 5)
    with contextlib.suppress(UnreachableError):
        stream.read(1000, 5)
    assert served.app.connections == 0


def test_client_that_offers_both_gets_the_control_protocol(start: Start) -> None:
    served = start()
    stream = TlsStream(socket.create_connection(served.address), client_context(["http/1.1", ALPN]), server_side=False)
    stream.handshake(10)
    assert stream.alpn == ALPN


@pytest.mark.parametrize("alpn", [None, "http/1.1", "h3"])
def test_everything_else_reaches_the_application(start: Start, alpn: str | None) -> None:
    served = start()
    stream = served.dial(alpn)
    assert stream.alpn == (alpn if alpn == "http/1.1" else None)
    stream.write(b"hello", 5)
    assert stream.read(100, 5) == b"hello"
    assert served.app.connections == 1


def test_half_close_reaches_the_application_and_answers_come_back(start: Start) -> None:
    served = start(shout)
    data = os.urandom(100_000).hex().encode()
    stream = served.dial(None)
    stream.write(data, 10)
    stream.close_write()
    stream.flush()
    received = b""
    while part := stream.read(65536, 10):
        received += part
    assert received == data.upper()


def test_application_that_ends_first_still_hears_the_client(start: Start) -> None:
    heard: list[bytes] = []

    def closing(sock: socket.socket) -> None:
        sock.sendall(b"bye")
        sock.shutdown(socket.SHUT_WR)
        while part := sock.recv(65536):
            heard.append(part)

    served = start(closing)
    stream = served.dial(None)
    assert stream.read(10, 5) == b"bye"
    assert stream.read(10, 5) == b""
    stream.write(b"late news", 5)
    stream.close()
    assert eventually(lambda: heard == [b"late news"])


def test_many_megabytes_pass_both_ways_with_back_pressure(start: Start) -> None:
    served = start()
    stream = served.dial(None)
    block = os.urandom(1 << 20)
    received = bytearray()

    def send() -> None:
        for _ in range(8):
            sender.sendall(block)
        sender.shutdown(socket.SHUT_WR)

    # A relay of the client's own, so that sending and receiving go on at once.
    from kokon.channel.relay import relay

    sender, other = socket.socketpair()
    threading.Thread(target=relay, args=(stream, other), kwargs={"idle": 10}, daemon=True).start()
    threading.Thread(target=send, daemon=True).start()
    while part := sender.recv(65536):
        received += part
        if len(received) % 7 == 0:
            time.sleep(0.001)
    assert bytes(received) == block * 8


def test_connection_cut_off_resets_the_application(start: Start) -> None:
    ended: list[str] = []

    def listen(sock: socket.socket) -> None:
        try:
            while sock.recv(65536):
                pass
            ended.append("orderly")
        except ConnectionError:
            ended.append("reset")

    app_listener = socket.create_server(("127.0.0.1", 0))
    guest = ScriptedGuest(launch_document(public_pem(AUTHOR)))
    server = AttestedServer(
        guest,
        KEY,
        make_certificate(KEY, guest.evidence, NOW),
        lambda: socket.create_connection(app_listener.getsockname()),
    )
    served = Served(server, guest, Application(listen), server.start("127.0.0.1", 0))
    stream = served.dial(None)
    stream.write(b"POST / half of a message", 5)
    with app_listener.accept()[0] as sock:
        assert sock.recv(100) == b"POST / half of a message"
        stream.socket.close()  # no close_notify: as if the host had cut the wire
        listen(sock)
    assert ended == ["reset"]
    server.close()


def test_application_that_is_not_there_ends_the_connection(start: Start) -> None:
    served = start()
    served.server._connect_app = lambda: socket.create_connection(("127.0.0.1", 1))  # nobody listens there
    stream = served.dial(None)
    assert stream.read(10, 5) == b""


def test_idle_relay_ends_and_not_as_if_all_had_been_said(start: Start) -> None:
    served = start(limits=Limits(idle=0.2))
    stream = served.dial(None)
    with pytest.raises(UnreachableError) as caught:
        stream.read(10, 5)
    assert caught.value.code == "peer-closed"


def test_application_that_breaks_off_is_not_taken_for_one_that_ended(start: Start) -> None:
    def broken(sock: socket.socket) -> None:
        sock.sendall(b"half of an ans")
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = start()
        served.server._connect_app = lambda: socket.create_connection(listener.getsockname())
        stream = served.dial(None)
        with listener.accept()[0] as sock:
            stream.write(b"?", 5)
            broken(sock)
        assert stream.read(100, 5) == b"half of an ans"
        with pytest.raises(UnreachableError) as caught:
            stream.read(10, 5)
        assert caught.value.code == "peer-closed"


def test_logs_need_the_token(start: Start) -> None:
    served = start()
    stream = served.dial()
    assert served.ask(LogsRequest("wrong"), stream)["error"]["code"] == "log-token-wrong"  # type: ignore[index]
    served.guest.token = None
    assert served.ask(LogsRequest(""))["error"]["code"] == "log-token-wrong"  # type: ignore[index]


def test_logs_come_in_pieces(start: Start) -> None:
    import base64

    served = start()
    stream = served.dial()
    send_message(stream, request_message(LogsRequest(TOKEN)), 5)
    output = b""
    while not (message := parse_message(receive_message(stream, limit=FRAME_LIMIT, timeout=5) or b"")).get("end"):
        output += base64.b64decode(message["log"])
    assert output == b"one\n" + b"x" * 100_000


def test_follower_that_went_away_is_let_go(start: Start) -> None:
    served = start()
    produced = 0

    def forever(follow: bool) -> Iterator[bytes]:
        nonlocal produced
        while produced < 10_000:
            produced += 1
            time.sleep(0.01)
            yield b""

    served.guest.logs = forever  # type: ignore[method-assign]
    stream = served.dial()
    send_message(stream, request_message(LogsRequest(TOKEN, follow=True)), 5)
    receive_message(stream, limit=FRAME_LIMIT, timeout=5)
    stream.close()
    assert eventually(lambda: not served.server._live)
    assert produced < 1000


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (encode_frame({"op": "shell"}), "operation-unknown"),
        (b"\0\0\x20\0", "frame-too-large"),
        (b"\xff\xff\xff\xff", "frame-too-large"),
        (b"\0\0\0\0", "frame-malformed"),
        (b"\0\0\0\2[]", "frame-malformed"),
    ],
)
def test_bad_frames_are_refused_and_end_the_conversation(start: Start, raw: bytes, code: str) -> None:
    served = start()
    stream = served.dial()
    stream.write(raw, 5)
    refusal = parse_message(receive_message(stream, limit=FRAME_LIMIT, timeout=5) or b"")
    assert refusal["error"]["code"] == code
    assert receive_message(stream, limit=FRAME_LIMIT, timeout=5) is None


def test_requests_on_one_connection_are_bounded(start: Start) -> None:
    served = start(limits=Limits(requests=2))
    stream = served.dial()
    served.ask(StatusRequest(), stream)
    assert served.ask(StatusRequest(), stream) == {"status": {"phase": "serving"}}
    assert receive_message(stream, limit=FRAME_LIMIT, timeout=5) is None


def test_handshake_that_does_not_come_is_ended(start: Start) -> None:
    served = start(limits=Limits(handshake=0.2))
    with socket.create_connection(served.address) as sock:
        sock.settimeout(5)
        assert sock.recv(10) == b""
    assert eventually(lambda: not served.server._live)


def test_trickled_handshake_is_ended_in_time(start: Start) -> None:
    served = start(limits=Limits(handshake=0.4))
    began = time.monotonic()
    with socket.create_connection(served.address) as sock, contextlib.suppress(OSError):
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        for _ in range(100):
            sock.sendall(b"\0")
            time.sleep(0.05)
    assert time.monotonic() - began < 3


def test_trickled_request_is_ended_in_time(start: Start) -> None:
    served = start(limits=Limits(request=0.4))
    stream = served.dial()
    began = time.monotonic()
    with contextlib.suppress(UnreachableError):
        for byte in b"\0\0\1\0" + b"x" * 100:
            stream.write(bytes([byte]), 5)
            time.sleep(0.05)
    assert time.monotonic() - began < 3


def test_connections_are_bounded_and_freed(start: Start) -> None:
    served = start(limits=Limits(connections=2))
    first, _second = served.dial(None), served.dial(None)
    with pytest.raises(UnreachableError):
        served.dial()
    first.close()
    assert eventually(lambda: len(served.server._live) < 2)
    assert served.ask(StatusRequest()) == {"status": {"phase": "serving"}}


def test_tls_1_2_is_refused(start: Start) -> None:
    served = start()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError), socket.create_connection(served.address) as sock:
        context.wrap_socket(sock)


def test_no_session_is_resumed(start: Start) -> None:
    served = start()
    context = client_context(["http/1.1"])
    with context.wrap_socket(socket.create_connection(served.address)) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        assert sock.session is None or not sock.session.has_ticket


def test_port_that_is_taken_is_said(start: Start) -> None:
    served = start()
    with pytest.raises(HostError) as caught:
        served.server.start(*served.address)
    assert caught.value.code == "port-taken"


def test_close_breaks_connections_off(start: Start) -> None:
    served = start()
    stream = served.dial(None)
    stream.write(b"x", 5)
    assert stream.read(1, 5) == b"x"
    served.server.close()
    with contextlib.suppress(UnreachableError):
        assert stream.read(1, 5) == b""
    with pytest.raises(OSError):
        socket.create_connection(served.address, timeout=1)


def test_private_key_is_on_no_disk(start: Start) -> None:
    start()
    names = [link.readlink().name for link in Path("/proc/self/fd").iterdir() if link.exists()]
    assert not [name for name in names if "kokon-tls" in name]


def plain_listener(serve: Callable[[socket.socket], None]) -> tuple[str, int]:
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with listener, listener.accept()[0] as sock:
            serve(sock)

    threading.Thread(target=run, daemon=True).start()
    address: tuple[str, int] = listener.getsockname()
    return address


@pytest.mark.parametrize(
    ("serve", "code"),
    [
        (lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "tls-failed"),
        (lambda sock: sock.recv(4096), "peer-closed"),
        (lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)), "peer-closed"),
        (lambda sock: time.sleep(1), "peer-timeout"),
    ],
)
def test_client_says_why_there_is_no_tls(serve: Callable[[socket.socket], None], code: str) -> None:
    sock = socket.create_connection(plain_listener(serve))
    stream = TlsStream(sock, client_context([]), server_side=False)
    with pytest.raises(UnreachableError) as caught:
        stream.handshake(0.5)
    assert caught.value.code == code


def test_frame_cut_short_is_said(start: Start) -> None:
    def half_a_frame(sock: socket.socket) -> None:
        sock.recv(1)
        sock.sendall(b"\0\0\0\x10{")

    served = start(half_a_frame)
    stream = served.dial(None)
    stream.write(b"x", 5)
    with pytest.raises(UnreachableError) as caught:
        receive_message(stream, limit=FRAME_LIMIT, timeout=5)
    assert caught.value.code == "peer-closed"


def test_server_that_can_start_no_thread_goes_on(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    served = start()

    def no_more(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        with pytest.raises(UnreachableError):
            served.dial()
    assert not served.server._live
    assert served.ask(StatusRequest()) == {"status": {"phase": "serving"}}


def test_guest_side_imports_little() -> None:
    import subprocess
    import sys

    heavy = "'httpx2', 'httpcore2', 'rich', 'cyclopts', 'joserfc', 'starlette', 'asyncio', 'kokon.channel.verify'"
    check = f"import sys, kokon.channel.serve; sys.exit(len({{{heavy}}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-I", "-c", check], check=False, timeout=60).returncode == 0
