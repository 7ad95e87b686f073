"""The master key in the server's state directory: made, opened, given to another holder, replaced by a new key.

`master.key` (clear) or `master.json` (wrapped) is there, never both but in the middle of a change. A change writes the
new file, all or nothing, and then removes the old one; stopped in between, it is done again and goes on. Opening
refuses a directory with both, so that a key left in clear cannot stay unnoticed. Changes hold a lock; opening does not,
so that a read-only directory will do. [machine's edge: files]
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from typing import TYPE_CHECKING, Final

from kokon.errors import UntrustedError, UsageError
from kokon.provisioning.custody.files import read_private, remove_private, replace_private, unusable
from kokon.provisioning.custody.master import KEY_SIZE, MasterKey, Random, make_master
from kokon.provisioning.custody.wrapped import WRAPPED_LIMIT, decode_wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kokon.provisioning.custody.holder import Holder
    from kokon.provisioning.custody.wrapped import HolderName

CLEAR: Final = "master.key"
WRAPPED: Final = "master.json"
LOCK: Final = ".master.lock"
_LIMIT: Final = {CLEAR: KEY_SIZE, WRAPPED: WRAPPED_LIMIT}


def held_by(directory: Path) -> HolderName | None:
    """Who holds the master key that is in `directory`; None if none is. Nothing secret is opened.

    Raises `UsageError` (`master-ambiguous`), and as reading and decoding do.
    """
    clear, wrapped = _present(directory)
    if clear and wrapped:
        raise UsageError(
            "master-ambiguous",
            f"{CLEAR} and {WRAPPED} are both there",
            expected="one of them",
            hint="a change of the holder was stopped: do it again; or remove the one that does not belong there",
        )
    if wrapped:
        return decode_wrapped(_read(directory, WRAPPED)).holder
    return "file" if clear else None


def create(directory: Path, holder: Holder, random: Random = secrets.token_bytes) -> MasterKey:
    """A new master key, kept by `holder`; what is returned was read back.

    Raises `UsageError` (`master-exists`), `HostError` (`state-unusable`), and as the holder does.
    """
    with _changing(directory):
        return _create(directory, holder, random)


def open_master(directory: Path, holder: Holder) -> MasterKey:
    """The master key that `holder` keeps in `directory`.

    Raises `UsageError` (`master-missing`, `master-ambiguous`, `master-holder`, `key-file-exposed`), `HostError`
    (`state-unusable`), `MalformedError` (`key-file-malformed`), and as the holder does.
    """
    found = held_by(directory)
    if found is None:
        raise UsageError(
            "master-missing",
            "there is no master key in the state directory",
            expected=_file(holder),
            hint="`kokon provision init` makes one; a lost one comes back from a backup only",
        )
    return _open(directory, holder)


def ensure(directory: Path, holder: Holder, random: Random = secrets.token_bytes) -> MasterKey:
    """The master key in `directory`, made at first use; of servers that start at once, all get the same.

    Raises as `open_master` does.
    """
    if held_by(directory) is None:
        with _changing(directory):
            if held_by(directory) is None:
                return _create(directory, holder, random)
    return open_master(directory, holder)


def rewrap(directory: Path, old: Holder, new: Holder) -> MasterKey:
    """Give the master key that `old` keeps to `new`, and take it from `old`. The key stays the same.

    May be done again if it was stopped at any point. Raises as `open_master` does, and `UsageError`
    (`master-conflict`) if `new` has another key there already.
    """
    with _changing(directory):
        master = _open(directory, old)
        _check_target(directory, old, new, master)
        _keep(directory, new, master)
        if _file(new) != _file(old):
            _remove(directory, _file(old))
        return master


def replace(directory: Path, holder: Holder, old: MasterKey, new: MasterKey) -> None:
    """Put the master key `new` in the place of `old`, which must be the one that is there.

    Rotation, in this order: keep the key ring's document for `new` beside the one for `old`; call this; remove the
    document for `old`. At each moment the key in the directory opens a document. Raises as `open_master` does, and
    `UntrustedError` (`master-changed`).
    """
    with _changing(directory):
        found = open_master(directory, holder)
        if not found.same_as(old):
            raise UntrustedError(
                "master-changed",
                "another master key is there than the one to replace",
                expected=old.identity,
                found=found.identity,
                hint="somebody else rotated it meanwhile: start again",
            )
        _keep(directory, holder, new)


def _create(directory: Path, holder: Holder, random: Random) -> MasterKey:
    if any(_present(directory)):
        raise UsageError("master-exists", "the state directory has a master key", hint="use it, or another directory")
    master = make_master(random)
    _keep(directory, holder, master)
    return master


def _keep(directory: Path, holder: Holder, master: MasterKey) -> None:
    """Write `master`, once it is sure that the holder gives it back."""
    data = holder.wrap(master)
    if not holder.open(data).same_as(master):
        raise UntrustedError("master-damaged", "the holder does not give back the key that it got")
    replace_private(directory / _file(holder), data)


def _open(directory: Path, holder: Holder) -> MasterKey:
    """As `open_master`, also in the middle of a change."""
    clear, wrapped = _present(directory)
    found: HolderName | None = "file" if clear else None
    if wrapped and (holder.name != "file" or not clear):
        found = decode_wrapped(_read(directory, WRAPPED)).holder
    if found != holder.name:
        raise UsageError(
            "master-holder",
            "the master key is kept by another holder",
            expected=found or "none",
            found=holder.name,
            hint="give the holder that it has, or change the holder with `kokon provision rotate`",
        )
    return holder.open(_read(directory, _file(holder)))


def _check_target(directory: Path, old: Holder, new: Holder, master: MasterKey) -> None:
    """What `new` would overwrite must be left from the same change, not another server's key."""
    name = _file(new)
    if name == _file(old) or not all(_present(directory)):
        return
    data = _read(directory, name)
    identity = MasterKey(data).identity if name == CLEAR else decode_wrapped(data).master
    if identity != master.identity:
        raise UsageError(
            "master-conflict",
            f"{name} holds another master key",
            expected=master.identity,
            found=identity,
            hint=f"keep {name} elsewhere if it is needed, and remove it here",
        )


def _file(holder: Holder) -> str:
    return CLEAR if holder.name == "file" else WRAPPED


def _present(directory: Path) -> tuple[bool, bool]:
    """Whether the clear and the wrapped form are there. What cannot be looked at is not taken for absent."""
    found = []
    for name in (CLEAR, WRAPPED):
        try:
            (directory / name).lstat()
            found.append(True)
        except FileNotFoundError:
            found.append(False)
        except OSError as error:
            raise unusable(name, error) from error
    return found[0], found[1]


def _read(directory: Path, name: str) -> bytes:
    return read_private(directory / name, _LIMIT[name])


def _remove(directory: Path, name: str) -> None:
    remove_private(directory / name)


@contextlib.contextmanager
def _changing(directory: Path) -> Iterator[None]:
    """One change at a time, in this process and others. The directory is made and closed to others (0700)."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise unusable(directory.name, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
