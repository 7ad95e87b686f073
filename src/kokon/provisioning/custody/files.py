"""Files that only the server's user can read: read, replaced as a whole, removed. [machine's edge: files]"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from typing import TYPE_CHECKING

from kokon.errors import HostError, MalformedError, UsageError

if TYPE_CHECKING:
    from pathlib import Path


def read_private(path: Path, limit: int) -> bytes:
    """The content of `path`, 1 to `limit` bytes. Its mode is that of the file that is read, not of one before it.

    Raises `HostError` (`state-unusable`), `UsageError` (`key-file-exposed`), `MalformedError` (`key-file-malformed`).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            _check_private(path, status)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(limit + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unusable(path.name, error) from error
    if not 0 < len(data) <= limit:
        raise MalformedError(
            "key-file-malformed", f"{path.name} is empty or too large", expected=f"1..{limit} bytes", found=len(data)
        )
    return data


def _check_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise MalformedError("key-file-malformed", f"{path.name} is not a file")
    if status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid()):
        raise UsageError(
            "key-file-exposed",
            f"{path.name} can be read or changed by others on this machine",
            expected="mode 0600, owned by the server's user",
            found=f"mode {status.st_mode & 0o777:04o}, user {status.st_uid}",
            hint="treat the key as known to others: replace it, or `chmod 600` it if you are sure that nobody read it",
        )


def replace_private(path: Path, data: bytes) -> None:
    """Put `data` in the place of `path` (mode 0600), all or nothing even if the machine stops in between; what an
    earlier attempt left is removed. Raises `HostError` (`state-unusable`)."""
    try:
        _remove_remains(path)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = path.with_name(os.path.basename(name))  # noqa: PTH119
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as error:
        raise unusable(path.name, error) from error


def remove_private(path: Path) -> None:
    """Remove `path` and what attempts to write it left; durable. Absent is as good as removed. The blocks of the disk
    may keep the content. Raises `HostError` (`state-unusable`)."""
    try:
        path.unlink(missing_ok=True)
        _remove_remains(path)
        sync_directory(path.parent)
    except OSError as error:
        raise unusable(path.name, error) from error


def sync_directory(directory: Path) -> None:
    """Make what was renamed or removed in `directory` durable. Raises `OSError`."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unusable(name: str, error: OSError) -> HostError:
    """The error for a state directory that the machine does not let us use."""
    return HostError(
        "state-unusable",
        f"cannot use {name} in the server's state directory",
        found=error.strerror,
        hint="give the directory to the user that runs the server, with mode 0700",
    )


def _remove_remains(path: Path) -> None:
    for entry in path.parent.glob(f".{path.name}.*"):
        with contextlib.suppress(FileNotFoundError):
            entry.unlink()
