"""Where a passphrase or a PIN comes from: a terminal, a file descriptor, or systemd's credentials. Never from the
command line or the environment, which other processes can read. [machine's edge: descriptors, files, a terminal]
"""

from __future__ import annotations

import getpass
import hmac
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kokon.errors import HostError, MalformedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

INPUT_LIMIT: Final = 1024
"""Bytes that a passphrase or PIN may have."""
CREDENTIALS: Final = "CREDENTIALS_DIRECTORY"
"""Systemd sets it to the directory of the unit's credentials (systemd.exec(5), LoadCredential=)."""
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")


def from_descriptor(descriptor: int, *, what: str = "passphrase") -> bytes:
    """All that `descriptor` gives until its end, without one line end; the descriptor stays open.

    Raises `UsageError` (`input-unreadable`), `MalformedError` (`input-empty`, `input-too-long`).
    """
    data = bytearray()
    try:
        while len(data) <= INPUT_LIMIT + 2 and (chunk := os.read(descriptor, INPUT_LIMIT + 3 - len(data))):
            data += chunk
    except OSError as error:
        raise UsageError("input-unreadable", f"the {what} cannot be read", found=error.strerror) from error
    return _bounded(bytes(data), what)


def from_credential(name: str, environment: Mapping[str, str], *, what: str = "passphrase") -> bytes:
    """The systemd credential `name`; `environment` is the process's, which names the directory only.

    Raises `UsageError` (`credential-missing`, `key-file-exposed`, `input-unreadable`), `MalformedError`
    (`input-empty`, `input-too-long`).
    """
    directory = environment.get(CREDENTIALS, "")
    if not _NAME.fullmatch(name) or not directory.startswith("/"):
        raise _no_credential(name, f"{CREDENTIALS} is not set" if _NAME.fullmatch(name) else "not a name")
    try:
        descriptor = os.open(Path(directory) / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise _no_credential(name, error.strerror) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise _no_credential(name, "not a file")
        if mode & 0o007:
            raise UsageError(
                "key-file-exposed",
                f"everyone on this machine can read the credential {name}",
                expected="mode 0400",
                found=f"mode {mode & 0o777:04o}",
            )
        return from_descriptor(descriptor, what=what)
    finally:
        os.close(descriptor)


def from_prompt(
    *,
    what: str = "passphrase",
    twice: bool = False,
    ask: Callable[[str], str] = getpass.getpass,
) -> bytes:
    """What a person types at the terminal, unseen, as UTF-8; `twice` for a new one.

    Raises `UsageError` (`input-differs`), `HostError` (`terminal-missing`), `MalformedError` (`input-empty`,
    `input-too-long`).
    """
    try:
        first = ask(f"{what}: ").encode()
        second = ask(f"{what} again: ").encode() if twice else first
    except (EOFError, OSError, UnicodeError) as error:
        raise HostError(
            "terminal-missing",
            f"the {what} cannot be asked for",
            found=type(error).__name__,
            hint="give it through a file descriptor or a systemd credential",
        ) from error
    if not hmac.compare_digest(first, second):
        raise UsageError("input-differs", f"the {what} was typed in two ways", hint="type it again")
    return _bounded(first, what)


def _bounded(data: bytes, what: str) -> bytes:
    """Without the one line end that editors and `echo` add."""
    data = data.removesuffix(b"\n").removesuffix(b"\r")
    if not data:
        raise MalformedError("input-empty", f"the {what} is empty")
    if len(data) > INPUT_LIMIT:
        raise MalformedError("input-too-long", f"the {what} is too long", expected=f"<= {INPUT_LIMIT} bytes")
    return data


def _no_credential(name: str, found: str | None) -> UsageError:
    return UsageError(
        "credential-missing",
        "there is no such systemd credential",
        expected=name[:128],
        found=found,
        hint="add LoadCredentialEncrypted= to the unit",
    )
