"""Faults of the machine around one server: a full disk, a clock that jumps or stands still."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.load.crowd import PATH, VALUE
from bench.load.fleet import Fleet, fleet
from bench.load.guest import GuestClient, identity, source
from bench.load.postgres import Postgres
from bench.load.scenarios import Finding, Note, Stage, answers, check_statuses, prepare, shown, wait_until
from bench.load.seen import BrokenPromise, Seen, acknowledged, audit
from kokon.errors import HostError, KokonError

DAY = 86400.0
_GONE = (OSError, EOFError, asyncio.TimeoutError)


def may_mount() -> bool:
    """Whether small file systems can be made here: for root alone, and not in every container."""
    try:
        with small_disk(Path("/tmp") / f"kokon-load-try-{os.getpid()}", 1):
            return True
    except HostError:
        return False


@contextlib.contextmanager
def small_disk(where: Path, mebibytes: int) -> Iterator[Path]:
    """A file system of that size at `where`. Raises `HostError` (`bench-tool-missing`)."""
    where.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "kokon-load", str(where)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        raise HostError("bench-tool-missing", "a small file system cannot be mounted here")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=False)
        where.rmdir()


def fill(directory: Path) -> Path:
    """Take all the space that is left; the file that has it."""
    path = directory / "ballast"
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size) == size:
                    pass
    return path


def disk_full(area: Path, note: Note) -> list[Finding]:
    """The disk of a server on SQLite is full, and has place again."""
    with small_disk(area / "disk", 24) as disk, fleet(area, 1, None, state=disk / "state0") as servers:
        prepare(servers)
        seen, refused = Seen(), Seen()
        asyncio.run(_some(servers, seen, 5))
        token = _attested(servers, seen)
        ballast = fill(disk)
        note("the disk is full")
        codes = asyncio.run(_in_need(servers, refused, seen, token))
        with servers.admin() as admin, contextlib.suppress(KokonError):
            for number in range(1000):
                acknowledged(seen, f"load/full/k{number}", admin, os.urandom(4096))
            raise BrokenPromise("a full disk took a thousand secrets")
        ballast.unlink()
        took = wait_until(lambda: answers(servers, servers.replicas[0]), 20)
        asyncio.run(_some(servers, seen, 5))
        first = audit(servers, seen)
        servers.replicas[0].kill()
        servers.replicas[0].start()
        audit(servers, seen)
    return [
        Finding(
            "the disk of a server on SQLite full, then free again; then kill -9 and a start",
            f"handshakes while it was full: {shown(refused.statuses)} ({', '.join(sorted(codes))}); it served again"
            f" {took:.2f} s after there was space, without a restart; {first.size} log entries verified",
        )
    ]


def database_disk_full(area: Path, note: Note) -> list[Finding]:
    """PostgreSQL's disk is full, and has place again; PostgreSQL itself may end of it, and is started again."""
    options = ("min_wal_size=2MB", "max_wal_size=4MB", "wal_keep_size=0")
    place = Path(tempfile.mkdtemp(prefix="kokon-load-"))  # not below `area`, which PostgreSQL's user may not enter
    place.chmod(0o755)
    with small_disk(place, 96) as disk:
        home = disk / "postgres"
        home.mkdir()
        disk.chmod(0o755)
        with Postgres(home, *options) as database, fleet(area, 2, database.url) as servers:
            prepare(servers)
            on, seen, refused = Stage(database, servers), Seen(), Seen()
            asyncio.run(_some(servers, seen, 5))
            token = _attested(servers, seen)
            ballast = fill(disk)
            note("PostgreSQL's disk is full")
            written = 0
            with servers.admin() as admin, contextlib.suppress(KokonError):
                for number in range(20_000):
                    acknowledged(seen, f"load/full/k{number}", admin, os.urandom(65536))
                    written += 1
                raise BrokenPromise("a full disk took it all")
            codes = asyncio.run(_in_need(servers, refused, seen, token))
            ballast.unlink()
            ended = not on.database.alive
            if ended:
                database.start()
            took = max(wait_until(lambda one=one: answers(servers, one), 60) for one in servers.replicas)  # type: ignore[misc]
            asyncio.run(_some(servers, seen, 5))
            audited = audit(servers, seen)
    return [
        Finding(
            "the disk of PostgreSQL full while two replicas write, then free again",
            f"{written} writes still acknowledged and kept; then handshakes: {shown(refused.statuses)}"
            f" ({', '.join(sorted(codes))}); PostgreSQL {'ended and was started again' if ended else 'went on'}; the"
            f" replicas wrote {took:.2f} s after that, without a restart; {audited.size} log entries verified",
        )
    ]


async def _in_need(servers: Fleet, refused: Seen, seen: Seen, token: str) -> set[str]:
    """Guests while nothing can be written: nobody may get anything. The codes of the refusals.

    What little still fits in the database's pages may be granted at first; that is noted as seen.
    """
    codes: set[str] = set()
    for number in range(12):
        guest = _guest(servers, refused, 6_000_000 + number)
        with contextlib.suppress(*_GONE):
            answer = await guest.ask("POST", "/kbs/v0/auth", {"version": "0.4.0", "tee": "snp", "extra-params": {}})
            if answer.status == 200:
                answer = await guest.ask("POST", "/kbs/v0/attest", guest.message(answer.json()["nonce"]))
            if answer.status == 200:
                guest.token = answer.json()["token"]
                seen.granted.add(identity(guest.token))
                answer = await guest.ask("GET", f"/kbs/v0/resource/{PATH}")
                seen.released[identity(guest.token), PATH] += answer.status == 200
            if answer.status != 200:
                codes.add(answer.code)
            held = await guest.ask_with(token, f"/kbs/v0/resource/{PATH}")
            seen.released[identity(token), PATH] += held.status == 200
        guest.close()
    seen.released += type(seen.released)()  # without the zeros
    if refused.broken:
        raise BrokenPromise("\n".join(refused.broken))
    if not refused.statuses[503]:
        raise BrokenPromise(f"a full disk was not noticed: {shown(refused.statuses)}")
    check_statuses(refused, {200, 503})
    return codes


def _attested(servers: Fleet, seen: Seen) -> str:
    """The token of a guest that attested."""

    async def run() -> str:
        guest = _guest(servers, seen, 6_500_000)
        if not await guest.handshake(PATH, frozenset({VALUE})):
            raise BrokenPromise("a good guest was not served")
        guest.close()
        return guest.token

    return asyncio.run(run())


async def _some(servers: Fleet, seen: Seen, count: int) -> None:
    for number in range(count):
        guest = _guest(servers, seen, 7_000_000 + number)
        if not await guest.handshake(PATH, frozenset({VALUE})):
            seen.wrong("a good guest was not served")
        guest.close()


def _guest(servers: Fleet, seen: Seen, number: int) -> GuestClient:
    return GuestClient(seen, servers.context, servers.ports, servers.guest, source(number), 20.0)


async def _newcomer(servers: Fleet, seen: Seen) -> str:
    """How a guest fares that begins anew: `served`, or the code that it was refused with."""
    guest = _guest(servers, seen, 8_500_000)
    answer = await guest.ask("POST", "/kbs/v0/auth", {"version": "0.4.0", "tee": "snp", "extra-params": {}})
    if answer.status == 200:
        answer = await guest.ask("POST", "/kbs/v0/attest", guest.message(answer.json()["nonce"]))
    if answer.status == 200:
        guest.token = answer.json()["token"]
        seen.granted.add(identity(guest.token))
        answer = await guest.ask("GET", f"/kbs/v0/resource/{PATH}")
        seen.released[identity(guest.token), PATH] += answer.status == 200
    guest.close()
    return "served" if answer.status == 200 else answer.code


def clock_jumps(servers: Fleet, note: Note) -> list[Finding]:
    """The clock of a server (the first of `servers`) stands still, jumps ahead and back; what it gave before is good
    for as long as was said, by its clock, and guests that begin anew are served at every time."""
    seen, replica = Seen(), servers.replicas[0]
    token = _attested(servers, seen)
    found: list[str] = []

    def held() -> tuple[int, str]:
        """How the token that is held now is answered."""

        async def run() -> tuple[int, str]:
            guest = _guest(servers, seen, 8_000_000)
            answer = await guest.ask_with(token, f"/kbs/v0/resource/{PATH}")
            guest.close()
            seen.released[identity(token), PATH] += answer.status == 200
            return answer.status, answer.code

        return asyncio.run(run())

    moves: list[tuple[str, Callable[[], str], bool | None, bool]] = [
        ("stopped", lambda: f"stop {time.time()}", True, True),
        ("an hour ahead", lambda: "3600", False, True),
        ("back to now", lambda: "0", True, True),
        ("an hour back", lambda: "-3600", None, True),
        ("a year back", lambda: str(-365 * DAY), None, False),
        ("40 days ahead", lambda: str(40 * DAY), False, True),
        ("back to now again", lambda: "0", None, True),
    ]
    try:
        for name, clock, good, new in moves:
            replica.set_clock(clock())
            status, code = held()
            if good is not None and (status == 200) is not good:
                raise BrokenPromise(f"clock {name}: a token that was given before is answered {status} {code}")
            told = asyncio.run(_newcomer(servers, seen))
            if (told == "served") is not new:
                raise BrokenPromise(f"clock {name}: a new guest was {told}")
            with servers.admin(replica) as admin:
                acknowledged(seen, "load/clock/now", admin, name.encode())
            found.append(f"{name}: token from before {f'{status} {code}'.strip()}, new guest {told}")
            note(found[-1])
    finally:
        replica.set_clock("0")
    audited = audit(servers, seen)
    return [
        Finding(
            "the server's clock stopped, an hour ahead, back, an hour back, a year back, 40 days ahead, back",
            f"{'; '.join(found)}; {audited.size} log entries verified",
        )
    ]
