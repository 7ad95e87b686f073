"""All connections by what they wait for, oldest first, so that those who keep others waiting can be cut off. No I/O.

Every wait has one length. So a queue in order of entry is in order of deadline too, one look at its head each second
replaces a timer for each connection, and the connection that matters least is always the first of a known queue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

SWEEP_SECONDS = 0.5
"""How often overdue connections are looked for: a deadline is kept to within this."""


class Wait(IntEnum):
    """What a connection waits for."""

    NOTHING = 0
    """It is being answered: how long that takes is the application's affair."""
    HANDSHAKE = 1
    """The peer's part of the TLS handshake."""
    IDLE = 2
    """The first byte of a request."""
    HEAD = 3
    """The rest of a request's head."""
    BODY = 4
    """The rest of a request's body."""
    STALL = 5
    """The peer takes no bytes, and too many are waiting."""
    CLOSE = 6
    """The end: the last bytes are on their way."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections there may be, how long each may take and how much it may send. Times in seconds.

    `connections` counts all of them, `handshakes` those that are not that far yet, `idle` those that have no request
    under way, `bodies` those whose request's body is not there yet, and may have up to 1 MiB in memory; of too many the
    oldest ends. Each costs about 100 KiB with TLS, measured. `pipeline` is how many requests may
    wait behind the one that is being answered. `linger_bytes` of a body that nobody wants are read, so that the peer
    gets to see the answer.
    """

    connections: int = 4096
    handshakes: int = 1024
    idle: int = 2048
    bodies: int = 512
    handshake_seconds: float = 10.0
    idle_seconds: float = 15.0
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    stall_seconds: float = 30.0
    close_seconds: float = 5.0
    head_bytes: int = 32 << 10
    headers: int = 64
    pipeline: int = 8
    linger_bytes: int = 1 << 20

    def seconds(self, wait: Wait) -> float:
        """How long a connection may stay in `wait`."""
        return {
            Wait.NOTHING: float("inf"),
            Wait.HANDSHAKE: self.handshake_seconds,
            Wait.IDLE: self.idle_seconds,
            Wait.HEAD: self.head_seconds,
            Wait.BODY: self.body_seconds,
            Wait.STALL: self.stall_seconds,
            Wait.CLOSE: self.close_seconds,
        }[wait]


class Peer(Protocol):
    """What a pool holds: a connection in one of the waits."""

    wait: Wait

    def overdue(self) -> None:
        """Called once when the wait has taken too long: tell the peer, and wait for something else."""

    def abort(self) -> None:
        """End at once: others need the place."""


Note = Callable[[str], None]
"""Is told what happened to a connection, in one of the words below."""
NOTES = (
    "bad-request",
    "body-timeout",
    "certificate-refused",
    "close-timeout",
    "crowded-out",
    "handshake-failed",
    "head-timeout",
    "head-too-large",
    "idle-timeout",
    "pipeline-too-long",
    "refused-full",
    "stalled",
)
"""All that `Note` may be told: a closed set, fit for a label of a metric."""
_OVERDUE = {
    Wait.HANDSHAKE: "handshake-failed",
    Wait.IDLE: "idle-timeout",
    Wait.HEAD: "head-timeout",
    Wait.BODY: "body-timeout",
    Wait.STALL: "stalled",
    Wait.CLOSE: "close-timeout",
}
_CROWDED = (Wait.CLOSE, Wait.IDLE, Wait.HANDSHAKE, Wait.HEAD, Wait.BODY, Wait.STALL)
"""Who must go first when there is no place: never one that waits for us."""


def _ignore(_: str) -> None:
    pass


class Pool:
    """The connections of one server. For one thread. Times are seconds of a monotonic clock, given by the caller."""

    def __init__(self, limits: ConnectionLimits, note: Note = _ignore) -> None:
        self.limits = limits
        self.note = note
        self.size = 0
        self._queues: list[dict[Peer, float]] = [{} for _ in Wait]
        self._seconds = [limits.seconds(wait) for wait in Wait]
        self._most = {Wait.HANDSHAKE: limits.handshakes, Wait.IDLE: limits.idle, Wait.BODY: limits.bodies}

    def waiting(self, wait: Wait) -> int:
        """How many connections are in `wait`."""
        return len(self._queues[wait])

    def admit(self, peer: Peer, wait: Wait, now: float) -> bool:
        """Take `peer` in if there is place, or if place can be made; False if all others are being answered."""
        if self.size >= self.limits.connections and not self.crowd_out():
            self.note("refused-full")
            return False
        self.size += 1
        self._enter(peer, wait, now)
        return True

    def move(self, peer: Peer, wait: Wait, now: float) -> None:
        """`peer` waits for something else now: its time starts anew. Of too many that wait for the same the oldest
        ends.

        Nothing happens if it has left.
        """
        if self._queues[peer.wait].pop(peer, None) is None:
            return
        self._enter(peer, wait, now)

    def _enter(self, peer: Peer, wait: Wait, now: float) -> None:
        peer.wait = wait
        queue = self._queues[wait]
        queue[peer] = now + self._seconds[wait]
        most = self._most.get(wait)
        if most is not None and len(queue) > most:
            self._drop(wait)

    def holds(self, peer: Peer) -> bool:
        """Whether `peer` is in."""
        return peer in self._queues[peer.wait]

    def leave(self, peer: Peer) -> None:
        """`peer` has gone. A second time is no mistake."""
        if self._queues[peer.wait].pop(peer, None) is not None:
            self.size -= 1

    def crowd_out(self) -> bool:
        """End the connection that matters least; False if there is none."""
        for wait in _CROWDED:
            if self._queues[wait]:
                self._drop(wait)
                return True
        return False

    def _drop(self, wait: Wait) -> None:
        peer = next(iter(self._queues[wait]))
        self.leave(peer)
        self.note("crowded-out")
        peer.abort()

    def sweep(self, now: float) -> None:
        """End those whose time is over."""
        for wait, what in _OVERDUE.items():
            queue = self._queues[wait]
            while queue:
                peer, deadline = next(iter(queue.items()))
                if now < deadline:
                    break
                self.note(what)
                peer.overdue()
                if peer in queue:  # it has not moved on by itself
                    self.leave(peer)
                    peer.abort()

    def end(self, *waits: Wait) -> None:
        """End all who are in one of `waits`, without a word."""
        for wait in waits:
            for peer in tuple(self._queues[wait]):
                self.leave(peer)
                peer.abort()
