"""What all parts of the server share: store, keys, clock, what is demanded of guests, and how things are written down.

Whatever is answered was written first: a decision and the log entry that tells of it are one unit of work of the store,
which is refused if the records that it was decided on have changed meanwhile, be it at another replica.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from kokon.appraisal.policy import Policy
from kokon.errors import DeniedError, KokonError
from kokon.provisioning.access.project import DEFAULT, is_project
from kokon.provisioning.bearer import Tokens
from kokon.provisioning.catalogue import Catalogue, Catalogues
from kokon.provisioning.database.values import Change, Count, Entry, Receipt, StaleDecision, Work, busy
from kokon.provisioning.kbs.session import SessionSealer
from kokon.provisioning.kbs.spent import SpentNonces
from kokon.provisioning.keys import SERVER, ServerKeys
from kokon.provisioning.rego.engine import PolicyEngine
from kokon.provisioning.release import error_check
from kokon.provisioning.throttle import Throttle
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Check

if TYPE_CHECKING:
    from kokon.appraisal.lacking import Completion
    from kokon.provisioning.database.store import Store

ATTEMPTS = 16
"""How often something is decided anew because the records changed meanwhile."""
PROJECT_KIND = "project"

T = TypeVar("T")


class Refusal(Exception):  # noqa: N818 - an answer, not an error of ours
    """A refusal that was logged: all that the guest is told is `code` and `denial`, the id for the owner. `kind` is
    that of the error behind it."""

    def __init__(self, code: str, denial: str, kind: str = DeniedError.kind) -> None:
        super().__init__(code)
        self.code = code
        self.denial = denial
        self.kind = kind


class Counters(Protocol):
    """What is counted besides the log (`kokon.provisioning.web.metrics`)."""

    def handshake(self, tee: str, outcome: str) -> None:
        """An attestation came to an end."""
        ...

    def denial(self, code: str) -> None:
        """Something was denied."""
        ...

    def release(self) -> None:
        """A resource was released."""
        ...

    def commit(self, works: int, seconds: float) -> None:
        """That many works were committed together."""
        ...

    def watch_policies(self, lost: Callable[[], int]) -> None:
        """Where to read how many policy workers were lost."""
        ...


class Uncounted:
    """Counts nothing."""

    def handshake(self, tee: str, outcome: str) -> None:
        """Nothing."""

    def denial(self, code: str) -> None:
        """Nothing."""

    def release(self) -> None:
        """Nothing."""

    def commit(self, works: int, seconds: float) -> None:
        """Nothing."""

    def watch_policies(self, lost: Callable[[], int]) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Demands:
    """What is demanded of every platform (`policy`), what is known of vendors and simulated roots (`endorsements`), and
    who gets what lacks (None: nobody).

    `sample` takes sample evidence, which nobody signed and which is never affirming. `development` lets anybody
    administrate, and marks every answer and token, and what is logged of guests.
    """

    endorsements: Endorsements = field(default_factory=Endorsements)
    policy: Policy = field(default_factory=Policy)
    complete: Completion | None = None
    sample: bool = False
    development: bool = False

    @property
    def marks(self) -> dict[str, Any]:
        """What entries of the log have besides."""
        return {"development": True} if self.development else {}


class Core:
    """One replica. Calls are safe from several threads; `clock` gives the time (aware, UTC)."""

    def __init__(
        self,
        store: Store,
        keys: ServerKeys,
        session_key: bytes,
        demands: Demands,
        clock: Callable[[], datetime],
        counters: Counters | None = None,
    ) -> None:
        self.store = store
        self.keys = keys
        self.demands = demands
        self.clock = clock
        self.counters = counters or Uncounted()
        self.sealer = SessionSealer(session_key, secrets.token_bytes)
        self.spent = SpentNonces()
        self.tokens = Tokens(store, clock(), demands.marks)
        self.rego = PolicyEngine()
        self.counters.watch_policies(lambda: sum(self.rego.statistics().lost.values()))
        store.observe(self.counters.commit)
        self._catalogues = Catalogues(store)
        self._throttles: dict[str, Throttle] = {}
        self._lock = threading.Lock()

    # -- what there is ---------------------------------------------------------------------------------------------

    def check_project(self, name: str) -> str:
        """`name`, if there is such a project. Raises `DeniedError` (`project-unknown`)."""
        if self.has_project(name):
            return name
        raise DeniedError("project-unknown", "there is no project of this name", found=name[:64])

    def has_project(self, name: str) -> bool:
        """Whether there is a project of this name."""
        return name == DEFAULT or (is_project(name) and self.store.snapshot(SERVER).get(PROJECT_KIND, name) is not None)

    def projects(self) -> tuple[str, ...]:
        """All projects, sorted."""
        return tuple(sorted({DEFAULT, *self.store.snapshot(SERVER).names(PROJECT_KIND)}))

    def catalogue(self, project: str) -> Catalogue:
        """What `project` admits and demands, as of its last change that this replica heard of."""
        return self._catalogues.of(project, self.demands.policy)

    def known_catalogue(self, project: str) -> Catalogue | None:
        """The same, if it is to be had without the database."""
        return self._catalogues.known(project, self.demands.policy)

    # -- how it is written -----------------------------------------------------------------------------------------

    def write(
        self,
        project: str,
        event: str,
        details: Mapping[str, Any],
        changes: Sequence[Change] = (),
        *,
        counts: Sequence[Count] = (),
        generation: int | None = None,
    ) -> Receipt:
        """Do `changes` with a log entry that tells of them. Raises as `Store.submit` does, at once."""
        entry = Entry(event, dict(details))
        return self.store.commit(Work(project, (entry,), tuple(changes), tuple(counts), generation))

    def decide(self, project: str, decision: Callable[[Catalogue], tuple[T, Work]]) -> T:
        """Decide on what there is and write it; anew if that changed meanwhile. What the decision came to.

        Raises what it raises, as the store does, and `HostError` (`store-busy`).
        """
        for _ in range(ATTEMPTS):
            result, work = decision(self.catalogue(project))
            try:
                self.store.commit(work)
            except StaleDecision:
                continue
            return result
        raise busy()

    # -- how it is refused -----------------------------------------------------------------------------------------

    def refuse(
        self, project: str, event: str, error: KokonError, details: Mapping[str, Any], *, attested: bool = False
    ) -> tuple[Refusal, Work | None]:
        """The refusal that `error` is, and what is to be written of it."""
        checks = [error_check("request", error)]
        refusal, work = self.deny(project, event, (error.code, error.message), details, checks, attested=attested)
        return Refusal(refusal.code, refusal.denial, error.kind), work

    def deny(
        self,
        project: str,
        event: str,
        reason: tuple[str, str],
        details: Mapping[str, Any],
        checks: Sequence[Check],
        *,
        attested: bool = False,
    ) -> tuple[Refusal, Work | None]:
        """A refusal for `reason` (code and message), and what is to be written of it; of many alike that nobody
        `attested` asked for, some are only counted."""
        code, message = reason
        self.counters.denial(code)
        denial = secrets.token_hex(8)
        listed = [_bounded(check) for check in checks[:64]]
        entry = Entry(event, {**details, "denial": denial, "code": code, "message": message, "checks": listed}, denial)
        work = Work(project, (entry,)) if attested else self.throttled(project, entry, code)
        return Refusal(code, denial), work

    def throttled(self, project: str, entry: Entry, code: str) -> Work | None:
        """What is to be written of something that anybody can bring about: nothing, if there was much of it."""
        throttle = self._throttle(project)
        if not throttle.admit(entry.event, code, self.clock()):
            return None
        return Work(project, (*_counted(throttle, entry.event, code), entry))

    def write_counted(self, project: str) -> None:
        """Write how many refusals were only counted so far. Raises as the store does."""
        entries = _counted(self._throttle(project))
        if entries:
            self.store.commit(Work(project, entries))

    def write_all_counted(self) -> None:
        """The same for all projects."""
        for project in tuple(self._throttles):
            self.write_counted(project)

    def _throttle(self, project: str) -> Throttle:
        with self._lock:
            return self._throttles.setdefault(project, Throttle())


def _counted(throttle: Throttle, event: str | None = None, code: str | None = None) -> tuple[Entry, ...]:
    return tuple(
        Entry(
            "refusals-counted",
            {
                "refused": one.event,
                "code": one.code,
                "count": one.count,
                "since": one.since.isoformat(timespec="milliseconds"),
            },
        )
        for one in throttle.drain(event, code)
    )


def _bounded(check: Check) -> dict[str, str]:
    """A check for the log; texts of the guest were shortened where the check was made, this only makes sure."""
    return {name: text[:600].encode("utf-8", "replace").decode() for name, text in check.as_dict().items()}
