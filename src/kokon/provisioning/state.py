"""The state directory of a server: its settings, the master key's custody, the database, what is remembered of it.

    settings.json   which database, who holds the master key (nothing secret, but for a password in a database's URL)
    master.key      the master key, or master.json: the master key wrapped (`custody`)
    provisioning.db the database, unless it is PostgreSQL (`database`)
    memory.json     of each log the size and root, so that an older database put in place is seen
    admin.json      address, certificate and token for the owner's commands on this machine
    owner-key.jwk   what the owner gives to authors

Replicas share a database; each has a directory of its own with the same master key.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kokon.errors import HostError, UsageError
from kokon.provisioning.custody import vault
from kokon.provisioning.custody.file import FileHolder
from kokon.provisioning.custody.files import replace_private
from kokon.provisioning.custody.passphrase import PassphraseHolder
from kokon.wire import Fields, parse_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from kokon.provisioning.custody.enclave import Derive
    from kokon.provisioning.custody.holder import Holder
    from kokon.provisioning.custody.wrapped import HolderName

SETTINGS = "settings.json"
DATABASE = "provisioning.db"
MEMORY = "memory.json"
SETTINGS_LIMIT = 16 << 10
OLD_DATABASE = "kokon.db"


@dataclass(frozen=True, slots=True)
class Settings:
    """What `init` decided. `database` is a URL (""): the file `provisioning.db`); `library`, `token` and `key` say
    where PKCS#11 keeps the key that wraps the master key."""

    database: str = field(default="", repr=False)
    library: str = ""
    token: str = ""
    key: str = ""

    def location(self, directory: Path) -> Path | str:
        """Where the database is."""
        return self.database or directory / DATABASE


def read_settings(directory: Path) -> Settings:
    """The settings in `directory`; the default ones if it has none.

    Raises `HostError` (`state-unusable`), `MalformedError` (those of `kokon.wire`), `UsageError` (`state-older`).
    """
    if os.path.lexists(directory / OLD_DATABASE):
        raise UsageError(
            "state-older",
            "this state directory is of a version whose state cannot be taken over",
            found=OLD_DATABASE,
            hint="use another directory, and put secrets and workloads there again",
        )
    path = directory / SETTINGS
    try:
        with path.open("rb") as file:
            data = file.read(SETTINGS_LIMIT + 1)
    except FileNotFoundError:
        return Settings()
    except OSError as error:
        raise HostError("state-unusable", f"cannot read {SETTINGS}", found=error.strerror) from error
    fields = Fields(parse_json(data, limit=SETTINGS_LIMIT, what=SETTINGS), SETTINGS)
    fields.integer("version", low=1, high=1)
    settings = Settings(
        database=fields.text("database", limit=4096),
        library=fields.text("library", limit=4096),
        token=fields.text("token", limit=256),
        key=fields.text("key", limit=256),
    )
    fields.finish()
    return settings


def write_settings(directory: Path, settings: Settings) -> None:
    """Keep the settings. Raises `HostError` (`state-unusable`)."""
    members = {
        "version": 1,
        "database": settings.database,
        "library": settings.library,
        "token": settings.token,
        "key": settings.key,
    }
    replace_private(directory / SETTINGS, json.dumps(members, indent=1).encode() + b"\n")


def private_directory(directory: Path) -> None:
    """Make `directory` if needed and close it to others (0700). Raises `HostError` (`state-unusable`)."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError as error:
        raise HostError(
            "state-unusable",
            "cannot use the server's state directory",
            found=error.strerror,
            hint="give the directory to the user that runs the server, with mode 0700",
        ) from error


def holder_of(
    name: HolderName, settings: Settings, secret: Callable[[str], bytes], derive: Derive | None = None
) -> Holder:
    """The holder of that name; `secret` is asked for the passphrase or PIN by what it is, `derive` is an enclave's
    (None: of the one that this is).

    Raises `UsageError` (`custody-incomplete`, `custody-no-enclave`), and as `secret` does.
    """
    if name == "passphrase":
        return PassphraseHolder(secret("passphrase"))
    if name == "pkcs11":
        from kokon.provisioning.custody.pkcs11 import TokenHolder

        if not (settings.library and settings.token and settings.key):
            raise UsageError("custody-incomplete", "a PKCS#11 token is named by library, token and key")
        return TokenHolder(Path(settings.library), settings.token, settings.key, secret("PIN"))
    if name == "enclave":
        from kokon.provisioning.custody.enclave import EnclaveHolder
        from kokon.provisioning.custody.here import this_enclave

        return EnclaveHolder(derive or this_enclave())
    return FileHolder()


def held_by(directory: Path) -> HolderName:
    """Who holds the master key in `directory`; `file` for a new one. Raises as `vault.held_by`."""
    return vault.held_by(directory) or "file"
