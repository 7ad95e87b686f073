"""The writer: one thread that takes all works that wait and commits them together.

A disk takes about as long to make one commit durable as a hundred, so those that come while it works share the next.
The writer alone touches the states; other threads read them.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from kokon.errors import HostError, InternalError, KokonError
from kokon.provisioning.database import batch
from kokon.provisioning.database.awaited import Awaited, tell_all
from kokon.provisioning.database.draft import Job, prepare
from kokon.provisioning.database.engines import FAILURES, REFUSALS, failure, lost, worth_retrying
from kokon.provisioning.database.reseal import reseal
from kokon.provisioning.database.state import all_projects, head_row, refresh
from kokon.provisioning.database.values import Receipt

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from kokon.provisioning.database.batch import Batch, Context
    from kokon.provisioning.database.values import Work

BATCH_WORKS = 256
BATCH_BYTES = 8 << 20
WAITING_LIMIT = 4096
GATHER_SECONDS = 0.008
"""How long is waited for more works if the last batch had several: to make a few durable costs as much as one, and who
writes alone waits for nobody. (PostgreSQL's `commit_delay` is this for databases.)"""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Task(Generic[_T]):
    """Something else to do between two batches."""

    run: Callable[[], _T]
    future: Future[_T] = field(default_factory=Future)


_Item = Job | _Task[Any] | None


class Writer:
    """Commits works until it is closed."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._connection: Connection | None = None
        self._queue: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self.committed: Callable[[int, float], None] = lambda _works, _seconds: None
        self._thread = threading.Thread(target=self._run, name="kokon-writer", daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> Future[Receipt]:
        """Have a work committed.

        Raises at once `UsageError` (`work-malformed`), `MalformedError` (`log-entry-malformed`, `json-not-canonical`),
        `HostError` (`store-busy`, `store-closed`); the future raises what becomes of it later.
        """
        job = prepare(work)
        self._submit(job)
        return cast("Future[Receipt]", job.future)

    def write(self, work: Work) -> asyncio.Future[Receipt]:
        """The same for a coroutine of the running event loop."""
        awaited = Awaited()
        self._submit(prepare(work, awaited))
        return awaited.future

    def _submit(self, job: Job) -> None:
        if self._queue.qsize() >= WAITING_LIMIT:
            raise HostError("store-busy", "too many writes wait for the database", hint="try again in a second")
        self._add(job)

    def refresh(self, project: str) -> Future[None]:
        """Have a project's state brought up to date with what other replicas wrote."""
        return self._task(lambda: self._refresh(project))

    def refresh_all(self) -> Future[None]:
        """Have all projects' states brought up to date."""
        return self._task(self._refresh_all)

    def reseal(self, limit: int) -> Future[int]:
        """Have rows sealed anew; see `reseal.reseal`."""
        return self._task(lambda: self._reseal(limit))

    def close(self) -> None:
        """Finish what waits, and stop."""
        with self._gate:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _task(self, run: Callable[[], _T]) -> Future[_T]:
        task = _Task(run)
        self._add(task)
        return task.future

    def _add(self, item: _Item) -> None:
        with self._gate:
            if self._closed:
                raise HostError("store-closed", "the store is closed")
            self._queue.put(item)

    def _run(self) -> None:
        waiting: list[_Item] = []
        crowded = False
        while True:
            item = waiting.pop() if waiting else self._queue.get()
            if item is None:
                break
            if isinstance(item, _Task):
                _do(item)
            else:
                if crowded:
                    time.sleep(GATHER_SECONDS)
                jobs, waiting = self._gather(item)
                crowded = len(jobs) > 1
                self._do_batch(jobs)
        self._discard()

    def _gather(self, first: Job) -> tuple[list[Job], list[_Item]]:
        """The works that wait, up to a batch's size, and the item after them that is none, if one was met."""
        jobs, size = [first], first.size
        while len(jobs) < BATCH_WORKS and size < BATCH_BYTES:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if not isinstance(item, Job):
                return jobs, [item]
            jobs.append(item)
            size += item.size
        return jobs, []

    def _do_batch(self, jobs: Sequence[Job]) -> None:
        running = [job for job in jobs if job.future.set_running_or_notify_cancel()]
        try:
            self._commit(running)
        except (KokonError, *FAILURES) as error:
            known = error if isinstance(error, KokonError) else failure(error)
            _fail(running, known)
        except Exception as error:  # noqa: BLE001 - a bug fails the batch, not the thread that all depend on
            _fail(running, _bug(error))

    def _commit(self, jobs: Sequence[Job]) -> None:
        """One transaction for all; one for each, should the database refuse a row of one of them."""
        if not jobs:
            return
        begun = time.monotonic()
        try:
            done = self._transact(lambda connection: batch.run(connection, self._context, jobs))
        except REFUSALS:
            if len(jobs) == 1:
                raise
            for job in jobs:
                self._do_alone(job)
            return
        self._publish(done)
        self.committed(len(jobs), time.monotonic() - begun)

    def _do_alone(self, job: Job) -> None:
        try:
            self._commit([job])
        except (KokonError, *FAILURES) as error:
            _fail([job], error if isinstance(error, KokonError) else failure(error))

    def _publish(self, done: Batch) -> None:
        self._context.states.update(done.states)
        tell_all([(job.future, outcome) for job, outcome in done.outcomes])
        if done.removed and self._connection is not None:
            self._context.backend.scrub(self._connection)

    def _transact(self, run: Callable[[Connection], _T]) -> _T:
        """Run in a transaction and commit it. What failed before its commit for want of a connection is tried once
        more on a new one; a commit that failed is not, since it may have been done."""
        committing = False

        def noted(connection: Connection) -> _T:
            nonlocal committing
            result = run(connection)
            committing = True
            return result

        try:
            return self._once(noted)
        except FAILURES as error:
            if committing or not worth_retrying(error):
                raise
        return self._once(run)

    def _once(self, run: Callable[[Connection], _T]) -> _T:
        try:
            if self._connection is None:
                self._connection = self._context.backend.writer()
            with self._connection.begin():
                return run(self._connection)
        except FAILURES as error:
            self._discard(spoilt=lost(error))
            raise

    def _refresh(self, project: str) -> None:
        context = self._context
        with context.backend.reading() as connection:
            row = head_row(connection, project)
            known = context.states.get(project)
            if row is None:
                return
            new = refresh(connection, context.ring, row, known)
        context.states[project] = new

    def _refresh_all(self) -> None:
        with self._context.backend.glance() as connection:
            projects = all_projects(connection)
        for project in projects:
            self._refresh(project)

    def _reseal(self, limit: int) -> int:
        done = self._transact(lambda connection: reseal(connection, self._context, limit))
        self._context.states.update(done.states)
        if done.states and self._connection is not None:
            self._context.backend.scrub(self._connection)
        return done.left

    def _discard(self, *, spoilt: bool = False) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*FAILURES):
                if spoilt:
                    connection.invalidate()
                connection.close()


def _do(task: _Task[Any]) -> None:
    if not task.future.set_running_or_notify_cancel():
        return
    try:
        task.future.set_result(task.run())
    except FAILURES as error:
        task.future.set_exception(failure(error))
    except KokonError as error:
        task.future.set_exception(error)
    except Exception as error:  # noqa: BLE001 - as for a batch
        task.future.set_exception(_bug(error))


def _fail(jobs: Sequence[Job], error: KokonError) -> None:
    tell_all([(job.future, error) for job in jobs if not job.future.done()])


def _bug(error: Exception) -> InternalError:
    return InternalError(
        "store-bug", "the store's writer met an error that it does not know", found=type(error).__name__
    )
