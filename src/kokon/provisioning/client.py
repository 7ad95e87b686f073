"""The owner's client for the server's admin interface: all of it, for one project at a time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from kokon.errors import MalformedError, UsageError
from kokon.provisioning.client_log import LogCalls
from kokon.provisioning.client_records import RecordCalls
from kokon.provisioning.client_server import ServerCalls
from kokon.provisioning.client_transport import AdminAccess
from kokon.wire import Fields, parse_json

__all__ = ["ADMIN_FILE", "AdminAccess", "AdminClient", "read_access", "state_directory"]

ADMIN_FILE = "admin.json"


def state_directory() -> Path:
    """Where the server keeps its state unless told otherwise: `provision` in Kokon's home."""
    home = os.environ.get("KOKON_HOME") or Path.home() / ".local" / "share" / "kokon"
    return Path(home).absolute() / "provision"


def read_access(path: Path | None = None, project: str | None = None) -> AdminAccess:
    """The access that a server on this machine left in `path` (default: in its state directory, or $KOKON_ADMIN), to
    the project of that name (default: $KOKON_PROJECT, or that of the URL there).

    JSON: `url`, `certificate`, and `token` or, as paths beside the file, `client_certificate` and `client_key`. Raises
    `UsageError` (`admin-access-missing`), `MalformedError` (`admin-access-incomplete`, `project-name`, and those of
    `kokon.wire`).
    """
    path = path or Path(os.environ.get("KOKON_ADMIN") or state_directory() / ADMIN_FILE)
    project = project or os.environ.get("KOKON_PROJECT") or None
    access = _parse_access(_read(path), path)
    return access if project is None else access.of_project(project)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            "admin-access-missing",
            f"cannot read {path.name}, which tells where the provisioning server is",
            found=error.strerror,
            hint="start one with `kokon provision serve`, or name the file with --admin",
        ) from error


def _parse_access(data: bytes, path: Path) -> AdminAccess:
    fields = Fields(parse_json(data, limit=64 << 10, what=path.name), path.name)
    url, token = fields.text("url"), fields.optional_text("token")
    certificate = fields.text("certificate", limit=32 << 10)
    files = [fields.optional_text(name) for name in ("client_certificate", "client_key")]
    fields.finish()
    shown, key = (path.parent / file if file else None for file in files)
    if not token and not (shown and key):
        raise MalformedError(
            "admin-access-incomplete",
            f"{path.name} does not say who asks",
            expected="token, or client_certificate and client_key",
        )
    return AdminAccess(url, token or "", certificate, shown, key)


class AdminClient(RecordCalls, ServerCalls, LogCalls):
    """One connection to the admin interface; see `Transport` for what all calls raise."""

    @classmethod
    def from_home(cls, path: Path | None = None, project: str | None = None) -> Self:
        """The client for the server of this machine. Raises as `read_access`."""
        return cls(read_access(path, project))
