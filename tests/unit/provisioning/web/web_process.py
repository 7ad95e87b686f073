"""A server as a process of its own, for tests of signals and of the service manager: `web_process.py PORT GRACE`.

Paths: `/` answers at once, `/slow` after a byte on stdin, `/never` never. What happens is printed.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from kokon.provisioning.web.server import Server, ServerOptions, listeners


def tell(what: str) -> None:
    print(what, flush=True)


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        if "fail" in sys.argv:
            await send({"type": "lifespan.startup.failed", "message": "no"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        tell("application ends")
        await send({"type": "lifespan.shutdown.complete"})
        return
    if scope["path"] != "/":
        tell("under way")
        if scope["path"] == "/never":
            await asyncio.Event().wait()
        await asyncio.to_thread(sys.stdin.read, 1)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def main() -> None:
    (listener, *_) = bound = listeners([("127.0.0.1", int(sys.argv[1]))])
    port = listener.getsockname()[1]
    options = ServerOptions(grace=int(sys.argv[2]))
    Server(app, bound, None, options, ready=lambda: tell(f"ready {port}"), ending=lambda: tell("ending")).start()
    tell("ended")


if __name__ == "__main__":
    main()
