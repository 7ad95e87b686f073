"""Options about a server's state directory: who holds the master key, what opens it, which database."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qsl, urlsplit

from cyclopts import Parameter

from kokon.errors import UsageError

if TYPE_CHECKING:
    from kokon.provisioning.custody.holder import Holder
    from kokon.provisioning.database.engines import Backend
    from kokon.provisioning.state import Settings

Custody = Literal["file", "passphrase", "pkcs11", "enclave"]
URL_LIMIT = 4096


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What opens the master key, if a passphrase or a PIN does. Without these it is asked for at the terminal.

    Parameters
    ----------
    passphrase_fd
        Number of the file descriptor that gives the passphrase or PIN.
    credential
        Name of the systemd credential that holds it (LoadCredentialEncrypted=).
    """

    passphrase_fd: int | None = None
    credential: str | None = None


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """Where a PKCS#11 token keeps the key that wraps the master key.

    Parameters
    ----------
    pkcs11_module
        The token's library (a .so file).
    pkcs11_token
        The token's label.
    pkcs11_key
        Label of the AES key in it; made if it is not there.
    """

    pkcs11_module: Path | None = None
    pkcs11_token: str = ""
    pkcs11_key: str = "kokon"


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """Where the records are kept.

    Parameters
    ----------
    database
        URL of a PostgreSQL database, without a password, which others could read here: postgresql://HOST/NAME. Default:
        a file in the state directory (SQLite).
    database_file
        File with the URL, which may have a password then.
    """

    database: str | None = None
    database_file: Path | None = None


OPENING = Opening()
TOKEN = Token()
DATABASE = Database()


def asker(opening: Opening, *, twice: bool = False) -> Callable[[str], bytes]:
    """A function that gets the passphrase or PIN, which it is told the name of. `twice`: a new one is being chosen.

    Raises `UsageError` (`secret-sources`), and the function as `custody.inputs`.
    """
    from kokon.provisioning.custody.inputs import from_credential, from_descriptor, from_prompt

    if opening.passphrase_fd is not None and opening.credential is not None:
        raise UsageError("secret-sources", "--passphrase-fd and --credential exclude each other")

    def ask(what: str) -> bytes:
        if opening.passphrase_fd is not None:
            return from_descriptor(opening.passphrase_fd, what=what)
        if opening.credential is not None:
            return from_credential(opening.credential, os.environ, what=what)
        if not sys.stdin.isatty():
            raise UsageError(
                "custody-incomplete",
                f"the master key needs a {what}",
                hint="give it with --passphrase-fd or --credential",
            )
        return from_prompt(what=what, twice=twice)

    return ask


def state_of(directory: Path | None) -> Path:
    """The state directory that is meant."""
    from kokon.provisioning.client import state_directory

    return (directory or state_directory()).absolute()


def database_url(database: Database) -> str | None:
    """The URL that is meant; None if none was given. It is in no error.

    Raises `UsageError` (`database-url`, `password-exposed`, `input-...`).
    """
    from kokon.cli.inputs import read_input

    if database.database is not None and database.database_file is not None:
        raise UsageError("database-url", "--database and --database-file exclude each other")
    if database.database_file is not None:
        text = read_input(database.database_file, URL_LIMIT).decode("utf-8", "replace").strip()
        return _checked(text)[0]
    if database.database is None:
        return None
    text, password = _checked(database.database)
    if password:
        raise UsageError(
            "password-exposed",
            "the database's password is on the command line, where others on this machine can read it",
            hint="put the URL into a file of mode 0600 and name it with --database-file, or use ~/.pgpass",
        )
    return text


def _checked(text: str) -> tuple[str, bool]:
    """A URL, and whether it has a password."""
    try:
        parts = urlsplit(text)
        given = dict(parse_qsl(parts.query))
    except ValueError:
        parts, given = urlsplit(""), {}
    if parts.scheme not in ("postgresql", "postgres") or len(text) > URL_LIMIT:
        raise UsageError(
            "database-url", "this is no address of a PostgreSQL database", expected="postgresql://HOST/NAME"
        )
    return text, parts.password is not None or "password" in given


def described(settings: Settings) -> str:
    """Which database, without who comes with which password."""
    if not settings.database:
        return "sqlite"
    parts = urlsplit(settings.database)
    host = parts.hostname or dict(parse_qsl(parts.query)).get("host", "")
    port = f":{parts.port}" if parts.port else ""
    return f"postgresql {host}{port}{parts.path}"


def make_token_key(holder: Holder) -> None:
    """Make the key in the token, if the holder is one, unless it is there. Raises as `TokenHolder.make_key`."""
    from kokon.provisioning.custody.pkcs11 import TokenHolder

    if isinstance(holder, TokenHolder):
        try:
            holder.make_key()
        except UsageError as error:
            if error.code != "pkcs11-key-exists":
                raise


@contextlib.contextmanager
def opened_database(directory: Path, *, alone: bool = True, existing: bool = False) -> Iterator[Backend]:
    """The database of a state directory, while the context lasts.

    Raises `UsageError` (`state-empty`) if it must exist and does not, and as `read_settings` and `open_backend`.
    """
    from kokon.provisioning.database.engines import open_backend
    from kokon.provisioning.state import read_settings

    location = read_settings(directory).location(directory)
    if existing and isinstance(location, Path) and not location.exists():
        raise UsageError(
            "state-empty", "there is no database here", expected=location, hint="name the state directory with --state"
        )
    backend = open_backend(location, alone=alone)
    try:
        yield backend
    finally:
        backend.close()
