"""One request of the admin interface: whose it is, of which project, and what it may."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from kokon.provisioning.access.principal import Principal
    from kokon.provisioning.access.roles import Action
    from kokon.provisioning.admin.callers import Callers
    from kokon.provisioning.core import Core
    from kokon.provisioning.database.store import Store
    from kokon.provisioning.database.values import Change, Receipt


@dataclass(frozen=True, slots=True)
class Asked:
    """`principal` asks something of `project` ("": the server itself)."""

    core: Core
    callers: Callers
    principal: Principal
    project: str

    @property
    def store(self) -> Store:
        """The server's store."""
        return self.core.store

    @property
    def now(self) -> datetime:
        """The time."""
        return self.core.clock()

    @property
    def by(self) -> str:
        """The principal's id, for the log."""
        return self.principal.id

    def allow(self, action: Action, path: str | None = None) -> None:
        """Nothing, if they may. Raises as `Callers.allow`."""
        self.callers.allow(self.principal, action, self.project, path)

    def allow_somewhere(self, action: Action) -> None:
        """Nothing, if they may somewhere in the project. Raises as `Callers.allow_somewhere`."""
        self.callers.allow_somewhere(self.principal, action, self.project)

    def covers(self, path: str) -> bool:
        """Whether a path of the project is in their scope."""
        return self.principal.covers(self.project, path)

    def write(self, event: str, details: Mapping[str, Any], changes: Sequence[Change] = ()) -> Receipt:
        """Do `changes`, with a log entry that tells of them and of who did it. Raises as `Core.write`."""
        return self.core.write(self.project, event, {**details, "by": self.by}, changes)
