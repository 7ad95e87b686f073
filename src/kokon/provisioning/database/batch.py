"""One transaction for many works: heads locked, works applied, rows written, heads moved on, checkpoints signed.

Heads are locked in the order of their projects' names, so that replicas never wait for each other in a circle. A
project that is new changes the server's head too, which vouches for the list of projects.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kokon.errors import KokonError
from kokon.provisioning.database.catalogue import Snapshot
from kokon.provisioning.database.draft import Done, Draft, Job
from kokon.provisioning.database.head import Head, Secret
from kokon.provisioning.database.leaves import rolled_back
from kokon.provisioning.database.state import SERVER, State, head_row, refresh
from kokon.provisioning.database.values import Receipt, StaleDecision
from kokon.provisioning.database.writing import write
from kokon.provisioning.ledger.merkle import Frontier

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Connection

    from kokon.provisioning.database.engines import Backend
    from kokon.provisioning.database.rings import RingLoader
    from kokon.provisioning.database.values import Clock, KeyRing, Sign


@dataclass(slots=True)
class Context:
    """What a batch needs. `states` is what all threads read; only the writer's puts a project's next state in.

    `ring` may be replaced at any time by one that has the same keys and more.
    """

    backend: Backend
    ring: KeyRing
    sign: Sign
    clock: Clock
    replica: str
    loader: RingLoader | None = None
    states: dict[str, State] = field(default_factory=dict, repr=False)


Outcome = Receipt | KokonError | StaleDecision


@dataclass(slots=True)
class Batch:
    """The outcome of each work, and the states after, which hold once the transaction is committed."""

    outcomes: list[tuple[Job, Outcome]]
    states: dict[str, State]
    removed: bool


def run(connection: Connection, context: Context, jobs: Sequence[Job]) -> Batch:
    """Do the works in the connection's transaction; the caller commits it, and only then tells anyone.

    Raises `engines.FAILURES`. Errors of one project, or of one work, fail what they concern.
    """
    now = context.clock()
    drafts, failed = _open_drafts(connection, context, {job.work.project for job in jobs}, now)
    done: list[tuple[Job, Done | KokonError | StaleDecision]] = []
    for job in jobs:
        project = job.work.project
        done.append((job, failed[project] if project in failed else _apply(drafts[project], job)))
    states, written = _finish(context, drafts, failed)
    for draft in written:
        write(connection, context.backend, context.replica, draft, states[draft.project])
    outcomes = [(job, _outcome(job, one, states, failed)) for job, one in done]
    return Batch(outcomes, states, any(draft.removes for draft in written))


def open_draft(connection: Connection, context: Context, project: str, now: datetime) -> Draft:
    """Lock a project's head, and bring its state up to date. Raises as `state.refresh`."""
    known = context.states.get(project)
    lock = _LOCK_HEAD if context.backend.shared else _LOOK_AT_HEAD
    found = context.backend.execute(connection, lock, (project,)).fetchone()
    if found is None and known is None:
        return Draft(_unborn(context.ring, project), context.ring, now, fresh=True)
    if known is None or found is None or found[0] != known.head.tag:
        row = head_row(connection, project)
        if row is None:
            raise rolled_back(project, "its head", "none")
        known = refresh(connection, context.ring, row, known)
        context.states[project] = known
    return Draft(known, context.ring, now, fresh=False)


def finish(context: Context, draft: Draft, secret: Secret | None = None) -> State:
    """The state after a draft, its checkpoint signed; `secret` is a new one for the head, or None to keep it."""
    old, generation = draft.state.head, draft.generation
    frontier = old.frontier.append(leaf.hash for leaf in draft.leaves)
    checkpoint = context.sign(draft.project, frontier.size, frontier.root()) if draft.leaves else old.checkpoint
    state = draft.moves.apply(draft.state, generation)
    total = draft.moves.total(draft.state) if secret is None else state.total(secret)
    head = Head.make(draft.project, generation, frontier, checkpoint, total, secret or old.secret)
    return replace(state, head=head)


def _open_drafts(
    connection: Connection, context: Context, projects: set[str], now: datetime
) -> tuple[dict[str, Draft], dict[str, KokonError]]:
    drafts: dict[str, Draft] = {}
    failed: dict[str, KokonError] = {}
    if not projects <= context.states.keys():
        projects = projects | {SERVER}
    for project in sorted(projects):
        try:
            if SERVER in failed and project not in context.states:
                raise failed[SERVER]
            drafts[project] = open_draft(connection, context, project, now)
        except KokonError as error:
            failed[project] = error
    return drafts, failed


def _apply(draft: Draft, job: Job) -> Done | KokonError | StaleDecision:
    try:
        return draft.apply(job)
    except (KokonError, StaleDecision) as error:
        return error


def _finish(
    context: Context, drafts: dict[str, Draft], failed: dict[str, KokonError]
) -> tuple[dict[str, State], list[Draft]]:
    """The states after the batch, and the drafts to write; the server's own comes last, since it lists the new ones."""
    states: dict[str, State] = {}
    written: list[Draft] = []
    for project in sorted(drafts, reverse=True):
        draft = drafts[project]
        if project == SERVER:
            draft.moves.projects |= {one.project for one in written if one.fresh}
        if not draft.leaves and not draft.moves.projects:
            continue
        try:
            states[project] = finish(context, draft)
            written.append(draft)
        except KokonError as error:
            failed[project] = error
            if project == SERVER:
                _give_up_fresh(written, states, failed, error)
    return states, written


def _give_up_fresh(
    written: list[Draft], states: dict[str, State], failed: dict[str, KokonError], error: KokonError
) -> None:
    """A project that the server's head does not list must not come to be."""
    for draft in [one for one in written if one.fresh]:
        written.remove(draft)
        del states[draft.project]
        failed[draft.project] = error


def _outcome(
    job: Job,
    done: Done | KokonError | StaleDecision,
    states: dict[str, State],
    failed: dict[str, KokonError],
) -> Outcome:
    if not isinstance(done, Done):
        return done
    project = job.work.project
    if project in failed:
        return failed[project]
    head = states[project].head
    return Receipt(project, done.first, head.size, done.generation, done.versions, head.checkpoint)


def _unborn(ring: KeyRing, project: str) -> State:
    head = Head.make(project, 0, Frontier(), b"", 0, Secret.new(ring, project))
    return State(Snapshot(project), head)


_LOOK_AT_HEAD = "SELECT tag FROM heads WHERE project = ?"
_LOCK_HEAD = "SELECT tag FROM heads WHERE project = ? FOR UPDATE"
