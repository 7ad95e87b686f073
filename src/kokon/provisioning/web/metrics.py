"""What the server counts, for Prometheus: a registry of its own, and labels out of closed sets only.

Nothing that a client sends becomes a label: operations, codes and TEEs are words of ours, statuses numbers. Words
that were not foreseen are counted as `other`, so that no mistake elsewhere can make the figures grow without end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from kokon.provisioning.web.pool import NOTES

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""The media type of `Metrics.render`."""
OTHER = "other"
TEES = ("snp", "tdx", "sgx", "tpm", "az-snp-vtpm", "az-tdx-vtpm", "nitro", "simulated", "sample")
OUTCOMES = ("granted", "denied", "refused")
CODES_LIMIT = 256
"""Distinct codes of denials that are counted by name."""
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_COMMITS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_Child = Callable[[], None]


class Metrics:
    """The figures of one server. Every method may be called from any thread.

    `operations` are the names that exist: `get-resource`.
    """

    def __init__(self, operations: Iterable[str] = ()) -> None:
        self._operations = frozenset(operations)
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "kokon_http_requests", "Requests by operation and status", ["operation", "status"], registry=registry
        )
        self._seconds = Histogram(
            "kokon_http_request_seconds",
            "Time to answer, by operation",
            ["operation"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._handshakes = Counter(
            "kokon_handshakes", "Attestations by TEE and outcome", ["tee", "outcome"], registry=registry
        )
        self._releases = Counter("kokon_releases", "Resources released", registry=registry)
        self._denials = Counter("kokon_denials", "Denials by code", ["code"], registry=registry)
        self._batch = Histogram("kokon_commit_batch_size", "Works in one commit", buckets=_COMMITS, registry=registry)
        self._commit = Histogram("kokon_commit_seconds", "Time of one commit", buckets=_SECONDS, registry=registry)
        self._connections = Gauge("kokon_open_connections", "Open connections", registry=registry)
        self._in_flight = Gauge("kokon_requests_in_flight", "Requests that are being answered", registry=registry)
        self._connection_events = Counter(
            "kokon_connection_events", "Connections that were cut off or refused", ["event"], registry=registry
        )
        self._lost = Gauge("kokon_policy_workers_lost", "Policy workers that crashed or were killed", registry=registry)
        self._bound: dict[tuple[str, str], _Child] = {}
        self._codes: dict[str, _Child] = {}
        self._observe = {name: self._seconds.labels(name).observe for name in (*self._operations, OTHER)}
        self._shake = {
            (tee, outcome): self._handshakes.labels(tee, outcome).inc
            for tee in (*TEES, OTHER)
            for outcome in (*OUTCOMES, OTHER)
        }
        self._events = {note: self._connection_events.labels(note).inc for note in (*NOTES, OTHER)}
        self.release = self._releases.inc

    def request(self, operation: str | None, status: int, seconds: float) -> None:
        """A request was answered. None as its operation, or one that does not exist, is `other`; so is no status."""
        known = operation if operation in self._operations and operation is not None else OTHER
        key = (known, str(status) if 100 <= status < 600 else OTHER)
        count = self._bound.get(key)
        if count is None:
            count = self._bound[key] = self._requests.labels(*key).inc
        count()
        self._observe[known](seconds)

    def handshake(self, tee: str, outcome: str) -> None:
        """An attestation ended: `tee` one of `TEES`, `outcome` one of `OUTCOMES`."""
        self._shake[tee if tee in TEES else OTHER, outcome if outcome in OUTCOMES else OTHER]()

    def denial(self, code: str) -> None:
        """Something was refused, with `code`."""
        count = self._codes.get(code)
        if count is None:
            fit = len(code) <= 64 and _CODE.fullmatch(code) and len(self._codes) < CODES_LIMIT
            if not fit:
                code = OTHER
            count = self._codes[code] = self._denials.labels(code).inc
        count()

    def commit(self, works: int, seconds: float) -> None:
        """A group of works was committed."""
        self._batch.observe(works)
        self._commit.observe(seconds)

    def connection_event(self, note: str) -> None:
        """What a pool of connections notes: one of `kokon.provisioning.web.pool.NOTES`."""
        self._events.get(note, self._events[OTHER])()

    def watch(self, connections: Callable[[], int], in_flight: Callable[[], int]) -> None:
        """Where to read, when asked, how many connections are open and requests under way."""
        self._connections.set_function(connections)
        self._in_flight.set_function(in_flight)

    def watch_policies(self, lost: Callable[[], int]) -> None:
        """Where to read how many policy workers were lost since the start."""
        self._lost.set_function(lost)

    def render(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)
