"""Hostile peers: slow ones, idle ones by the thousand, endless bodies, what is no TLS.

Others must be served meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator

from bench.load.crowd import PATH, VALUE
from bench.load.fleet import Fleet
from bench.load.guest import GuestClient, source
from bench.load.scenarios import Finding, check_statuses, shown
from bench.load.seen import BrokenPromise, Seen, audit

HEAD = b"POST /kbs/v0/attest HTTP/1.1\r\nHost: kokon\r\nContent-Length: %d\r\n\r\n"
_ENDS = (OSError, EOFError, asyncio.TimeoutError, ssl.SSLError)
_HANDSHAKE = 22


def slow_peers(servers: Fleet, peers: int, seconds: float) -> list[Finding]:
    """Peers that send one byte a second: heads, bodies, TLS handshakes. All must be cut off, and keep nobody out."""
    seen, port = Seen(), servers.ports[0]
    lives: list[float] = []

    async def slow(number: int) -> None:
        begin = time.monotonic()
        kind = number % 3
        try:
            context = None if kind == 2 else servers.context
            name = None if context is None else "127.0.0.1"
            address = (source(2_000_000 + number), 0)
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, server_hostname=name, local_addr=address
            )
            if kind == 1:
                writer.write(HEAD % 100_000)
            hello = client_hello(servers.context)
            pieces = {0: HEAD % 5, 1: b"{" * 100_000, 2: hello}[kind]
            drip = asyncio.create_task(_drip(writer, pieces))
            with contextlib.suppress(*_ENDS):
                await asyncio.wait_for(reader.read(), seconds)
                lives.append(time.monotonic() - begin)
            drip.cancel()
            writer.transport.abort()
        except _ENDS:
            lives.append(time.monotonic() - begin)

    async def run() -> None:
        crowd = [asyncio.create_task(slow(number)) for number in range(peers)]
        await _served(servers, seen, lambda: all(one.done() for one in crowd))
        await asyncio.gather(*crowd)

    asyncio.run(run())
    if len(lives) != peers:
        raise BrokenPromise(f"{peers - len(lives)} of {peers} slow peers were not cut off within {seconds:.0f} s")
    audit(servers, seen)
    check_statuses(seen, {200})
    return [
        Finding(
            f"{peers} peers that send a byte a second: TLS handshakes, heads, bodies",
            f"all cut off after {max(lives):.1f} s at most; {_meanwhile(seen)}",
        )
    ]


async def _drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    with contextlib.suppress(*_ENDS):
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(1)


def idle_connections(servers: Fleet, count: int) -> list[Finding]:
    """`count` connections that say nothing, two thirds of them after their TLS handshake."""
    seen, replica = Seen(), servers.replicas[0]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    before = replica.memory()
    peaks = {"memory": 0, "descriptors": 0}

    def look() -> bool:
        peaks["memory"] = max(peaks["memory"], replica.memory())
        peaks["descriptors"] = max(peaks["descriptors"], replica.descriptors())
        return False

    async def idle(number: int, kept: list[asyncio.StreamWriter], gate: asyncio.Semaphore) -> None:
        context = None if number % 3 == 0 else servers.context
        name = None if context is None else "127.0.0.1"
        with contextlib.suppress(*_ENDS):
            async with gate:
                address = (source(3_000_000 + number), 0)
                _, writer = await asyncio.open_connection(
                    "127.0.0.1", replica.port, ssl=context, server_hostname=name, local_addr=address
                )
            kept.append(writer)

    async def run() -> int:
        kept: list[asyncio.StreamWriter] = []
        gate = asyncio.Semaphore(64)
        crowd = [asyncio.create_task(idle(number, kept, gate)) for number in range(count)]
        await _served(servers, seen, lambda: look() or all(one.done() for one in crowd))
        deadline = time.monotonic() + 3
        await _served(servers, seen, lambda: look() or time.monotonic() > deadline)
        for writer in kept:
            writer.transport.abort()
        return len(kept)

    made = asyncio.run(run())
    if made < count * 0.9:
        raise BrokenPromise(f"only {made} of {count} connections were made: the machine is at its end, not the server")
    audit(servers, seen)
    check_statuses(seen, {200})
    return [
        Finding(
            f"{made} idle connections, two thirds with TLS",
            f"{_meanwhile(seen)}; at most {peaks['descriptors']} descriptors and {peaks['memory'] / (1 << 20):.0f} MiB"
            f" ({before / (1 << 20):.0f} before): the oldest idle ones made place",
        )
    ]


def huge_bodies(servers: Fleet, size: int) -> list[Finding]:
    """Bodies of `size` bytes, declared and not; to guests' and owner's operations."""
    seen, replica = Seen(), servers.replicas[0]
    before, peak, found = replica.memory(), 0, []
    admin = f"Authorization: Bearer {servers.access.token}\r\n"
    targets = [
        ("POST /kbs/v0/auth", ""),
        ("POST /kbs/v0/attest", ""),
        ("PUT /kokon/v1/secrets/a/b/c", admin),
        ("POST /kokon/v1/workloads", admin),
        ("POST /kbs/v0/resource/a/b/c", admin),
        ("POST /kbs/v0/attestation-policy", admin),
    ]
    for target, headers in targets:
        for chunked in (False, True):
            status, sent = _pour(servers, target, headers, size, chunked=chunked)
            peak = max(peak, replica.memory())
            found.append((status, sent))
            if status not in (413, 400, 0):
                raise BrokenPromise(f"{target} with {size} bytes was answered {status} after {sent} bytes")
            if sent > 64 << 20:
                raise BrokenPromise(f"{target} took {sent} bytes")
    asyncio.run(_served(servers, seen, lambda: len(seen.seconds) > 3))
    if peak - before > 64 << 20:
        raise BrokenPromise(f"the server grew by {(peak - before) >> 20} MiB")
    audit(servers, seen)
    refused = sum(status == 413 for status, _ in found)
    return [
        Finding(
            f"bodies of {size >> 20} MiB, declared and chunked, to {len(targets)} operations",
            f"{refused} of {len(found)} answered 413, the rest cut off; at most {max(s for _, s in found) >> 10} KiB"
            f" of one were taken; the server grew by {max(peak - before, 0) / (1 << 20):.1f} MiB",
        )
    ]


def _pour(servers: Fleet, target: str, headers: str, size: int, *, chunked: bool) -> tuple[int, int]:
    """Send a body until it is all gone or refused: status (0: cut off) and bytes sent."""
    sent, answer = 0, b""
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    head = f"{target} HTTP/1.1\r\nHost: kokon\r\n{headers}{length}\r\n\r\n".encode()
    piece = b"[" * 65536
    plain = socket.create_connection(("127.0.0.1", servers.ports[0]), timeout=20)
    name = "127.0.0.1"
    with contextlib.suppress(*_ENDS), servers.context.wrap_socket(plain, server_hostname=name) as line:
        line.sendall(head)
        line.settimeout(0.0005)
        while sent < size:
            with contextlib.suppress(TimeoutError, ssl.SSLWantReadError):
                answer = line.recv(4096)
                break
            line.settimeout(20)
            line.sendall(b"10000\r\n" + piece + b"\r\n" if chunked else piece)
            sent += len(piece)
            line.settimeout(0.0005)
    status = int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0
    return status, sent


def malformed_tls(servers: Fleet, count: int) -> list[Finding]:
    """`count` connections that begin with what is no TLS, or not a TLS that one may speak."""
    seen, port = Seen(), servers.ports[0]
    before = servers.replicas[0].memory()
    threads, descriptors = servers.replicas[0].threads(), servers.replicas[0].descriptors()
    dice = random.Random(4)

    async def one(number: int, data: bytes) -> None:
        with contextlib.suppress(*_ENDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source(number), 0))
            writer.write(data)
            with contextlib.suppress(*_ENDS):
                answer = await asyncio.wait_for(reader.read(4096), 0.5)
                if answer.startswith(b"HTTP"):
                    seen.wrong("something that is no TLS was answered as HTTP")
            writer.transport.abort()

    async def run() -> None:
        gate = asyncio.Semaphore(50)

        async def gated(number: int, data: bytes) -> None:
            async with gate:
                await one(4_000_000 + number, data)

        hellos = _malformed(dice, servers.context)
        crowd = [asyncio.create_task(gated(number, next(hellos))) for number in range(count)]
        await _served(servers, seen, lambda: all(one.done() for one in crowd))

    asyncio.run(run())
    _certificates_and_versions(servers)
    audit(servers, seen)
    check_statuses(seen, {200})
    replica = servers.replicas[0]
    grown = (replica.memory() - before) / (1 << 20)
    if grown > 32 or replica.threads() > threads + 8 or replica.descriptors() > descriptors + 60:
        raise BrokenPromise(f"left over: {grown:.0f} MiB, {replica.threads()} threads, {replica.descriptors()} descr.")
    return [
        Finding(
            f"{count} connections with malformed TLS: noise, cut and altered hellos, absurd lengths, plain HTTP, SSLv2",
            f"{_meanwhile(seen)}; none was answered as HTTP; the server grew by {grown:.1f} MiB; TLS 1.1 is refused",
        )
    ]


def one_address(servers: Fleet, guests: int, each: int) -> list[Finding]:
    """Guests that all come from one address, more often than one address may: told to come later, and served then."""
    seen = Seen()

    async def go() -> int:
        guest = GuestClient(seen, servers.context, servers.ports[:1], servers.guest, "127.250.0.1", 120.0)
        done = 0
        for _ in range(each):
            done += await guest.handshake(PATH, frozenset({VALUE}))
        guest.close()
        return done

    async def run() -> int:
        return sum(await asyncio.gather(*(go() for _ in range(guests))))

    done = asyncio.run(run())
    audit(servers, seen)
    check_statuses(seen, {200, 429})
    if done != guests * each or not seen.statuses[429]:
        raise BrokenPromise(f"{done} of {guests * each} handshakes, statuses {shown(seen.statuses)}")
    return [
        Finding(
            f"{guests} guests at one address, {each} handshakes each, with the usual limit of 50 requests a second",
            f"all were served, p99 {seen.quantile(0.99):.1f} s; statuses {shown(seen.statuses)}, with Retry-After",
        )
    ]


def client_hello(context: ssl.SSLContext) -> bytes:
    """A good first flight of a client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def _malformed(dice: random.Random, context: ssl.SSLContext) -> Iterator[bytes]:
    hello = client_hello(context)
    makers: list[Callable[[], bytes]] = [
        lambda: dice.randbytes(dice.randint(1, 5000)),
        lambda: hello[: dice.randint(1, len(hello) - 1)],
        lambda: _altered(dice, hello),
        lambda: struct.pack(">BHH", _HANDSHAKE, 0x0301, 0xFFFF) + dice.randbytes(2000),
        lambda: struct.pack(">BHHB", _HANDSHAKE, 0x0301, 4, 1) + b"\xff\xff\xff" + dice.randbytes(500),
        lambda: b"GET / HTTP/1.1\r\nHost: kokon\r\n\r\n",
        lambda: b"\x80\x2e\x01\x00\x02" + dice.randbytes(40),
        lambda: hello + dice.randbytes(100),
        lambda: hello + hello,
        lambda: struct.pack(">BHH", dice.randint(0, 255), dice.randint(0, 0xFFFF), 5) + b"hello",
        lambda: b"".join(struct.pack(">BHH", _HANDSHAKE, 0x0303, 1) + bytes([byte]) for byte in hello[5:200]),
        lambda: b"",
    ]
    while True:
        for make in makers:
            yield make()


def _altered(dice: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.randint(1, 8)):
        changed[dice.randrange(5, len(changed))] = dice.randrange(256)
    return bytes(changed)


def _certificates_and_versions(servers: Fleet) -> None:
    """A client that can do no better than TLS 1.1 gets nowhere. Raises `BrokenPromise`."""
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    plain = socket.create_connection(("127.0.0.1", servers.ports[0]), timeout=10)
    with contextlib.closing(plain), contextlib.suppress(*_ENDS), old.wrap_socket(plain):
        raise BrokenPromise("TLS 1.1 was spoken")


async def _served(servers: Fleet, seen: Seen, ended: Callable[[], bool]) -> None:
    """One guest that is served all the time, with a new connection each time."""
    number = 5_000_000
    while not ended():
        number += 1
        guest = GuestClient(seen, servers.context, servers.ports[:1], servers.guest, source(number), 30.0)
        if not await guest.handshake(PATH, frozenset({VALUE})):
            seen.wrong("a good guest was not served meanwhile")
        guest.close()
        await asyncio.sleep(0.05)


def _meanwhile(seen: Seen) -> str:
    lost = f", {seen.lost} connections lost" if seen.lost else ""
    return (
        f"a good guest was served {len(seen.seconds)} times meanwhile, each time on a new connection, p99"
        f" {seen.quantile(0.99):.2f} s ({shown(seen.statuses)}{lost})"
    )
