"""`kokon token`: who may use the provisioning server's admin interface, by a token or by a client certificate."""

from __future__ import annotations

import contextlib
import json as jsonlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

from cyclopts import Parameter

from kokon.cli.access import DEFAULT_ACCESS, Access, connect, connect_server, moment, rfc3339, table
from kokon.cli.output import emit, note
from kokon.errors import HostError, MalformedError, UsageError

if TYPE_CHECKING:
    from kokon.provisioning.client_transport import AdminAccess

CERTIFICATE_LIMIT = 16 << 10


def list_tokens(*, admin: Path | None = None, json: bool = False) -> None:
    """List who may use the admin interface, as far as that is yours to decide; never their tokens.

    Example: `kokon token list`

    Parameters
    ----------
    admin
        The server's admin.json; default: $KOKON_ADMIN, or that of the server on this machine.
    json
        Print JSON.
    """
    with connect_server(admin) as client:
        principals = client.principals()
    emit({"principals": principals}, table([_row(one) for one in principals], "nobody"), json)


def new(
    *,
    name: str,
    role: Literal["owner", "operator", "auditor"],
    scope: tuple[str, ...],
    expires: str | None = None,
    certificate: Path | None = None,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    access: Access = DEFAULT_ACCESS,
    json: bool = False,
) -> None:
    """Let somebody else use the admin interface. Their token is printed this once; the server keeps its digest only.

    Example: `kokon token new --name ci --role operator --scope default:clinic --scope 'default:clinic/*/*' -o w.json`

    An owner may do everything in the scope; an operator keeps secrets and releases images under rules; an auditor reads
    log, policies and names. None of them can read a secret.

    Parameters
    ----------
    name
        Who it is, for people.
    role
        owner, operator or auditor.
    scope
        PROJECT:PATH, each of them * for all; a path's parts may be * too. May be given again.
    expires
        When it ends, as 12h, 30d or 2027-01-31T12:00:00Z; default: never.
    certificate
        Their client certificate (PEM): they need no token then.
    output
        Write an admin.json with the token to this file (0600) instead of printing it.
    json
        Print JSON.
    """
    body: dict[str, Any] = {"name": name, "role": role, "scopes": [_scope(text) for text in scope]}
    if expires is not None:
        body["expires"] = rfc3339(moment(expires, datetime.now(UTC)))
    if certificate is not None:
        body["certificate"] = _certificate(certificate)
        if output is not None:
            raise UsageError("token-none", "with a certificate there is no token to write to a file")
    with connect(access) as client:
        if output is None:
            answer = client.add_principal(body)
        else:
            with _reserved(output) as file:
                answer = client.add_principal(body)
                _write(file, _access_of(client.access, access, answer))
    _tell(answer, output, json)


def rm(identity: str, /, *, admin: Path | None = None, json: bool = False) -> None:
    """Take somebody's access away, at once.

    Example: `kokon token rm k5xw2zq7aabc`

    Parameters
    ----------
    identity
        The id that `kokon token list` shows; it stands in the token too, after `kokon_`.
    admin
        The server's admin.json; default: $KOKON_ADMIN, or that of the server on this machine.
    json
        Print JSON.
    """
    with connect_server(admin) as client:
        client.remove_principal(identity)
    emit({"deleted": identity}, f"{identity}: has no access any more", json)


def _tell(answer: dict[str, Any], output: Path | None, json: bool) -> None:
    shown = dict(answer)
    token = shown.pop("token", None)
    if output is not None:
        emit({**shown, "output": str(output)}, f"{shown['id']}: access in {output}", json)
    elif token is None:
        emit(shown, f"{shown['id']}: may come with the certificate", json)
    else:
        emit({**shown, "token": token}, token, json)
        note(f"{shown['id']}: give the token to {shown['name']}; it is not shown again")


def _scope(text: str) -> dict[str, str]:
    from kokon.provisioning.access.scope import parse_grant

    try:
        grant = parse_grant(text)
    except MalformedError as error:
        raise UsageError(
            error.code,
            "this is no scope",
            expected="PROJECT:PATH, as default:clinic/*/* or *:*",
            found=repr(text[:100]),
        ) from error
    return {"project": grant.project, "path": grant.pattern}


def _certificate(path: Path) -> str:
    from kokon.cli.policy import read_text

    return read_text(path, CERTIFICATE_LIMIT)


def _access_of(own: AdminAccess, wanted: Access, answer: dict[str, Any]) -> bytes:
    """What the other's admin.json holds; the URL of the one project that their scope is in, or that was asked for."""
    projects = {scope["project"] for scope in answer["scopes"]}
    url = own.url
    if wanted.project is None:
        only = next(iter(projects)) if len(projects) == 1 else "*"
        url = own.root if only == "*" else own.of_project(only).url
    members = {"url": url, "token": answer["token"], "certificate": own.certificate}
    return jsonlib.dumps(members).encode()


@contextlib.contextmanager
def _reserved(path: Path) -> Iterator[BinaryIO]:
    """The file for the token, made (0600) before there is one, and removed again if there will be none.

    Raises `UsageError` (`output-exists`), `HostError` (`output-not-written`).
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise UsageError("output-exists", f"{path} exists already, nothing is overwritten") from error
    except OSError as error:
        raise HostError("output-not-written", f"cannot write {path}", found=error.strerror) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _write(file: BinaryIO, data: bytes) -> None:
    try:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise HostError(
            "output-not-written",
            "cannot write the token",
            found=error.strerror,
            hint="it is lost: remove it with `kokon token rm`, and make another one",
        ) from error


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    scopes = " ".join(f"{scope['project']}:{scope['path']}" for scope in one["scopes"])
    until = f"until {one['expires']}" if one.get("expires") else ""
    return one["id"], one["role"], one["name"], scopes, one["credential"], until
