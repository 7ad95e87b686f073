"""A registry that plays tricks: a test sees each request whole and says what comes back, byte for byte."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def login(self) -> str | None:
        return self.headers.get("authorization")


@dataclass
class Says:
    """An answer. `length` is what Content-Length says (default: the truth; None: nothing), `hang` waits before the
    body until the server ends, `parts` are sent one by one instead of `body`."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = -1
    hang: bool = False
    parts: Iterable[bytes] | None = None


class CrookedServer:
    """`with CrookedServer(lambda asked: Says(...)) as server:` serves on `server.url`; `server.seen` has all."""

    def __init__(self, script: Callable[[Asked], Says]) -> None:
        self.seen: list[Asked] = []
        self.over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16

            def answer(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(int(headers.get("content-length", 0)))
                asked = Asked(self.command, self.path, headers, body)
                outer.seen.append(asked)
                self.reply(script(asked))

            def reply(self, says: Says) -> None:
                self.send_response(says.status)
                for name, value in says.headers.items():
                    self.send_header(name, value)
                if says.length is not None:
                    self.send_header("Content-Length", str(len(says.body) if says.length < 0 else says.length))
                self.end_headers()
                self.wfile.flush()
                if says.hang:
                    outer.over.wait(30)
                try:
                    for part in says.parts if says.parts is not None else [says.body]:
                        self.wfile.write(part)
                    self.wfile.flush()
                except OSError:
                    pass  # the client had enough
                self.close_connection = says.length is None or says.length >= 0 or says.parts is not None

            do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
