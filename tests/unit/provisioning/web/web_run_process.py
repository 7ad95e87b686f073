"""A tiny application with all that a server has around it, as a process of its own: `web_run_process.py DIRECTORY`.

The directory has the server's `key.pem` and `certificate.pem`, and `client.der`, the one enrolled client. What happens
is printed; the log goes to stderr. `/kokon/v1/slow` is answered after a byte on stdin.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kokon.errors import HostError
from kokon.provisioning.tls import tls_identity
from kokon.provisioning.web.connection import client_key
from kokon.provisioning.web.health import Readiness
from kokon.provisioning.web.limits import LimitOptions, Rate
from kokon.provisioning.web.logging import configure_logging, get_logger
from kokon.provisioning.web.metrics import Metrics
from kokon.provisioning.web.openapi import Answer, Api, Operation, Parameter, prefixed_routes, routes
from kokon.provisioning.web.pool import ConnectionLimits
from kokon.provisioning.web.run import RunOptions, make_server
from kokon.provisioning.web.server import ServerOptions, listeners
from kokon.provisioning.web.tls import ServerTls

DONE = (Answer(200, "done"),)
API = Api(
    "tiny",
    "1",
    "",
    (
        Operation("auth", "POST", "/kbs/v0/auth", "", DONE, project=True),
        Operation("who", "GET", "/kokon/v1/who/{name}", "", DONE, parameters=(Parameter("name", "", "path"),)),
        Operation("slow", "GET", "/kokon/v1/slow", "", DONE),
        Operation("fail", "GET", "/kokon/v1/fail", "", DONE),
        Operation("ready", "GET", "/readyz", "", DONE),
        Operation("metrics", "GET", "/metrics", "", DONE),
    ),
    prefix="/p/{project}",
)
TOKEN = "kokon_abcdefghijkl_" + "A" * 43


def tell(what: str) -> None:
    print(what, flush=True)


def main() -> None:
    directory = Path(sys.argv[1])
    configure_logging()
    metrics = Metrics(operation.name for operation in API.operations)
    broken = directory / "broken"

    def database() -> None:
        if broken.exists():
            raise HostError("store-failed", f"the password is password={TOKEN}")

    failures = get_logger("kokon.ready")
    readiness = Readiness({"database": database}, lambda what: failures.warning("not ready", failures=what))

    async def auth(request: Request) -> Response:
        await request.body()
        return JSONResponse({"project": request.path_params.get("project", "default")})

    async def who(request: Request) -> Response:
        key = client_key(request.scope)
        get_logger("kokon.test").info("asked", token=TOKEN, text=f"Authorization: Bearer {TOKEN}")
        return JSONResponse({"key": key.hex() if key else None})

    async def slow(_: Request) -> Response:
        tell("under way")
        await run_in_threadpool(sys.stdin.read, 1)
        return JSONResponse({})

    async def fail(_: Request) -> Response:
        raise RuntimeError(f"a bug with Bearer {TOKEN}")

    async def ready(_: Request) -> Response:
        health = readiness(time.monotonic())
        return Response(health.body, health.status, media_type="application/json")

    async def figures(_: Request) -> Response:
        return Response(metrics.render())

    handlers = {"auth": auth, "who": who, "slow": slow, "fail": fail, "ready": ready, "metrics": figures}
    app = Starlette(routes=[*routes(API, handlers), *prefixed_routes(API, handlers)])
    limits = LimitOptions(address=Rate(0.001, 12), project=Rate(0.001, 3), in_flight=1)
    key, certificate = (directory / "key.pem").read_bytes(), (directory / "certificate.pem").read_text()
    with tls_identity(key, certificate) as identity:
        tls = ServerTls(identity)
        tls.enroll([(directory / "client.der").read_bytes()])
        bound = listeners([("127.0.0.1", 0)])
        make_server(
            app,
            listeners=bound,
            tls=tls,
            metrics=metrics,
            readiness=readiness,
            known_project=lambda name: name == "clinic",
            options=RunOptions(limits, ServerOptions(ConnectionLimits(), grace=20), "all"),
            ready=lambda: tell(f"ready {bound[0].getsockname()[1]}"),
            ending=lambda: tell(f"ending {readiness(time.monotonic()).status}"),
        ).start()
    tell("ended")


if __name__ == "__main__":
    main()
