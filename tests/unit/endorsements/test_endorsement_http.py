"""The getter, against servers that misbehave in every way."""

import socket
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler

import pytest
from endorsement_kit import QUICK, Clock, getter, reply, serving

from kokon.endorsements.http import Answer, Getter, Patience, check_url, retry_after
from kokon.errors import KokonError, UnreachableError, UsageError
from kokon.testing.server import Mode, VendorServer

CRL = "/vcek/v1/Milan/crl"


def refusal(call: object) -> KokonError:
    with pytest.raises(KokonError) as caught:
        call()  # type: ignore[operator]
    return caught.value


def test_an_answer_with_its_headers(server: VendorServer) -> None:
    answer = getter().get(server.url + "/sgx/certification/v4/pckcrl?ca=platform&encoding=der", limit=10_000)
    assert answer.body.startswith(b"\x30\x82")
    assert answer.headers["sgx-pck-crl-issuer-chain"].startswith("-----BEGIN%20CERTIFICATE-----")


@pytest.mark.parametrize(
    ("mode", "code", "requests"),
    [
        (Mode.DOWN, "endorsement-service-unreachable", 0),
        (Mode.ERROR, "endorsement-service-unreachable", 2),
        (Mode.RESET, "endorsement-service-unreachable", 2),
        (Mode.TRUNCATED, "endorsement-service-unreachable", 2),
        (Mode.HUGE, "endorsement-answer-malformed", 1),
        (Mode.BOMB, "endorsement-answer-malformed", 1),
        (Mode.REDIRECT, "endorsement-redirected", 1),
    ],
)
def test_hostile_services(server: VendorServer, mode: Mode, code: str, requests: int) -> None:
    server.mode = mode
    error = refusal(lambda: getter().get(server.url + CRL, limit=1 << 20))
    assert isinstance(error, UnreachableError)
    assert error.code == code
    assert server.count() == requests


@pytest.mark.parametrize("mode", [Mode.HANG, Mode.DRIP])
def test_slow_services_cost_no_more_than_the_time_there_is(server: VendorServer, mode: Mode) -> None:
    server.mode = mode
    begin = time.monotonic()
    patience = Patience(connect=0.1, read=0.1, total=0.25, attempts=2, pause=0.001)
    error = refusal(lambda: getter(patience).get(server.url + CRL, limit=1 << 20))
    assert error.code == "endorsement-service-unreachable"
    assert time.monotonic() - begin < 10


def test_headers_that_drip_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket timeout ends this: there is always another byte soon."""
    stop = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not stop.wait(0.02):
            handler.wfile.write(b"x")

    with serving(drip) as url:
        begin = time.monotonic()
        error = refusal(lambda: getter(Patience(read=20, total=0.3, attempts=3)).get(url, limit=100))
        assert time.monotonic() - begin < 10
        stop.set()
    assert error.code == "endorsement-service-unreachable"


def test_a_body_that_drips_within_the_timeouts_of_sockets() -> None:
    stop = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not stop.wait(0.02):
            handler.wfile.write(b"x")

    with serving(drip) as url:
        begin = time.monotonic()
        error = refusal(lambda: getter(Patience(read=20, total=0.2, attempts=3)).get(url, limit=100_000))
        assert time.monotonic() - begin < 10
        stop.set()
    assert error.code == "endorsement-service-unreachable"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, "endorsement-not-found"),
        (400, "endorsement-not-found"),
        (461, "endorsement-not-found"),
        (401, "endorsement-service-refused"),
        (403, "endorsement-service-refused"),
        (418, "endorsement-answer-malformed"),
        (204, "endorsement-answer-malformed"),
    ],
)
def test_statuses(status: int, code: str) -> None:
    with serving(lambda handler: reply(handler, status)) as url:
        assert refusal(lambda: getter().get(url, limit=100)).code == code


def test_an_empty_answer_and_long_headers_make_no_sense() -> None:
    with serving(lambda handler: reply(handler, 200)) as url:
        assert refusal(lambda: getter().get(url, limit=100)).code == "endorsement-answer-malformed"
    with serving(lambda handler: reply(handler, 200, b"x", X_Long="y" * 65000, X_More="z" * 1000)) as url:
        assert refusal(lambda: getter().get(url, limit=100)).code == "endorsement-answer-malformed"


def test_the_limit_is_exact() -> None:
    with serving(lambda handler: reply(handler, 200, bytes(100))) as url:
        assert getter().get(url, limit=100).body == bytes(100)
        assert refusal(lambda: getter().get(url, limit=99)).code == "endorsement-answer-malformed"


def test_redirects_only_on_the_same_host() -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/end":
            reply(handler, 200, b"here")
        elif handler.path == "/nowhere":
            reply(handler, 302)
        elif handler.path == "/port":
            reply(handler, 302, Location="http://127.0.0.1:1/end")
        elif handler.path == "/broken":
            reply(handler, 302, Location="http://[/")
        else:
            reply(handler, 307, Location="/end" if handler.path == "/start" else handler.path)

    with serving(answer) as url:
        assert getter().get(url + "/start", limit=100).body == b"here"
        for path in ("/circle", "/nowhere", "/port", "/broken"):
            assert refusal(lambda path=path: getter().get(url + path, limit=100)).code == "endorsement-redirected"


def counting(statuses: list[tuple[int, dict[str, str]]]) -> tuple[list[str], object]:
    paths: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        status, headers = statuses[min(len(paths), len(statuses) - 1)]
        paths.append(handler.path)
        reply(handler, status, b"good" if status == 200 else b"", **headers)

    return paths, answer


def test_what_may_pass_is_tried_again_after_growing_pauses() -> None:
    clock = Clock()
    paths, answer = counting([(500, {}), (502, {}), (503, {}), (200, {})])
    patience = Patience(pause=1, longest=3, attempts=4)
    with serving(answer) as url:  # type: ignore[arg-type]
        got = Getter(patience, clock=clock, sleep=clock.sleep, jitter=lambda: 1.0).get(url, limit=10)
    assert got.body == b"good"
    assert clock.slept == [1, 2, 3]
    assert len(paths) == 4


def test_jitter_shortens_pauses_by_up_to_half() -> None:
    clock = Clock()
    _paths, answer = counting([(500, {}), (200, {})])
    with serving(answer) as url:  # type: ignore[arg-type]
        Getter(Patience(pause=1), clock=clock, sleep=clock.sleep, jitter=lambda: 0.0).get(url, limit=10)
    assert clock.slept == [0.5]


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(status: int) -> None:
    clock = Clock()
    _paths, answer = counting([(status, {"Retry_After": "7"}), (200, {})])
    with serving(answer) as url:  # type: ignore[arg-type]
        assert Getter(QUICK_LONG, clock=clock, sleep=clock.sleep).get(url, limit=10) == Answer(b"good", ANY_HEADERS)
    assert clock.slept == [7]


class _Any(dict[str, str]):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, dict)

    __hash__ = None  # type: ignore[assignment]


ANY_HEADERS = _Any()
QUICK_LONG = Patience(pause=0.001, longest=0.002, total=30)


def test_a_wait_longer_than_all_patience_is_not_begun() -> None:
    clock = Clock()
    paths, answer = counting([(429, {"Retry_After": "3600"})])
    with serving(answer) as url:  # type: ignore[arg-type]
        error = refusal(lambda: Getter(QUICK_LONG, clock=clock, sleep=clock.sleep).get(url, limit=10))
    assert error.code == "endorsement-rate-limited"
    assert "3600 s" in str(error.found)
    assert clock.slept == []
    assert len(paths) == 1


def test_429_without_a_time_is_backed_off_from(server: VendorServer) -> None:
    server.mode, server.limit, server.retry_after = Mode.RATE_LIMIT, 0, 0
    assert refusal(lambda: getter().get(server.url + CRL, limit=10)).code == "endorsement-rate-limited"
    assert server.count() == QUICK.attempts


class Gate:
    def __init__(self) -> None:
        self.entered = 0
        self.refusals: list[float] = []

    def enter(self) -> None:
        self.entered += 1

    def refused(self, seconds: float) -> None:
        self.refusals.append(seconds)


def test_every_attempt_goes_through_the_gate_which_learns_of_refusals() -> None:
    clock, gate = Clock(), Gate()
    _paths, answer = counting([(429, {"Retry_After": "9"}), (500, {}), (200, {})])
    with serving(answer) as url:  # type: ignore[arg-type]
        Getter(QUICK_LONG, clock=clock, sleep=clock.sleep).get(url, limit=10, gate=gate)
    assert gate.entered == 3
    assert gate.refusals == [9]
    assert len(clock.slept) == 1, "after 429 the gate does the waiting"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10), (" 3 ", 3), ("", 0), ("soon", 0), ("-5", 0), ("99999999999999999999", 86400), ("1.5", 0)],
)
def test_retry_after_in_seconds(text: str, seconds: float) -> None:
    assert retry_after(text) == seconds


def test_retry_after_as_a_date() -> None:
    assert 50 < retry_after(formatdate(time.time() + 60, usegmt=True)) <= 60
    assert retry_after(formatdate(0, usegmt=True)) == 0


@pytest.mark.parametrize(
    "url",
    [
        "https://kds.example",
        "https://pccs.example:8081/base/",
        "http://127.0.0.1:80",
        "http://localhost",
        "http://[::1]:9",
    ],
)
def test_good_urls(url: str) -> None:
    assert check_url(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "http://kds.example", "ftp://127.0.0.1", "https://", "kds.example", "https://me:secret@kds.example", "https://[",
        "https://kds.example?x=1", "https://kds.example#x", "https://kds.example:99999999", "http://127.0.0.1.evil.example",
    ],
)  # fmt: skip
def test_other_urls_are_refused(url: str) -> None:
    error = refusal(lambda: check_url(url))
    assert isinstance(error, UsageError)
    assert error.code == "endorsement-url"


def test_plain_sockets_behind_https_are_refused() -> None:
    """A service that does not speak TLS is not spoken to in plain text."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"

        def answer() -> None:
            for _ in range(QUICK.attempts):
                connection, _address = listener.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        assert refusal(lambda: getter().get(url, limit=10)).code == "endorsement-service-unreachable"
