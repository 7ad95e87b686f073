"""A run's bounds: time, requests, servers that are slow, cut off or speak nonsense; and what it is told."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conformance_kit import Trial
from fake_broker import Broker, Host, Reply

from kokon.conformance.case import Outcome
from kokon.conformance.connection import ANSWER_LIMIT, Broken, Budget, Client, Exhausted, trust
from kokon.conformance.evidence import Sample
from kokon.conformance.options import DEFAULT_INIT_DATA, Options, check_options, is_resource_path, parse_target
from kokon.conformance.run import chosen, run
from kokon.conformance.world import allow_only, lifetime
from kokon.errors import UnreachableError, UsageError

NOW = datetime(2026, 11, 23, tzinfo=UTC)


@contextlib.contextmanager
def talking(say: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that does `say` with each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        say(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def client_of(url: str, timeout: float = 5.0, **changes: Any) -> Client:
    return Client(parse_target(url), None, Budget(**{"requests": 50, "seconds": 60.0, **changes}), timeout)


def drip(connection: socket.socket) -> None:
    """An answer that never comes to an end, however often something arrives."""
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    gone = threading.Event()
    while not gone.wait(0.05):
        connection.sendall(b"X-More: 1\r\n")


def test_a_server_that_drips_is_cut_off() -> None:
    with talking(drip) as url, pytest.raises(Broken):
        client_of(url, timeout=0.4).send("GET", "/")


@pytest.mark.parametrize(
    "said",
    [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", b"HTTP/1.1 abc\r\n\r\n",
     b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n"],
)  # fmt: skip
def test_nonsense_is_no_answer(said: bytes) -> None:
    def say(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(said)

    with talking(say) as url, pytest.raises(Broken):
        client_of(url).send("GET", "/")


def test_an_endless_answer_is_cut_off() -> None:
    def say(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(ANSWER_LIMIT // 65536 + 20):
            connection.sendall(bytes(65536))

    with talking(say) as url, pytest.raises(Broken, match="more than"):
        client_of(url).send("GET", "/")


def test_what_a_server_says_before_it_hangs_up_is_heard() -> None:
    def say(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    with talking(say) as url:
        assert client_of(url).send("POST", "/", body=bytes(3 << 20)).status == 413


def test_the_target_is_sent_as_it_is(host: Host) -> None:
    broker = host.serve(Broker())
    client_of(host.url).send("GET", "/a/../b/%2e%2E//c%2Fd", headers=[("X-One", "1")])
    assert broker.asked[0].path == "/a/../b/%2e%2E//c%2Fd"
    assert broker.asked[0].headers["x-one"] == "1"


def test_requests_that_came_too_early_are_made_again(host: Host) -> None:
    broker = host.serve(Broker())
    waited: list[float] = []
    replies = [
        Reply(429, headers={"Retry-After": "3"}), Reply(503, headers={"Retry-After": "999"}), Reply(503), Reply(200)
    ]  # fmt: skip
    broker.answer = lambda _ask: replies.pop(0)  # type: ignore[method-assign]
    client = client_of(host.url, sleep=waited.append)
    assert client.send("GET", "/").status == 200
    assert waited == [3.0, 5.0, 1.0]
    assert [answer.status for answer in client.limited] == [429, 503, 503]
    assert client.refusals == []


def test_a_server_that_is_always_busy_is_not_asked_for_ever(host: Host) -> None:
    broker = host.serve(Broker())
    broker.answer = lambda _ask: Reply(503)  # type: ignore[method-assign]
    client = client_of(host.url, sleep=lambda _seconds: None)
    assert client.send("GET", "/").status == 503
    assert client.budget.used == 4


def test_requests_and_time_are_bounded() -> None:
    time = [0.0]
    budget = Budget(2, 10.0, clock=lambda: time[0], sleep=lambda _seconds: None)
    budget.take()
    time[0] = 9.0
    budget.wait(5.0, extend=True)
    time[0] = 14.0
    budget.take()
    with pytest.raises(Exhausted, match="2 requests"):
        budget.take()
    budget.requests = 9
    time[0] = 15.0
    with pytest.raises(Exhausted, match="10 s"):
        budget.take()


def test_a_run_that_does_not_come_to_its_end_does_not_conform(trial: Trial, host: Host) -> None:
    report = trial(requests=60)
    assert report.unfinished == "60 requests were made"
    assert not report.conforms
    assert report.results[-1].outcome is Outcome.SKIP
    assert report.results[-1].found == "not tried: 60 requests were made"
    assert all(result.outcome is not Outcome.FAIL for result in report.results)
    assert host.server.broker.resources == {}, "it tidies up all the same"  # type: ignore[attr-defined]


def test_a_server_that_dies_fails_and_nothing_else_happens(host: Host) -> None:
    host.serve(Broker())

    def say(connection: socket.socket) -> None:
        connection.recv(4096)

    with talking(say) as url:
        report = run(Options(parse_target(url), seconds=60.0), Sample())
    assert not report.conforms
    assert {result.outcome for result in report.results if result.case.name.startswith("auth-0.4")} == {Outcome.FAIL}


def test_what_could_not_be_tidied_up_is_said(trial: Trial) -> None:
    report = trial("no-delete", only=("resource-cookie",), change_policies=False)
    assert len(report.remarks) == 1
    assert re.fullmatch(
        "the resource kokon-conformance/[0-9a-f]{12}/value may still be there: 403 AdminAuthAccess", report.remarks[0]
    )


def test_a_resource_that_cannot_be_set_is_no_excuse(trial: Trial) -> None:
    """Who gives a token or a resource wants it to be read."""
    report = trial(admin_token="wrong token", only=("resource-cookie", "resource-bearer"), change_policies=False)
    assert [result.outcome for result in report.results] == [Outcome.FAIL, Outcome.SKIP]
    assert report.results[0].found == "setting a resource: 401 AdminAuthAccess (admin-open)"
    report = trial(admin_token=None, only=("resource-cookie",), change_policies=False)
    assert report.results[0].outcome is Outcome.SKIP
    report = trial(admin_token=None, resource="not/there/one", only=("resource-cookie",), change_policies=False)
    assert report.results[0].outcome is Outcome.FAIL


def test_progress_is_told(host: Host) -> None:
    host.serve(Broker())
    told: list[tuple[int, int | None]] = []
    options = Options(parse_target(host.url), only=("auth-0.4.0", "challenge-form"))
    run(options, Sample(), progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 2), (1, 2)]


def test_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(UnreachableError) as caught:
        run(Options(parse_target(f"http://127.0.0.1:{port}")), Sample())
    assert caught.value.code == "conformance-unreachable"


def test_a_certificate_that_is_none() -> None:
    for text in ("", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(UsageError) as caught:
            trust(text)
        assert caught.value.code == "conformance-ca"
    assert trust(None).check_hostname


# -- options -------------------------------------------------------------------------------------------------------


def test_targets() -> None:
    target = parse_target("https://kbs.example:8443/p/clinic/")
    assert (target.scheme, target.host, target.port, target.prefix) == ("https", "kbs.example", 8443, "/p/clinic")
    assert target.url == "https://kbs.example:8443/p/clinic"
    assert parse_target("https://kbs.example/kbs/v0").prefix == ""
    assert parse_target("http://[::1]:80").url == "http://[::1]:80"
    assert parse_target("https://kbs.example").port == 443
    for bad in ("", "kbs.example:8443", "ftp://a", "https://", "https://a/b?c", "https://a#b", "https://u@a", "https://a:b",
                "https://a/b c", "https://a:99999"):  # fmt: skip
        with pytest.raises(UsageError) as caught:
            parse_target(bad)
        assert caught.value.code == "conformance-url"


@pytest.mark.parametrize(
    "changes",
    [
        {"tee": "tdx"},
        {"versions": ("0.1.0",)},
        {"versions": ()},
        {"resource": "a/b"},
        {"resource": "a/../c"},
        {"value": b"x"},
        {"change_policies": True},
        {"change_policies": True, "admin_token": "t", "resource": "a/b/c", "value": b"x"},
        {"policy_after": "package policy"},
        {"timeout": 0.0},
        {"seconds": -1.0},
        {"patience": 1e9},
        {"admin_token": "t", "target": parse_target("http://kbs.example")},
    ],
)
def test_options_that_do_not_go_together(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        check_options(Options(**{"target": parse_target("https://a"), **changes}))
    assert caught.value.code == "conformance-options"


def test_options_that_do() -> None:
    options = Options(parse_target("http://127.0.0.1:80"), admin_token="secret", value=b"secret", resource="a/b/c")
    assert check_options(options) is options
    assert "secret" not in repr(options)
    assert is_resource_path("a/b-1/c.d")
    assert DEFAULT_INIT_DATA.endswith("\n")


def test_cases_are_chosen_by_name() -> None:
    assert [case.name for case in chosen(["token-form", "auth-0*"])] == [
        "auth-0.4.0", "auth-0.3.0", "auth-0.2.0", "auth-0.1.1", "token-form",
    ]  # fmt: skip
    assert len(chosen([])) > 100
    with pytest.raises(UsageError) as caught:
        chosen(["token-form", "no-such-case"])
    assert caught.value.code == "conformance-case-unknown"


def test_how_long_cookies_last() -> None:
    assert lifetime([" Max-Age=60"], NOW) == timedelta(minutes=1)
    assert lifetime([" Max-Age=60", "Expires=Mon, 23 Nov 2026 00:10:00 GMT"], NOW) == timedelta(minutes=1)
    assert lifetime(["Expires=Mon, 23 Nov 2026 00:10:00 GMT", "Path=/"], NOW) == timedelta(minutes=10)
    assert lifetime(["Max-Age=-1"], NOW) == timedelta(seconds=-1)
    for odd in (["Expires=never"], ["Max-Age=x"], [], ["Max-Age=99999999999999"]):
        assert lifetime(odd, NOW) == timedelta(minutes=5)


def test_the_policy_that_the_suite_sets_names_one_resource() -> None:
    assert '["a", "b", "c"]' in allow_only("a/b/c")


def test_an_answer_with_the_wrong_cookie_is_no_session(trial: Trial) -> None:
    report = trial("cookie-name", only=("challenge-nonce",))
    assert report.results[0].found == "no cookie kbs-session-id"
