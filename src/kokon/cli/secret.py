"""`kokon secret`: what the provisioning server keeps for enclaves."""

from __future__ import annotations

import sys
from pathlib import Path

from kokon.cli.output import emit
from kokon.errors import UsageError

SECRET_LIMIT = 1 << 20


def put(name: str, /, *, file: Path | None = None, admin: Path | None = None, json: bool = False) -> None:
    """Store a secret, from standard input or a file; never from the command line, which others can read.

    Example: `pass show clinic/db | kokon secret put clinic/db-password`

    A line end after the last line is part of the secret.

    Parameters
    ----------
    name
        WORKLOAD/NAME, or in full kbs:///repository/type/tag.
    file
        Read the secret from this file.
    admin
        The server's admin.json; default: that of the server on this machine.
    json
        Print JSON.
    """
    from kokon.provisioning.client import AdminClient
    from kokon.provisioning.collect import secret_path

    path = secret_path(name)
    value = _read(file)
    with AdminClient.from_home(admin) as client:
        version = client.put(path, value)
    answer = {"resource": path, "version": version, "size": len(value)}
    emit(answer, f"{path}: version {version}, {len(value)} bytes", json)


def list_secrets(*, admin: Path | None = None, json: bool = False) -> None:
    """List the names of secrets and keys; never their values.

    Example: `kokon secret list`

    Parameters
    ----------
    admin
        The server's admin.json; default: that of the server on this machine.
    json
        Print JSON.
    """
    from kokon.provisioning.client import AdminClient

    with AdminClient.from_home(admin) as client:
        resources = client.resources()
    width = max((len(one["resource"]) for one in resources), default=0)
    lines = [f"{one['resource']:{width}}  version {one['version']}  {one['created']}" for one in resources]
    emit({"resources": resources}, "\n".join(lines) or "no secrets", json)


def rm(name: str, /, *, admin: Path | None = None, json: bool = False) -> None:
    """Delete a secret.

    Example: `kokon secret rm clinic/db-password`

    Parameters
    ----------
    name
        WORKLOAD/NAME, or in full kbs:///repository/type/tag.
    admin
        The server's admin.json; default: that of the server on this machine.
    json
        Print JSON.
    """
    from kokon.provisioning.client import AdminClient
    from kokon.provisioning.collect import secret_path

    path = secret_path(name)
    with AdminClient.from_home(admin) as client:
        client.delete(path)
    emit({"deleted": path}, f"{path}: deleted", json)


def _read(file: Path | None) -> bytes:
    if file is None:
        if sys.stdin.isatty():
            raise UsageError(
                "secret-from-terminal",
                "a secret is read from standard input or a file",
                hint="pipe it in, or use --file",
            )
        value = sys.stdin.buffer.read(SECRET_LIMIT + 1)
    else:
        try:
            with file.open("rb") as source:
                value = source.read(SECRET_LIMIT + 1)
        except OSError as error:
            raise UsageError("secret-unreadable", f"cannot read {file}", found=error.strerror) from error
    if not 0 < len(value) <= SECRET_LIMIT:
        raise UsageError("secret-size", "a secret must not be empty or too large", expected=f"1..{SECRET_LIMIT} bytes")
    return value
