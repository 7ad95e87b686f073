"""Projects: a server's tenants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kokon.errors import DeniedError, UsageError
from kokon.provisioning.access.project import DEFAULT, check_project
from kokon.provisioning.access.roles import Action
from kokon.provisioning.core import PROJECT_KIND
from kokon.provisioning.database.values import Delete, Put
from kokon.wire import Fields, parse_json

if TYPE_CHECKING:
    from kokon.provisioning.admin.request import Asked

BODY_LIMIT = 4096
PROJECTS_LIMIT = 10_000


def list_projects(asked: Asked) -> dict[str, Any]:
    """The projects in the principal's scope."""
    return {"projects": [name for name in asked.core.projects() if asked.principal.enters(name)]}


def add_project(asked: Asked, body: bytes) -> dict[str, Any]:
    """Make a project. Raises `MalformedError` (`project-name`), `UsageError` (`project-exists`)."""
    fields = Fields(parse_json(body, limit=BODY_LIMIT, what="project"), "project")
    name = check_project(fields.text("name", limit=64))
    fields.finish()
    asked.allow(Action.PROJECT_MANAGE)
    known = asked.core.projects()
    if name in known or len(known) >= PROJECTS_LIMIT:
        raise UsageError("project-exists", "there is this project, or there are too many", found=name)
    asked.write("project-added", {"name": name}, (Put(PROJECT_KIND, name, name.encode(), previous=0),))
    return {"name": name}


def delete_project(asked: Asked, name: str) -> dict[str, Any]:
    """Close a project: nothing is served of it any more, until it is made again. Its records and its log stay.

    Raises `DeniedError` (`project-unknown`), `UsageError` (`project-default`).
    """
    asked.allow(Action.PROJECT_MANAGE)
    if name == DEFAULT:
        raise UsageError("project-default", "the default project is always there", found=name)
    if asked.store.snapshot(asked.project).get(PROJECT_KIND, name) is None:
        raise DeniedError("project-unknown", "there is no project of this name", found=name[:64])
    asked.write("project-closed", {"name": name}, (Delete(PROJECT_KIND, name),))
    return {"closed": name}
