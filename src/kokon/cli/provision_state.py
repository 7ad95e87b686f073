"""`kokon provision init|backup|restore|recover`: what is done with a state directory itself."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from kokon.cli.access import Source
from kokon.cli.custody import (
    DATABASE,
    OPENING,
    TOKEN,
    Custody,
    Database,
    Opening,
    Token,
    asker,
    database_url,
    described,
    make_token_key,
    opened_database,
    state_of,
)
from kokon.cli.output import emit, note
from kokon.errors import HostError, UsageError

if TYPE_CHECKING:
    from kokon.provisioning.custody.wrapped import HolderName
    from kokon.provisioning.database.engines import Backend
    from kokon.provisioning.state import Settings

MASTER_FILES = {"file": "master.key", "passphrase": "master.json", "pkcs11": "master.json", "enclave": "master.json"}


# -- init ----------------------------------------------------------------------------------------------------------


def init(
    *,
    state: Path | None = None,
    custody: Custody | None = None,
    token: Token = TOKEN,
    database: Database = DATABASE,
    opening: Opening = OPENING,
    json: bool = False,
) -> None:
    """Prepare a server's state directory: who holds the master key, and which database. Nothing that is there changes.

    Example: `kokon provision init --custody passphrase --database postgresql://db.internal/kokon`

    Not needed for a server that keeps everything in files: `kokon provision serve` does it. Of several replicas, one
    makes the master key; copy its master.key or master.json into the others' directories, then run this there too.

    Parameters
    ----------
    state
        State directory; default: provision in Kokon's home.
    custody
        Who holds the master key, which opens all else: a file of mode 0600 (the default), a passphrase, or a PKCS#11
        token.
    json
        Print JSON.
    """
    from kokon.provisioning.custody import vault
    from kokon.provisioning.state import SETTINGS, private_directory, read_settings, write_settings

    directory = state_of(state)
    present = vault.held_by(directory) if directory.exists() else None
    settings = _settings(read_settings(directory), token, database_url(database), known=(directory / SETTINGS).exists())
    name = custody or present or "file"
    if present is not None and present != name:
        raise _differs("the master key is held otherwise", present, name, "`kokon provision rotate --custody`")
    private_directory(directory)
    made = []
    if present is None:
        _make_master(directory, name, settings, opening)
        made.append(MASTER_FILES[name])
    if not (directory / SETTINGS).exists():
        write_settings(directory, settings)
        made.append(SETTINGS)
    answer = {"state": str(directory), "custody": name, "database": described(settings), "made": made}
    told = [f"state      {directory}", f"master key {name}", f"database   {answer['database']}"]
    told.append(f"made       {', '.join(made)}" if made else "nothing was made: all is there")
    emit(answer, "\n".join(told), json)
    if MASTER_FILES[name] in made:
        note(f"keep a copy of {directory / MASTER_FILES[name]} elsewhere: without it no backup can be opened")


def _settings(found: Settings, token: Token, url: str | None, *, known: bool) -> Settings:
    """The settings that are there, or those that were asked for if there are none."""
    wanted = found
    if url is not None:
        wanted = replace(wanted, database=url)
    if token.pkcs11_module is not None:
        module = str(token.pkcs11_module.absolute())
        wanted = replace(wanted, library=module, token=token.pkcs11_token, key=token.pkcs11_key)
    if known and wanted != found:
        was, now = (f"{described(one)}, token {one.token!r}, key {one.key!r}" for one in (found, wanted))
        raise _differs("the state directory has other settings", was, now, "edit settings.json while the server rests")
    return wanted


def _make_master(directory: Path, name: HolderName, settings: Settings, opening: Opening) -> None:
    from kokon.provisioning.custody import vault
    from kokon.provisioning.state import holder_of

    holder = holder_of(name, settings, asker(opening, twice=True))
    make_token_key(holder)
    vault.create(directory, holder)


def _differs(message: str, expected: str, found: str, hint: str) -> UsageError:
    return UsageError("state-differs", message, expected=expected, found=found, hint=hint)


# -- backup and restore --------------------------------------------------------------------------------------------


def backup(file: Source, /, *, state: Path | None = None, json: bool = False) -> None:
    """Write everything that the server keeps into one file, sealed as it is. The server may run meanwhile.

    Example: `kokon provision backup /backup/kokon-monday.backup`

    The master key is not in it: keep that apart, since both together open everything.

    Parameters
    ----------
    file
        Where it goes (mode 0600), must not be there; - for standard output.
    state
        State directory; default: provision in Kokon's home.
    json
        Print JSON; on stderr if the backup goes to standard output.
    """
    from kokon.provisioning.custody import vault
    from kokon.provisioning.database.backup import backup as write

    directory = state_of(state)
    with opened_database(directory, alone=False, existing=True) as backend, _sink(file) as sink:
        counted = _Counted(sink)
        rows = write(backend, cast("BinaryIO", counted))
    told = {"output": str(file), "rows": rows, "size": counted.size, "sha256": counted.digest.hexdigest()}
    text = f"{file}: {rows} rows, {counted.size} bytes, SHA-256 {told['sha256']}"
    if str(file) == "-":
        note(text)
    else:
        emit(told, text, json)
    master = MASTER_FILES[vault.held_by(directory) or "file"]
    note(
        f"the master key is not in it: keep a copy of {directory / master} apart from the backup; both open everything"
    )


def restore(file: Source, /, *, state: Path | None = None, forget: bool = False, json: bool = False) -> None:
    """Put a backup into an empty database: all of it, or nothing. The server must not run.

    Example: `kokon provision restore /backup/kokon-monday.backup --state /var/lib/kokon`

    Put the master key that belongs to it (master.key or master.json) into the state directory first; for PostgreSQL,
    or a master key in a token, then run `kokon provision init`.

    Parameters
    ----------
    file
        The backup; - for standard input.
    state
        State directory; default: provision in Kokon's home.
    forget
        Forget how long the logs were here: needed if the backup is older than what this directory's server did last.
        What happened since is lost, and so is the proof of it.
    json
        Print JSON.
    """
    from kokon.cli.inputs import opened_input
    from kokon.provisioning.client import ADMIN_FILE
    from kokon.provisioning.database.backup import restore as read
    from kokon.provisioning.state import MEMORY, private_directory

    directory = state_of(state)
    private_directory(directory)
    with opened_database(directory) as backend, opened_input(file) as source:
        rows = read(source, backend)
        masters = _masters(backend)
    if forget:
        (directory / MEMORY).unlink(missing_ok=True)
    found = _identity(directory)
    opens = found in masters
    emit({"rows": rows, "master": found, "opens": opens}, f"{rows} rows restored into {directory}", json)
    if not (directory / ADMIN_FILE).exists():
        note("tokens from before the backup are good; if none is left: kokon provision recover")
    if not opens:
        note(f"put the master key {' or '.join(masters)} into {directory} before the server starts; there is {found}")
    if not forget and (directory / MEMORY).exists():
        note("if the server refuses the logs as rolled back, and the backup is the latest there is: restore --forget")


def recover(*, state: Path | None = None, opening: Opening = OPENING, json: bool = False) -> None:
    """Make a new owner's token for a server whose admin.json is lost, such as after a restore. The server must not run.

    Example: `kokon provision recover --state /var/lib/kokon`

    The token goes into admin.json in the state directory; the log of the server tells of it.

    Parameters
    ----------
    state
        State directory; default: provision in Kokon's home.
    json
        Print JSON.
    """
    from kokon.provisioning.admin.principals import make_owner
    from kokon.provisioning.client import ADMIN_FILE
    from kokon.provisioning.core import Demands
    from kokon.provisioning.custody import vault
    from kokon.provisioning.replica import open_replica, write_access
    from kokon.provisioning.state import holder_of, read_settings

    directory = state_of(state)
    with opened_database(directory, existing=True):
        settings = read_settings(directory)
    holder = holder_of(vault.held_by(directory) or "file", settings, asker(opening))
    vault.open_master(directory, holder)
    now = datetime.now(UTC)
    with open_replica(directory, holder, settings, Demands(), lambda: datetime.now(UTC)) as replica:
        replica.fresh_token = replica.fresh_token or make_owner(replica.store, now, "recovered owner")
        write_access(replica, "https://127.0.0.1:8443")
    path = directory / ADMIN_FILE
    emit({"admin": str(path)}, f"a new owner's token is in {path}", json)
    note("the server puts its address there when it starts; `kokon token list` shows the owners from before")


class _Counted:
    """A file that counts and hashes what is written."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """As a file's."""
        self._sink.write(data)
        self.digest.update(data)
        self.size += len(data)
        return len(data)


def _masters(backend: Backend) -> list[str]:
    """The public names of the master keys that open a database's key ring."""
    from sqlalchemy import select

    from kokon.provisioning.database.rings import PREFIX
    from kokon.provisioning.database.schema import DOCUMENTS

    with backend.reading() as connection:
        names = connection.execute(select(DOCUMENTS.c.name)).scalars().all()
    return sorted(name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX))


def _identity(directory: Path) -> str:
    """The public name of the master key in a state directory, as far as it can be seen without opening it."""
    from kokon.provisioning.custody import vault
    from kokon.provisioning.custody.file import FileHolder
    from kokon.provisioning.custody.files import read_private
    from kokon.provisioning.custody.wrapped import WRAPPED_LIMIT, decode_wrapped

    held = vault.held_by(directory)
    if held is None:
        return "none"
    if held == "file":
        return vault.open_master(directory, FileHolder()).identity
    return decode_wrapped(read_private(directory / vault.WRAPPED, WRAPPED_LIMIT)).master


@contextlib.contextmanager
def _sink(path: Path) -> Iterator[BinaryIO]:
    """A new file of mode 0600, removed again if it does not get whole; or standard output."""
    if str(path) == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise UsageError("output-exists", f"{path} exists already, nothing is overwritten") from error
    except OSError as error:
        raise HostError("output-not-written", f"cannot write {path}", found=error.strerror) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise HostError("output-not-written", f"cannot write {path}", found=error.strerror) from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
