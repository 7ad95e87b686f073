"""The HTTP connection: what is refused, what is cut off, and that nobody else feels it. Real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import resource
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from web_factory import WAIT, Peer, answer, echo, request, running

from kokon.provisioning.web.pool import ConnectionLimits

HOST = b"Host: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
AMBIGUOUS: dict[str, tuple[int, bytes]] = {
    "length-and-chunked": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n" + CHUNKED + b"\r\n0\r\n\r\n"),
    "chunked-and-length": (400, b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"Content-Length: 3\r\n\r\n0\r\n\r\n"),
    "two-lengths": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
    "length-list": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3, 3\r\n\r\nabc"),
    "length-signed": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +3\r\n\r\nabc"),
    "length-huge": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999999999999\r\n\r\nabc"),
    "bare-lf": (400, b"GET / HTTP/1.1\nHost: x\n\n"),
    "bare-lf-in-header": (400, b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n"),
    "bare-cr": (400, b"GET / HTTP/1.1\r\nHost: x\rA: b\r\n\r\n"),
    "folded": (400, b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n"),
    "blank-before-colon": (400, b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n"),
    "nul": (400, b"GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n"),
    "coding-list": (501, b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "coding-twice": (400, b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + CHUNKED + b"\r\n0\r\n\r\n"),
    "coding-unknown": (501, b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "coding-in-1.0": (400, b"POST / HTTP/1.0\r\n" + HOST + CHUNKED + b"\r\n0\r\n\r\n"),
    "no-host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two-hosts": (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    "two-credentials": (
        400,
        b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: B a\r\nAUTHORIZATION: B b\r\n\r\n",
    ),
    "two-cookies": (400, b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=b\r\nCookie: a=c\r\n\r\n"),
    "expectation": (417, b"GET / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n"),
    "version-2": (505, b"GET / HTTP/2.0\r\nHost: x\r\n\r\n"),
    "version-0.9": (505, b"GET /\r\n\r\n"),
    "http2-preface": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "absolute-target": (400, b"GET http://evil/ HTTP/1.1\r\nHost: x\r\n\r\n"),
    "star-target": (400, b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"),
    "connect": (400, b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n"),
    "fragment": (400, b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n"),
    "path-not-utf8": (400, b"GET /%ff HTTP/1.1\r\nHost: x\r\n\r\n"),
    "path-control": (400, b"GET /a%0ab HTTP/1.1\r\nHost: x\r\n\r\n"),
    "method-unknown": (400, b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n"),
    "binary": (400, bytes(range(256))),
    "tls-in-plain": (400, bytes.fromhex("16030100f4010000f00303")),
}


@pytest.fixture(scope="module")
def server():
    with running() as run:
        yield run


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_ambiguous_requests_are_refused_and_end_the_connection(server, name: str) -> None:
    status, data = AMBIGUOUS[name]
    with contextlib.closing(server.peer(data)) as peer:
        told, headers, _ = peer.response()
        assert told == status
        assert headers["connection"] == "close"
        peer.send(request())  # nobody listens to what comes after
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.rest() == b""
    assert server.get("/other")["path"] == "/other"


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_requests_are_told_as_they_are(loop: str) -> None:
    with running(loop=loop) as run, contextlib.closing(run.peer()) as peer:
        for _ in range(2):
            peer.send(request("POST", "/a%20b/%C3%A4?x=%41", "X-One: 1", "Content-Length: 3", body=b"abc"))
            status, headers, body = peer.response()
            told = json.loads(body)
            assert status == 200
            assert "connection" not in headers
            assert (told["method"], told["path"], told["query"]) == ("POST", "/a b/ä", "x=%41")
            assert (told["version"], told["scheme"], told["body"], told["peer"]) == ("1.1", "http", 3, None)
            assert told["headers"] == ["content-length", "host", "x-one"]
        peer.send(b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n")
        assert json.loads(peer.response()[2])["body"] == 7
        peer.send(b"GET / HTTP/1.0\r\n\r\n")
        status, headers, body = peer.response()
        assert json.loads(body)["version"] == "1.0"
        assert headers["connection"] == "close"
        assert peer.rest() == b""


def test_a_head_may_come_in_pieces(server) -> None:
    with contextlib.closing(server.peer()) as peer:
        for byte in request("POST", "/slow", "Content-Length: 2", body=b"ab"):
            peer.send(bytes([byte]))
        assert json.loads(peer.response()[2]) | {"path": "/slow", "body": 2} == json.loads(
            json.dumps(server.get("/slow") | {"method": "POST", "body": 2, "headers": ["content-length", "host"]})
        )


def test_a_trailer_never_becomes_a_header() -> None:
    seen: list[Any] = []
    done = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
        seen.append((message["type"], [name for name, _ in scope["headers"]]))
        done.set()

    with running(app) as run:
        smuggled = b"0\r\nAuthorization: Bearer stolen\r\n\r\n"
        with contextlib.closing(run.peer(b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n" + smuggled)) as peer:
            assert peer.response()[0] == 400
            assert done.wait(WAIT)
    assert seen == [("http.disconnect", [b"host", b"transfer-encoding"])]


def test_responses_without_a_body(server) -> None:
    with contextlib.closing(server.peer(request("HEAD", "/head"))) as peer:
        first = peer.socket.recv(65536)
        assert first.startswith(b"HTTP/1.1 200 OK\r\n")
        assert first.endswith(b"\r\n\r\n")
        peer.send(request(path="/next"))
        assert json.loads(peer.response()[2])["path"] == "/next"


def test_a_streamed_response_comes_as_it_is_made() -> None:
    more = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await asyncio.to_thread(more.wait, WAIT)
        await send({"type": "http.response.body", "body": b"second"})

    with running(app) as run, contextlib.closing(run.peer(request())) as peer:
        while not peer.left.endswith(b"\r\n\r\n5\r\nfirst\r\n"):
            peer._more()
        more.set()
        while not peer.left.endswith(b"6\r\nsecond\r\n0\r\n\r\n"):
            peer._more()


def test_a_wish_to_switch_protocols_is_not_heard(server) -> None:
    upgrade = ("Connection: upgrade", "Upgrade: h2c", "Content-Length: 2")
    with contextlib.closing(server.peer(request("POST", "/u", *upgrade, body=b"ab") + request(path="/hidden"))) as peer:
        status, headers, body = peer.response()
        assert (status, headers["connection"], json.loads(body)["path"]) == (200, "close", "/u")
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.rest() == b""


# -- sizes ---------------------------------------------------------------------------------------------------------


def test_large_heads_are_refused() -> None:
    with running(limits=ConnectionLimits(head_bytes=2000, headers=10)) as run:
        attacks = {
            "target": request(path="/" + "a" * 2000),
            "value": request("GET", "/", "X: " + "a" * 2000),
            "names": request("GET", "/", *(f"x{number}: y" for number in range(10))),
            "endless": b"GET / HTTP/1.1\r\nX: " + b"a" * 5000,
            "endless-target": b"GET /" + b"a" * 5000,
        }
        for name, attack in attacks.items():
            with contextlib.closing(run.peer(attack)) as peer:
                assert peer.response()[0] == 431, name
        with contextlib.closing(run.peer()) as peer:
            with contextlib.suppress(OSError):
                for _ in range(5000):
                    peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n" if not _ else b"x: y\r\n")
            assert peer.response()[0] == 431
        assert run.get()
        assert run.notes.count("head-too-large") == 6


def test_a_last_answer_is_one_that_every_client_can_read() -> None:
    """Those of the protocol give up on a body that is not its error document."""
    with running(limits=ConnectionLimits(headers=3, head_seconds=0.1)) as run:
        for data, status, code in (
            (b"nonsense\r\n\r\n", 400, "bad-request"),
            (request("GET", "/", "A: 1", "B: 2", "C: 3"), 431, "head-too-large"),
            (b"GET / HTTP/1.1\r\n", 408, "request-timeout"),
        ):
            with contextlib.closing(run.peer(data)) as peer:
                found, headers, body = peer.response()
            document = json.loads(body)
            assert (found, headers["content-type"], headers["connection"]) == (status, "application/json", "close")
            assert (document["detail"], document["error"]["code"], document["error"]["kind"]) == (
                code,
                code,
                "malformed",
            )
            assert document["type"].startswith("https://github.com/confidential-containers/kbs/errors/")


def test_slow_bodies_make_place_for_others() -> None:
    with running(limits=ConnectionLimits(bodies=2, body_seconds=60)) as run:
        slow = [run.peer(request("POST", "/", "Content-Length: 9", body=b"ab")) for _ in range(3)]
        assert slow[0].rest() == b""
        run.wait_for_note("crowded-out")
        with contextlib.closing(run.peer(request("POST", "/", "Content-Length: 2", body=b"ab"))) as peer:
            assert peer.response()[0] == 200
        for peer in slow:
            peer.close()


def test_pipelined_requests_are_answered_in_order_and_there_are_only_so_many() -> None:
    release = threading.Event()
    started = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/wait":
            started.set()
            await asyncio.to_thread(release.wait, WAIT)
        await echo(scope, receive, send)

    with running(app, ConnectionLimits(pipeline=3)) as run:
        requests = [request("POST", path, "Content-Length: 1", body=b"x") for path in ("/wait", "/1", "/2", "/3")]
        with contextlib.closing(run.peer(b"".join(requests))) as peer:
            assert started.wait(WAIT)
            release.set()
            paths = [json.loads(peer.response()[2])["path"] for _ in requests]
            assert paths == ["/wait", "/1", "/2", "/3"]
            peer.send(request(path="/after"))
            assert json.loads(peer.response()[2])["path"] == "/after"
        release.clear()
        with contextlib.closing(run.peer(b"".join([*requests, request(path="/4")]))) as peer:
            run.wait_for_note("pipeline-too-long")
            release.set()
            assert json.loads(peer.response()[2])["path"] == "/wait"  # what was under way is answered
            assert peer.response()[0] == 400
        assert run.get()


def test_a_malformed_successor_does_not_disturb_the_answer_under_way() -> None:
    release = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        start, body = answer(200, b"0123456789")
        await send(start)
        await send({**body, "body": b"01234", "more_body": True})
        await asyncio.to_thread(release.wait, WAIT)
        await send({**body, "body": b"56789"})

    with running(app) as run, contextlib.closing(run.peer(request() + b"nonsense\r\n\r\n")) as peer:
        run.wait_for_note("bad-request")
        release.set()
        assert peer.response()[2] == b"0123456789"
        assert peer.response()[0] == 400


# -- times ---------------------------------------------------------------------------------------------------------


def test_a_peer_that_sends_a_byte_now_and_then_is_cut_off() -> None:
    with running(limits=ConnectionLimits(head_seconds=0.3, close_seconds=0.2)) as run:
        with contextlib.closing(run.peer()) as peer, contextlib.suppress(OSError):
            for byte in b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 100000:
                peer.send(bytes([byte]))
                if "head-timeout" in run.notes:
                    break
                threading.Event().wait(0.01)
            assert peer.response()[0] == 408
            assert peer.rest() == b""
        run.wait_for_note("head-timeout")
        assert run.get()


def test_empty_lines_do_not_keep_a_connection() -> None:
    with running(limits=ConnectionLimits(idle_seconds=0.2)) as run, contextlib.closing(run.peer()) as peer:
        with contextlib.suppress(OSError):
            while "idle-timeout" not in run.notes:
                peer.send(b"\r\n")
                threading.Event().wait(0.01)
        assert peer.rest() == b""


def test_idle_connections_are_closed_before_and_after_a_request() -> None:
    with running(limits=ConnectionLimits(idle_seconds=0.2)) as run:
        for data in (b"", request()):
            with contextlib.closing(run.peer(data)) as peer:
                if data:
                    assert peer.response()[0] == 200
                assert peer.rest() == b""
        assert run.notes == ["idle-timeout"] * 2


def test_a_slow_body_is_cut_off_and_the_application_is_told() -> None:
    seen: list[str] = []
    done = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "http.request":
            pass
        seen.append(message["type"])
        done.set()

    with running(app, ConnectionLimits(body_seconds=0.2)) as run:
        with contextlib.closing(run.peer(request("POST", "/", "Content-Length: 5", body=b"abc"))) as peer:
            status, headers, body = peer.response()
            assert (status, headers["connection"], json.loads(body)["error"]["code"]) == (408, "close", "body-timeout")
        assert done.wait(WAIT)
    assert seen == ["http.disconnect"]
    assert run.notes[0] == "body-timeout"


def test_a_peer_that_takes_no_bytes_is_cut_off() -> None:
    ended = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        piece = {"type": "http.response.body", "body": bytes(100_000), "more_body": True}
        while (task := asyncio.ensure_future(receive())) and not task.done():
            await send(piece)
            await asyncio.sleep(0)
            if task.done() and task.result()["type"] == "http.disconnect":
                break
            task.cancel()
        ended.set()

    limits = ConnectionLimits(stall_seconds=0.2, body_seconds=60)
    with running(app, limits) as run, contextlib.closing(run.peer(request())):
        run.wait_for_note("stalled")
        assert ended.wait(WAIT)


def test_an_answer_that_nobody_takes_does_not_keep_a_closing_connection() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in answer(200, bytes(10_000_000), (b"connection", b"close")):
            await send(message)

    limits = ConnectionLimits(close_seconds=0.2, stall_seconds=60)
    with running(app, limits) as run, contextlib.closing(run.peer(request())):
        run.wait_for_note("close-timeout")


# -- bodies --------------------------------------------------------------------------------------------------------


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _send_until_cut_off(peer: Peer, piece: bytes) -> int:
    """How many bytes could be sent, of a gigabyte."""
    sent = 0
    with contextlib.suppress(OSError):
        while sent < 1 << 30:
            sent += peer.socket.send(piece)
    return sent


def test_a_body_of_a_gigabyte_is_refused_before_it_is_read(server) -> None:
    before = _resident()
    with contextlib.closing(server.peer(request("POST", "/", f"Content-Length: {1 << 30}"))) as peer:
        status, headers, body = peer.response()  # though not a byte of it was sent
        assert (status, headers["connection"], body) == (413, "close", b"body-too-large")
        assert _send_until_cut_off(peer, bytes(1 << 16)) < 64 << 20
    assert _resident() - before < 32 << 20


def test_an_undeclared_body_of_a_gigabyte_is_refused_when_it_becomes_too_large(server) -> None:
    before = _resident()
    with contextlib.closing(server.peer(b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n")) as peer:
        chunk = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
        assert _send_until_cut_off(peer, chunk) < 64 << 20
    assert _resident() - before < 32 << 20
    assert server.get()


def test_who_asks_before_sending_a_body_is_told_no_in_time(server) -> None:
    expect = "Expect: 100-continue"
    with contextlib.closing(server.peer(request("POST", "/", "Content-Length: 99999999", expect))) as peer:
        assert peer.response()[0] == 413
    with contextlib.closing(server.peer(request("POST", "/", "Content-Length: 3", expect))) as peer:
        assert peer.response()[0] == 100
        peer.send(b"abc")
        assert json.loads(peer.response()[2])["body"] == 3


# -- crowds --------------------------------------------------------------------------------------------------------


def test_the_oldest_idle_connection_makes_place() -> None:
    with running(limits=ConnectionLimits(idle=3)) as run:
        peers = [run.peer(request()) for _ in range(3)]
        for peer in peers:
            peer.response()
        fourth = run.peer(request())
        assert fourth.response()[0] == 200
        run.wait_for_note("crowded-out")
        assert peers[0].rest() == b""
        for peer in (*peers[1:], fourth):
            peer.send(request(path="/again"))
            assert peer.response()[0] == 200
            peer.close()


def test_nobody_under_way_makes_place() -> None:
    release, started = threading.Event(), threading.Semaphore(0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        started.release()
        await asyncio.to_thread(release.wait, WAIT)
        await echo(scope, receive, send)

    with running(app, ConnectionLimits(connections=2)) as run:
        busy = [run.peer(request()) for _ in range(2)]
        for _ in busy:
            assert started.acquire(timeout=WAIT)
        with contextlib.closing(run.peer(request())) as late:
            assert late.rest() == b""
        assert run.notes == ["refused-full"]
        release.set()
        for peer in busy:
            assert peer.response()[0] == 200
            peer.close()


CROWD = """
import resource, socket, sys, time
port, count = int(sys.argv[1]), int(sys.argv[2])
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 100), hard))
crowd = []
while len(crowd) < count:
    crowd.append(socket.create_connection(("127.0.0.1", port)))
    if len(crowd) % 500 == 0:
        time.sleep(0.05)  # or the kernel drops some, and tries again a second later
print(len(crowd), flush=True)
sys.stdin.read()
"""


def test_ten_thousand_idle_connections_do_not_keep_new_ones_out() -> None:
    wanted = 10_000
    with running(limits=ConnectionLimits(connections=500, idle=400, idle_seconds=60)) as run:
        command = [sys.executable, "-c", CROWD, str(run.port), str(wanted)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as crowd:
            assert crowd.stdout is not None
            for _ in range(20):
                assert run.get()["path"] == "/"  # while they come
            assert crowd.stdout.readline() == b"10000\n"
            assert run.get()["path"] == "/"  # and now that they are there
            assert run.server.pool.size <= 500
            assert run.notes.count("crowded-out") >= wanted - 500
            crowd.communicate(b"")


class Full:
    """A listener in a process without descriptors, for as many times as `left`."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.left = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.listener, name)

    def accept(self) -> Any:
        if self.left:
            self.left -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self.listener.accept()


def test_without_free_descriptors_idle_connections_make_place() -> None:
    full: list[Full] = []

    def wrap(listener: socket.socket) -> Full:
        full.append(Full(listener))
        return full[0]

    with running(wrap=wrap) as run:
        first = run.peer(request())
        first.response()
        full[0].left = 1
        assert run.get()["path"] == "/"
        assert run.notes == ["crowded-out"]
        assert first.rest() == b""
        first.close()
        while run.server.pool.size:
            threading.Event().wait(0.01)
        full[0].left = 2  # and now there is nobody who could make place: it is tried again after a while
        assert run.get()["path"] == "/"
        assert full[0].left == 0


def test_requests_of_one_connection_do_not_share_context() -> None:
    from contextvars import ContextVar

    who: ContextVar[str] = ContextVar("who", default="nobody")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        before = who.get()
        who.set(scope["path"])
        for message in answer(200, before.encode()):
            await send(message)

    with running(app) as run, contextlib.closing(run.peer(request(path="/a") + request(path="/b"))) as peer:
        assert [peer.response()[2], peer.response()[2]] == [b"nobody", b"nobody"]


def test_an_application_that_fails_is_answered_for_and_others_go_on() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/half":
            start, body = answer(200, b"ab")
            await send(start)
            await send({**body, "body": b"a", "more_body": True})
            raise RuntimeError("half")
        if scope["path"] == "/fail":
            raise RuntimeError("whole")
        await echo(scope, receive, send)

    with running(app) as run:
        with contextlib.closing(run.peer(request(path="/fail"))) as peer:
            assert peer.response()[0] == 500
        with contextlib.closing(run.peer(request(path="/half"))) as peer:
            assert peer.rest().endswith(b"\r\n\r\na")
        assert run.get()


def test_a_peer_that_leaves_is_noticed_by_every_request_of_its() -> None:
    left, started = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        started.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    with running(app) as run:
        peer = run.peer(request() + request(path="/queued"))
        assert started.wait(WAIT)
        peer.close()
        assert left.wait(WAIT)
        for _ in range(1000):
            if run.server.pool.size == 0:
                break
            threading.Event().wait(0.01)
        assert run.server.pool.size == 0
