"""What is noted of each request."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kokon.provisioning.web.access import Access, AccessLines
from kokon.provisioning.web.metrics import Metrics


class Lines:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **members: Any) -> None:
        self.kept.append(("info", members))

    def error(self, event: str, **members: Any) -> None:
        self.kept.append(("error", members))


class Figures(Metrics):
    def __init__(self) -> None:
        super().__init__(["show", "health"])
        self.seen: list[tuple[str | None, int, float]] = []

    def request(self, operation: str | None, status: int, seconds: float) -> None:
        super().request(operation, status, seconds)
        self.seen.append((operation, status, seconds))


def ask(
    operation: str | None = "show",
    status: int | None = 200,
    error: BaseException | None = None,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    lines: AccessLines = "all",
    client: Any = ("192.0.2.1", 7),
) -> tuple[Figures, Lines, list[Any]]:
    ticks = iter((1.0, 1.25))
    figures, log, sent = Figures(), Lines(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if operation is not None:
            scope["operation"] = operation
        if status is not None:
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"x"})
        if error is not None:
            raise error

    async def send(message: Any) -> None:
        sent.append(message)

    access = Access(app, figures, log, project_of=lambda _: "clinic", lines=lines, clock=lambda: next(ticks))
    scope = {"type": "http", "path": "/secret/name", "query_string": b"token=x", "client": client}
    asyncio.run(access(scope, None, send))  # type: ignore[arg-type]
    return figures, log, sent


def test_a_request_is_counted_and_logged_without_its_path() -> None:
    figures, log, _ = ask()
    assert figures.seen == [("show", 200, 0.25)]
    members = {"operation": "show", "project": "clinic", "client": "192.0.2.1", "status": 200, "milliseconds": 250.0}
    assert log.kept == [("info", members)]


@pytest.mark.parametrize(
    ("lines", "operation", "status", "level"),
    [
        ("all", "show", 404, "info"),
        ("all", "health", 200, None),
        ("all", "health", 503, "error"),
        ("failures", "show", 200, None),
        ("failures", "show", 429, None),
        ("failures", "show", 503, "error"),
        ("none", "show", 200, None),
        ("none", "show", 500, "error"),
    ],
)
def test_which_lines_there_are(lines: AccessLines, operation: str, status: int, level: str | None) -> None:
    figures, log, _ = ask(operation, status, lines=lines)
    assert [kept for kept, _ in log.kept] == ([] if level is None else [level])
    assert figures.seen == [(operation, status, 0.25)]


def test_nobody_answered() -> None:
    figures, log, _ = ask(None, None, client=None)
    assert figures.seen == [(None, 0, 0.25)]
    assert log.kept[0][1] | {"milliseconds": 0} == {
        "operation": "other",
        "project": "clinic",
        "client": None,
        "status": 0,
        "milliseconds": 0,
    }


def test_a_bug_counts_as_such_and_goes_on_to_the_server() -> None:
    with pytest.raises(RuntimeError):
        ask(status=None, error=RuntimeError())
    with pytest.raises(asyncio.CancelledError):
        ask(status=None, error=asyncio.CancelledError())


def test_answers_are_for_no_cache_unless_they_say_so() -> None:
    _, _, (start, body) = ask()
    assert start["headers"] == [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
    assert body["body"] == b"x"
    own = (b"cache-control", b"max-age=60")
    _, _, (start, _) = ask(headers=(own,))
    assert start["headers"] == [own, (b"x-content-type-options", b"nosniff")]


def test_other_than_http_goes_through() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(Access(app, Figures(), Lines())({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]
