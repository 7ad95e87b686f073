"""Rate limits and the limit of what is under way: the arithmetic, the memory, the answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kokon.provisioning.web.limits import (
    OVERLOADED,
    RATE_LIMITED,
    RETRY_LIMIT,
    Buckets,
    LimitOptions,
    Limits,
    Rate,
    network_of,
    retry_after,
)


def test_a_burst_and_then_one_at_a_time() -> None:
    buckets = Buckets(Rate(2.0, 3))
    assert [buckets.take("a", 100.0) for _ in range(3)] == [0, 0, 0]
    assert buckets.take("a", 100.0) == pytest.approx(0.5)
    assert buckets.take("a", 100.0) == pytest.approx(0.5)  # asking in vain costs nothing
    assert buckets.take("b", 100.0) == 0
    assert buckets.take("a", 100.4) == pytest.approx(0.1)
    assert buckets.take("a", 100.5) == 0
    assert [buckets.take("a", 200.0) for _ in range(4)] == [0, 0, 0, pytest.approx(0.5)]


@given(
    st.integers(1, 20),
    st.floats(0.1, 100),
    st.lists(st.floats(0, 2), min_size=1, max_size=60),
)
def test_never_more_than_the_rate_and_waiting_as_told_helps(burst: int, per_second: float, steps: list[float]) -> None:
    buckets = Buckets(Rate(per_second, burst))
    now, granted = 50.0, 0
    for step in steps:
        now += step
        wait = buckets.take("a", now)
        if wait == 0:
            granted += 1
        else:
            now += wait
            assert buckets.take("a", now + 1e-6) == 0
            granted += 1
        assert granted <= burst + (now - 50.0) * per_second + 1e-3


def test_memory_is_bounded_and_the_longest_unseen_is_forgotten() -> None:
    buckets = Buckets(Rate(0.001, 1), capacity=100)
    for number in range(100):
        assert buckets.take(number, 0.0) == 0
    assert buckets.take(0, 0.0) > 0  # seen again
    for number in range(100, 199):
        assert buckets.take(number, 0.0) == 0
    assert len(buckets) == 100
    assert buckets.take(0, 0.0) > 0
    assert buckets.take(1, 0.0) == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::2", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("not:an:address", "not:another", False),
        ("@unix", "@unix", True),
    ],
)
def test_what_counts_as_one_client(one: str, other: str, same: bool) -> None:
    assert (network_of(one) == network_of(other)) is same


@pytest.mark.parametrize(("seconds", "told"), [(0.0001, 1), (1.0, 1), (1.2, 2), (1e9, RETRY_LIMIT)])
def test_whole_seconds_are_told(seconds: float, told: int) -> None:
    assert retry_after(seconds) == told


# -- the middleware ----------------------------------------------------------------------------------------------------


class Client:
    """Asks a `Limits` directly."""

    def __init__(self, options: LimitOptions, **more: Any) -> None:
        self.now = 0.0
        self.notes: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.limits = Limits(self.app, options, clock=lambda: self.now, note=self.notes.append, **more)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        await self.gate.wait()
        if scope["path"] == "/fail":
            raise RuntimeError("a bug")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask(self, path: str = "/", client: Any = ("192.0.2.1", 1)) -> tuple[int, dict[bytes, bytes], bytes]:
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await self.limits({"type": "http", "path": path, "client": client}, None, send)  # type: ignore[arg-type]
        start, body = sent
        return start["status"], dict(start["headers"]), body["body"]


def test_an_address_that_asks_too_often_is_told_when_to_come_back() -> None:
    async def run() -> None:
        client = Client(LimitOptions(address=Rate(0.5, 2), project=None))
        assert [(await client.ask())[0] for _ in range(3)] == [200, 200, 429]
        status, headers, body = await client.ask()
        assert (status, headers[b"retry-after"]) == (429, b"2")
        assert headers[b"content-length"] == b"%d" % len(body)
        assert json.loads(body)["error"]["code"] == RATE_LIMITED == "rate-limited"
        assert (await client.ask(client=("192.0.2.2", 1)))[0] == 200
        assert (await client.ask(client=None))[0] == 200  # a Unix socket has no address
        assert (await client.ask("/healthz"))[0] == 200
        client.now = 2.0
        assert (await client.ask())[0] == 200
        assert client.notes == [RATE_LIMITED] * 2

    asyncio.run(run())


def test_projects_have_limits_of_their_own() -> None:
    def project_of(scope: Any) -> str | None:
        return scope["path"][3:] if scope["path"].startswith("/p/") else None

    async def run() -> None:
        client = Client(LimitOptions(address=None, project=Rate(1, 1)), project_of=project_of)
        assert [(await client.ask(path))[0] for path in ("/p/a", "/p/b", "/p/a", "/", "/")] == [200, 200, 429, 200, 200]

    asyncio.run(run())


def test_too_much_under_way_is_refused_at_once_and_places_come_back() -> None:
    async def run() -> None:
        document = lambda scope, code: f"{scope['path']} {code}".encode()  # noqa: E731
        options = LimitOptions(address=None, project=None, in_flight=2, overload_seconds=3)
        client = Client(options, document=document)
        client.gate.clear()
        busy = [asyncio.ensure_future(client.ask(path)) for path in ("/", "/fail", "/healthz")]
        await asyncio.sleep(0)
        assert client.limits.in_flight == 2
        status, headers, body = await client.ask("/late")
        assert (status, headers[b"retry-after"], body) == (503, b"3", b"/late overloaded")
        assert client.notes == [OVERLOADED]
        client.gate.set()
        assert (await busy[0])[0] == 200
        with pytest.raises(RuntimeError):
            await busy[1]
        await busy[2]
        assert client.limits.in_flight == 0
        cancelled = asyncio.ensure_future(client.ask())
        client.gate.clear()
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert client.limits.in_flight == 0

    asyncio.run(run())


def test_who_sends_slowly_keeps_no_place() -> None:
    """Of two places none is taken by peers whose bodies are on their way, and both once they are there."""

    async def run() -> None:
        parts: asyncio.Queue[bool] = asyncio.Queue()
        done = asyncio.Event()
        left: list[str] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"x", "more_body": await parts.get()}

        async def app(scope: Any, receive: Any, send: Any) -> None:
            while (await receive())["more_body"]:
                pass
            waiting = asyncio.ensure_future(receive())  # as one listens for the client's leaving
            await done.wait()
            waiting.cancel()
            left.append(scope["path"])

        async def send(message: Any) -> None:
            left.append(str(message.get("status", "")))

        limits = Limits(app, LimitOptions(address=None, project=None, in_flight=2))
        scope = {"type": "http", "client": None}
        tasks = [asyncio.ensure_future(limits({**scope, "path": f"/{n}"}, receive, send)) for n in range(4)]
        for more in (True, True, True, False):  # one body is whole
            parts.put_nowait(more)
        await asyncio.sleep(0.01)
        assert limits.in_flight == 1
        for _ in range(3):
            parts.put_nowait(False)
        await asyncio.sleep(0.01)
        assert limits.in_flight == 4
        await limits({**scope, "path": "/late"}, receive, send)
        assert left == ["503", ""]
        done.set()
        await asyncio.gather(*tasks)
        assert limits.in_flight == 0

    asyncio.run(run())


def test_other_than_http_goes_through() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(Limits(app, LimitOptions(in_flight=0))({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]
