"""What tests of the endorsements room share: a clock that only moves when told, and needs of the fake vendor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kokon.endorsements.cache import Cache
from kokon.endorsements.http import Getter, Patience
from kokon.endorsements.kds import Kds
from kokon.endorsements.limiter import Limiter
from kokon.endorsements.pcs import Access, Pcs
from kokon.endorsements.sources import Online
from kokon.tee.evidence import Need
from kokon.testing.server import VendorServer
from kokon.testing.vendor import FakeVendor
from kokon.testing.vendor.amd import Tcb

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
QUICK = Patience(connect=10.0, read=20.0, total=40.0, attempts=2, pause=0.001, longest=0.002)
"""Gives up quickly where a service fails, and has all the time where only the machine is busy."""


class Clock:
    """Time that passes only while somebody sleeps; `slept` has each sleep."""

    def __init__(self, start: float = NOW.timestamp()) -> None:
        self.now = start
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def getter(patience: Patience = QUICK) -> Getter:
    return Getter(patience)


def vcek_need(vendor: FakeVendor, product: str = "Milan", chip: str = "first", tcb: Tcb | None = None) -> Need:
    tcb = tcb or Tcb()
    values = {"product": product, "chip-id": vendor.amd.chip_id(product, chip).hex()}  # type: ignore[arg-type]
    values |= {"bootloader": str(tcb.bootloader), "tee": str(tcb.tee), "snp": str(tcb.snp)}
    values |= {"microcode": str(tcb.microcode)} | ({"fmc": str(tcb.fmc)} if product == "Turin" else {})
    return Need("vcek", tuple(sorted(values.items())))


CHAIN = Need("amd-chain", (("kind", "vcek"), ("product", "Milan")))
AMD_CRL = Need("amd-crl", (("product", "Milan"),), required=False)
TCB_INFO = Need("tcb-info", (("fmspc", "00606a000000"), ("tee", "tdx")))
SGX_TCB_INFO = Need("tcb-info", (("fmspc", "00606a000000"), ("tee", "sgx")))
QE_IDENTITY = Need("qe-identity", (("tee", "tdx"),))
PCK_CRL = Need("pck-crl", (("ca", "platform"),))
ROOT_CRL = Need("root-crl", ())


def pck_need(vendor: FakeVendor) -> Need:
    platform = vendor.platforms[0]
    values = {
        "encrypted-ppid": vendor.intel.encrypted_ppid(platform).hex(),
        "cpusvn": platform.raw_cpusvn.hex(),
        "pcesvn": platform.pcesvn.to_bytes(2, "little").hex(),
        "pceid": platform.pceid.hex(),
    }
    return Need("pck", tuple(sorted(values.items())))


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server on the loopback whose GETs `answer` handles; its base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            answer(self)

        def log_message(self, *_arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


class World:
    """The fake vendor's services, clients and a cache; every part may be exchanged."""

    def __init__(self, server: VendorServer, cache: Cache, clock: Clock, roots: frozenset[str]) -> None:
        self.server = server
        self.cache = cache
        self.clock = clock
        self.roots = roots
        self.patience = QUICK

    def online(self, **options: object) -> Online:
        getter = Getter(self.patience, sleep=lambda _seconds: None)
        limiter = Limiter(self.cache.directory / "kds-turn", 10, clock=self.clock, sleep=self.clock.sleep)
        clients = (Kds(getter, limiter, self.server.url), Pcs(getter, Access(self.server.url)))
        settings = {"accepted": self.roots, "clock": self.clock} | options
        return Online(clients, self.cache, **settings)  # type: ignore[arg-type]
