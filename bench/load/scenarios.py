"""Crowds, and kills under load: what is done, and what must come out. Each returns what was seen, for the table.

All raise `BrokenPromise` if a promise of `bench.load.seen` does not hold, and `HostError` if something does not run.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.load.crowd import PATH, VALUE, Crowd, growth, watched
from bench.load.fleet import STRANGE, Fleet, Replica, fleet, workload
from bench.load.guest import LATER, GuestClient, source
from bench.load.postgres import Postgres
from bench.load.seen import Audited, BrokenPromise, Seen, acknowledged, audit
from kokon.errors import KokonError

Note = Callable[[str], None]
LIMITED = "load-limited"
ACTIVATIONS = 7
FORBIDDEN = "load/secret/other"


@dataclass(frozen=True, slots=True)
class Finding:
    """A row of the table: what was done, and what was seen."""

    done: str
    seen: str


@dataclass(frozen=True, slots=True)
class Stage:
    """Replicas on one PostgreSQL, with a workload for crowds, and one that may be activated a few times only."""

    database: Postgres
    servers: Fleet


@contextlib.contextmanager
def stage(area: Path, replicas: int) -> Iterator[Stage]:
    """So many replicas that all know what there is."""
    with Postgres() as database, fleet(area, replicas, database.url) as servers:
        prepare(servers)
        yield Stage(database, servers)


def prepare(servers: Fleet) -> None:
    """The workloads, the secret of the crowds, and one that they may not have; all replicas know of them then."""
    with servers.admin() as admin:
        admin.put(PATH, VALUE)
        admin.put(FORBIDDEN, b"nobody's")
        admin.admit(workload("load", [PATH]))
        admin.admit(workload(LIMITED, [PATH], STRANGE, max_activations=ACTIVATIONS))
    for replica in servers.replicas:
        with servers.admin(replica) as admin:
            wait_until(lambda admin=admin: len(admin.workloads()) == 2, 10)  # type: ignore[misc]


def wait_until(holds: Callable[[], bool], seconds: float) -> float:
    """Wait until something holds; how long that took. Errors of ours mean that it does not. Raises `BrokenPromise`."""
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        with contextlib.suppress(KokonError, OSError):
            if holds():
                return time.monotonic() - begin
        time.sleep(0.05)
    raise BrokenPromise(f"what should have come within {seconds} s did not")


def answers(servers: Fleet, replica: Replica) -> bool:
    """Whether a replica writes, which is more than that it listens."""
    with servers.admin(replica, 10.0) as admin:
        return admin.put("load/probe/now", b"probe") > 0


def _until_all_write(servers: Fleet, replicas: list[Replica], seconds: float) -> list[float]:
    """Wait until each writes; how long that took."""
    return [wait_until(lambda one=one: answers(servers, one), seconds) for one in replicas]  # type: ignore[misc]


def crowd(on: Stage, guests: int, handshakes: int, note: Note, *, allowed: float) -> list[Finding]:
    """`guests` at once, then `handshakes` in all; no replica may grow by more than `allowed` MiB over the last four
    fifths of them."""
    seen, servers = Seen(), on.servers

    async def run() -> tuple[list[float], float]:
        first = Crowd(servers, seen, guests)
        if await first.once() != guests:
            raise BrokenPromise("not every guest of the crowd got its secret")
        times, seen.seconds = sorted(seen.seconds), []
        samples = await watched(first, handshakes, 25, note)
        first.close()
        return times, growth(samples)

    times, grown = asyncio.run(run())
    audited = audit(servers, seen)
    check_statuses(seen, {200, *LATER})
    if grown > allowed:
        raise BrokenPromise(f"a replica grew by {grown:.1f} MiB, more than {allowed:.0f}")
    memory = ", ".join(f"{one.memory() / (1 << 20):.0f}" for one in servers.replicas)
    replicas = len(servers.replicas)
    return [
        Finding(
            f"{guests} guests handshaking at once, {replicas} replicas, one PostgreSQL",
            f"all got their secret; median {times[len(times) // 2]:.2f} s, p99 {times[int(0.99 * len(times))]:.2f} s,"
            f" most {times[-1]:.2f} s for the whole handshake with its TLS, clients on the same cores",
        ),
        Finding(
            f"{handshakes} handshakes of {guests} guests that come again at once",
            f"statuses {shown(seen.statuses)}; p99 {seen.quantile(0.99):.2f} s; no replica grew by more than"
            f" {grown:.1f} MiB after the first fifth ({memory} MiB at the end); {audited.size} log entries verified",
        ),
    ]


def replica_killed(on: Stage, guests: int, seconds: float, note: Note) -> list[Finding]:
    """kill -9 of one of 3 replicas under load, then of another so that one is left; both come back."""
    seen, servers = Seen(), on.servers
    victim, other = servers.replicas[1:]
    counted: list[int] = []
    starts: list[float] = []

    def scene() -> None:
        time.sleep(seconds / 4)
        victim.kill()
        note("a replica was killed")
        counted.append(len(seen.seconds))
        time.sleep(seconds / 4)
        other.kill()
        note("another was killed: one is left")
        counted.append(len(seen.seconds))
        time.sleep(seconds / 4)
        counted.append(len(seen.seconds))
        starts.extend(one.start() for one in (victim, other))
        _until_all_write(servers, [victim, other], 30)
        time.sleep(seconds / 4)

    done, silence = asyncio.run(_under(servers, seen, guests, scene))
    two, one = counted[1] - counted[0], counted[2] - counted[1]
    audited = audit(servers, seen, {LIMITED: ACTIVATIONS})
    check_statuses(seen, {200, 401, *LATER})
    check_limit(seen, audited)
    if not two or not one:
        raise BrokenPromise(f"while replicas were gone the others did {two} and {one} handshakes")
    return [
        Finding(
            "kill -9 of one of 3 replicas under load, then of a second, then both started again",
            f"{two} handshakes with two left, {one} with one left, {done} in all, none failed for good; longest time"
            f" without one {silence:.2f} s; {seen.lost} connections lost; started again in {max(starts):.1f} s; a"
            f" workload with {ACTIVATIONS} activations got as many; {audited.size} log entries verified",
        )
    ]


def database_killed(on: Stage, guests: int, seconds: float, note: Note) -> list[Finding]:
    """kill -9 of PostgreSQL under load, twice; it is started again as its service manager would."""
    seen, servers = Seen(), on.servers
    waits: list[float] = []

    def scene() -> None:
        for _ in range(2):
            time.sleep(seconds / 4)
            on.database.kill()
            note("PostgreSQL was killed")
            time.sleep(seconds / 8)
            on.database.start()
            waits.extend(_until_all_write(servers, servers.replicas, 30))
            note("all replicas write again")
        time.sleep(seconds / 4)

    done, silence = asyncio.run(_under(servers, seen, guests, scene))
    audited = audit(servers, seen, {LIMITED: ACTIVATIONS})
    check_statuses(seen, {200, 401, *LATER})
    check_limit(seen, audited)
    return [
        Finding(
            f"kill -9 of PostgreSQL under load, twice, away for {seconds / 8:.0f} s and its recovery each time",
            f"{done} handshakes, none failed for good; statuses {shown(seen.statuses)}; replicas wrote again"
            f" {max(waits):.2f} s after PostgreSQL did, by themselves; longest time without a handshake"
            f" {silence:.1f} s; {audited.size} log entries verified",
        )
    ]


async def _under(servers: Fleet, seen: Seen, guests: int, scene: Callable[[], None]) -> tuple[int, float]:
    """Run `scene` while a crowd shakes hands, a writer writes, and strangers try; the number of handshakes, and the
    longest time in which none came to an end."""
    ended = False
    crowd = Crowd(servers, seen, guests)
    values = {VALUE}
    task = asyncio.create_task(crowd.many(1 << 30, None, until=lambda: ended))
    others = [
        asyncio.create_task(_strangers(servers, seen, lambda: ended)),
        asyncio.to_thread(_writer, servers, seen, values, lambda: ended),
    ]
    watch = asyncio.create_task(_longest(seen, lambda: ended))
    rest = asyncio.gather(*others)
    try:
        await asyncio.to_thread(scene)
    finally:
        ended = True
        done = await task
        await rest
        silence = await watch
        crowd.close()
    return done, silence


async def _longest(seen: Seen, ended: Callable[[], bool]) -> float:
    """The longest time in which no handshake came to an end."""
    longest, known, since = 0.0, -1, time.monotonic()
    while not ended():
        now = time.monotonic()
        if len(seen.seconds) != known:
            known, since = len(seen.seconds), now
        longest = max(longest, now - since)
        await asyncio.sleep(0.01)
    return longest


async def _strangers(servers: Fleet, seen: Seen, ended: Callable[[], bool]) -> None:
    """Guests that may have nothing, or only so often, or not that: they must be refused whatever happens."""
    number = 0
    while not ended():
        number += 1
        ports = [servers.ports[number % len(servers.ports)]]
        guest = GuestClient(seen, servers.context, ports, servers.stranger, source(1_000_000 + number))
        try:
            await _try(guest)
        except (TimeoutError, OSError, EOFError):
            seen.lost += 1
        guest.close()
        await asyncio.sleep(0.1)


async def _try(guest: GuestClient) -> None:
    """As a workload of few activations: what it gets is noted as all is, and the limit is checked in the log."""
    answer = await guest.ask("POST", "/kbs/v0/auth", {"version": "0.4.0", "tee": "snp", "extra-params": {}})
    if answer.status != 200:
        return
    message = guest.message(answer.json()["nonce"])
    answer = await guest.ask("POST", "/kbs/v0/attest", message)
    if answer.status == 200:
        from bench.load.guest import identity

        guest.token = answer.json()["token"]
        guest.seen.granted.add(identity(guest.token))
    for path in (FORBIDDEN, "load/start/now"):
        refused = await guest.ask("GET", f"/kbs/v0/resource/{path}")
        if refused.status == 200:
            guest.seen.wrong(f"{path} was released to whom it is not for")
    if answer.status != 200:
        refused = await guest.ask("GET", f"/kbs/v0/resource/{PATH}")
        if refused.status == 200:
            guest.seen.wrong("a secret was released without an attestation")


def _writer(servers: Fleet, seen: Seen, values: set[bytes], ended: Callable[[], bool]) -> None:
    """The owner, who puts one secret after the other at whatever replica answers."""
    number = 0
    while not ended():
        number += 1
        value = number.to_bytes(32, "big")
        running = [one for one in servers.replicas if one.alive]
        if not running:
            time.sleep(0.05)
            continue
        values.add(value)
        with contextlib.suppress(KokonError), servers.admin(running[number % len(running)], 10.0) as admin:
            acknowledged(seen, PATH if number % 4 == 0 else f"load/written/k{number}", admin, value)
        time.sleep(0.05)


def check_statuses(seen: Seen, allowed: set[int]) -> None:
    """No status but these, and those that strangers get. Raises `BrokenPromise`."""
    odd = set(seen.statuses) - allowed - {403}
    if odd:
        raise BrokenPromise(f"statuses {shown(seen.statuses)}")


def check_limit(seen: Seen, audited: Audited) -> None:
    """Strangers came, and most were refused: else their limit shows nothing. Raises `BrokenPromise`."""
    if seen.statuses[403] < ACTIVATIONS or not audited.events.get("attestation-denied"):
        raise BrokenPromise("too few strangers came to show that their limit holds")


def shown(statuses: Counter[int]) -> str:
    """Statuses and how often each came."""
    return ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
