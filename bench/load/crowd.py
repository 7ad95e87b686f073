"""Many guests at once, and the memory of replicas over many handshakes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.load.fleet import Fleet
from bench.load.guest import GuestClient, source
from bench.load.seen import Seen

PATH = "load/secret/key"
VALUE = bytes(range(32))
LONG = 3600.0


@dataclass(slots=True)
class Crowd:
    """Guests that stay: each has its own key, address and connection, and begins at another replica."""

    fleet: Fleet
    seen: Seen
    size: int
    patience: float = 120.0
    guests: list[GuestClient] = field(default_factory=list)

    def __post_init__(self) -> None:
        ports = self.fleet.ports
        for number in range(self.size):
            first = number % len(ports)
            order = ports[first:] + ports[:first]
            context = self.fleet.context
            guest = GuestClient(self.seen, context, order, self.fleet.guest, source(number), self.patience)
            self.guests.append(guest)

    async def once(self, values: frozenset[bytes] | None = frozenset({VALUE})) -> int:
        """All of them at the same moment, on new connections; how many got their secret."""
        for guest in self.guests:
            guest.close()
        return sum(await asyncio.gather(*(guest.handshake(PATH, values) for guest in self.guests)))

    async def many(
        self, count: int, values: frozenset[bytes] | None = frozenset({VALUE}), *, until: Callable[[], bool] = bool
    ) -> int:
        """`count` handshakes in all, or until `until`; how many were done. Who does not get through is noted."""
        left, done = count, 0

        async def go(guest: GuestClient) -> None:
            nonlocal left, done
            while left > 0 and not until():
                left -= 1
                if await guest.handshake(PATH, values):
                    done += 1
                else:
                    self.seen.wrong("a guest lost its patience")

        await asyncio.gather(*map(go, self.guests))
        return done

    def close(self) -> None:
        """End all connections."""
        for guest in self.guests:
            guest.close()


@dataclass(frozen=True, slots=True)
class Sample:
    """Resident bytes of each replica after so many handshakes."""

    handshakes: int
    seconds: float
    memory: tuple[int, ...]


async def watched(crowd: Crowd, count: int, steps: int, note: Callable[[str], None] = lambda _: None) -> list[Sample]:
    """`count` handshakes in `steps` equal parts, with a look at the replicas' memory after each."""
    begin, samples = time.monotonic(), []
    for step in range(1, steps + 1):
        done = count * step // steps - count * (step - 1) // steps
        await crowd.many(done)
        memory = tuple(one.memory() for one in crowd.fleet.replicas)
        samples.append(Sample(count * step // steps, time.monotonic() - begin, memory))
        shown = ", ".join(f"{each / (1 << 20):.1f}" for each in memory)
        note(f"{samples[-1].handshakes} handshakes, {samples[-1].seconds:.0f} s, {shown} MiB")
    return samples


def growth(samples: list[Sample]) -> float:
    """The most that one replica grew between a fifth of the way and the end, in MiB."""
    first, last = samples[max(len(samples) // 5 - 1, 0)], samples[-1]
    return max((b - a) / (1 << 20) for a, b in zip(first.memory, last.memory, strict=True))
