"""A few policy workers for many threads: who waits, who gets which, when one is replaced."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from kokon.errors import DeniedError, HostError
from kokon.provisioning.rego.process import WorkerLimits, WorkerLost, WorkerProcess
from kokon.provisioning.rego.text import DEPTH_LIMIT, POLICY_LIMIT

OFFENDERS: Final = 1024
"""How many policies that lost a worker are remembered."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`workers` processes at most, each replaced after `evaluations`; how long a request may wait for one; largest
    policy in bytes and its deepest nesting; and what a worker may take."""

    workers: int = 4
    evaluations: int = 2000
    queue_seconds: float = 10.0
    policy: int = POLICY_LIMIT
    depth: int = DEPTH_LIMIT
    worker: WorkerLimits = field(default_factory=WorkerLimits)


@dataclass(frozen=True, slots=True)
class Statistics:
    """For metrics: workers that run, how many were ever started, evaluations, and lost workers by reason."""

    workers: int
    started: int
    evaluations: int
    lost: Mapping[str, int]


class WorkerPool:
    """Workers, started when they are needed.

    A worker sees policies of one tenant: one who finds a hole in the engine and takes a worker over cannot answer for
    others. Of three workers and more a tenant gets all but one at a time, so that its slow policies keep no other
    tenant waiting. A policy that lost a worker before, or of which the caller is `careful`, may occupy one at a time:
    however many requests it concerns, the others are served by the rest.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._changed = threading.Condition()
        self._idle: list[WorkerProcess] = []
        self._busy: set[WorkerProcess] = set()
        self._share = max(min(limits.workers, 2), limits.workers - 1)
        self._starting: Counter[str] = Counter()
        self._closed = False
        self._slow = threading.Lock()
        self._offenders: OrderedDict[bytes, None] = OrderedDict()
        self._started = 0
        self._evaluations = 0
        self._lost: Counter[str] = Counter()

    def close(self) -> None:
        """End all workers, those that compute too. Whoever waits is refused."""
        with self._changed:
            self._closed = True
            idle, busy = list(self._idle), list(self._busy)
            self._idle.clear()
            self._changed.notify_all()
        for worker in busy:
            worker.end()
        for worker in idle:
            worker.kill()

    def statistics(self) -> Statistics:
        """Figures since the start."""
        with self._changed:
            running = len(self._idle) + len(self._busy)
            return Statistics(running, self._started, self._evaluations, MappingProxyType(dict(self._lost)))

    def ask(
        self, policy: bytes, request: Mapping[str, Any], *, tenant: str = "", careful: bool = False
    ) -> dict[str, Any]:
        """A worker's answer to `request`, which concerns the policy of this digest and this `tenant`.

        Raises `HostError` (`policy-busy`, `policy-engine-missing`, `policy-engine-failed`) and `DeniedError`
        (`policy-crashed`, `policy-timeout`, `policy-memory`, `policy-malformed`).
        """
        deadline = time.monotonic() + self._limits.queue_seconds
        with self._changed:
            slow = careful or policy in self._offenders
        if slow and not self._slow.acquire(timeout=self._limits.queue_seconds):
            raise _busy()
        try:
            return self._ask(policy, request, tenant, deadline)
        finally:
            if slow:
                self._slow.release()

    def _ask(self, policy: bytes, request: Mapping[str, Any], tenant: str, deadline: float) -> dict[str, Any]:
        worker = self._take(tenant, deadline)
        try:
            answer = worker.ask(request)
        except WorkerLost as lost:
            self._note(policy, lost)
            raise _denied(lost) from lost
        finally:
            self._give_back(worker)
        with self._changed:
            self._offenders.pop(policy, None)
        return answer

    def _note(self, policy: bytes, lost: WorkerLost) -> None:
        with self._changed:
            self._lost[lost.reason] += 1
            self._offenders[policy] = None
            self._offenders.move_to_end(policy)
            while len(self._offenders) > OFFENDERS:
                self._offenders.popitem(last=False)

    def _take(self, tenant: str, deadline: float) -> WorkerProcess:
        """The tenant's worker that was used last, since it remembers most; else a new one, in the place of the one
        that served another tenant longest ago if there may be no more."""
        while True:
            with self._changed:
                worker = self._choose(tenant)
                while worker is None and not self._has_room(tenant):
                    if self._closed or not self._changed.wait(deadline - time.monotonic()):
                        raise _busy()
                    worker = self._choose(tenant)
                if self._closed:
                    raise _busy()
                if worker is None:
                    self._starting[tenant] += 1
                    retired = self._idle[: self._surplus()]
                    del self._idle[: len(retired)]
                else:
                    self._busy.add(worker)
            if worker is None:
                for one in retired:
                    one.kill()
                return self._start(tenant)
            if worker.quiet:
                return self._count(worker)
            self._give_back(worker)

    def _choose(self, tenant: str) -> WorkerProcess | None:
        """Take the last idle worker of this tenant, unless it has its share."""
        if self._used(tenant) >= self._share:
            return None
        for place in reversed(range(len(self._idle))):
            if self._idle[place].tenant == tenant:
                return self._idle.pop(place)
        return None

    def _has_room(self, tenant: str) -> bool:
        """Whether a worker may be started for this tenant."""
        all_used = len(self._busy) + self._starting.total()
        return all_used < self._limits.workers and self._used(tenant) < self._share

    def _used(self, tenant: str) -> int:
        """How many workers this tenant has that are not idle."""
        return self._starting[tenant] + sum(worker.tenant == tenant for worker in self._busy)

    def _surplus(self) -> int:
        """How many workers there are too many, with those that are being started."""
        return max(0, len(self._idle) + len(self._busy) + self._starting.total() - self._limits.workers)

    def _count(self, worker: WorkerProcess) -> WorkerProcess:
        with self._changed:
            self._evaluations += 1
        return worker

    def _start(self, tenant: str) -> WorkerProcess:
        worker = None
        try:
            worker = WorkerProcess(self._limits.worker, tenant)
        finally:
            with self._changed:
                self._starting -= Counter((tenant,))
                if worker is not None:
                    self._started += 1
                    self._busy.add(worker)
                self._changed.notify_all()
        return self._count(worker)

    def _give_back(self, worker: WorkerProcess) -> None:
        """Keep it for the next, unless it is dead, has served long enough, has grown to half of what it may, or talks
        without being asked."""
        grown = worker.resident() > self._limits.worker.memory // 2
        worn = grown or worker.evaluations >= self._limits.evaluations or not worker.quiet
        with self._changed:
            self._busy.discard(worker)
            worn = worn or self._closed
            if not worn:
                self._idle.append(worker)
            self._changed.notify_all()
        if worn:
            worker.kill()


def _busy() -> HostError:
    return HostError(
        "policy-busy",
        "no process is free to evaluate the policy",
        hint="try again; or let the server start more of them",
    )


def _denied(lost: WorkerLost) -> DeniedError:
    if lost.reason == "timeout":
        return DeniedError("policy-timeout", "the policy takes too long", found=lost.found)
    if lost.reason == "memory":
        return DeniedError("policy-memory", "the policy takes too much memory", found=lost.found)
    if lost.reason == "nonsense":
        return DeniedError("policy-malformed", "the policy's answer makes no sense", found=lost.found)
    return DeniedError(
        "policy-crashed",
        "the policy crashed the process that evaluated it",
        found=lost.found,
        hint="this request is refused, others are not; simplify the policy",
    )
