"""`kokon project`: the provisioning server's tenants."""

from __future__ import annotations

from pathlib import Path

from kokon.cli.access import connect_server
from kokon.cli.output import emit, note


def list_projects(*, admin: Path | None = None, json: bool = False) -> None:
    """List the projects that you may enter.

    Example: `kokon project list`

    Parameters
    ----------
    admin
        The server's admin.json; default: $KOKON_ADMIN, or that of the server on this machine.
    json
        Print JSON.
    """
    with connect_server(admin) as client:
        projects = client.projects()
    emit({"projects": projects}, "\n".join(projects) or "no projects", json)


def add(name: str, /, *, admin: Path | None = None, json: bool = False) -> None:
    """Make a project: it has its own secrets, workloads, policies, principals and log.

    Example: `kokon project add cardiology`

    Parameters
    ----------
    name
        1 to 40 lower-case letters, digits and inner dashes.
    admin
        The server's admin.json; default: $KOKON_ADMIN, or that of the server on this machine.
    json
        Print JSON.
    """
    with connect_server(admin) as client:
        client.add_project(name)
        url = f"{client.access.root}/p/{name}"
    emit({"name": name, "url": url}, f"{name}: at {url}", json)


def rm(name: str, /, *, admin: Path | None = None, json: bool = False) -> None:
    """Close a project: nothing is served of it any more. Its secrets and its log stay, should it be made again.

    Example: `kokon project rm cardiology`

    Parameters
    ----------
    name
        Name of the project.
    admin
        The server's admin.json; default: $KOKON_ADMIN, or that of the server on this machine.
    json
        Print JSON.
    """
    with connect_server(admin) as client:
        answer = client.close_project(name)
    emit(answer, f"{name}: closed", json)
    note("its records stay in the database; delete its secrets first if they shall be gone for good")
