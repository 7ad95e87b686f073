"""Archives read: the files of a tar by name, plain or compressed, through the links that `docker save` makes."""

from __future__ import annotations

import tarfile
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from kokon.errors import UsageError
from kokon.image.boundedtar import open_tar
from kokon.image.remote.layout import CHUNK, Layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO


class Archive:
    """The files of a tar by name. Raises `UsageError` (`image-unreadable`)."""

    def __init__(self, archive: tarfile.TarFile, members: Iterable[tarfile.TarInfo], path: Path) -> None:
        self._path = path
        self._archive = archive
        self._members = {str(PurePosixPath(member.name)): member for member in members}

    def _target(self, name: str) -> tarfile.TarInfo:
        """The member, through the links that older `docker save` uses for repeated layers."""
        member = self._members.get(name)
        for _ in range(8):
            if member is None or not (member.issym() or member.islnk()):
                break
            link = member.linkname if member.islnk() else f"{PurePosixPath(member.name).parent}/{member.linkname}"
            member = self._members.get(_normal(link))
        if member is None or not member.isfile():
            raise UsageError("image-unreadable", f"{self._path} lacks {name}", hint="save the image again")
        return member

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return name in self._members

    def open(self, name: str) -> BinaryIO:
        """The file for reading; one thread at a time may read from an archive."""
        file = self._archive.extractfile(self._target(name))
        if file is None:
            raise UsageError("image-unreadable", f"{self._path} lacks {name}", hint="save the image again")
        return file  # type: ignore[return-value]  # typeshed: IO[bytes]

    def size(self, name: str) -> int:
        """The file's size in bytes."""
        return self._target(name).size


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open the tar at `path`. Raises `UsageError` (`image-unreadable`), `MalformedError` (`image-malformed`)."""
    with ExitStack() as stack:
        try:
            archive, members = stack.enter_context(open_tar(path))
        except (OSError, tarfile.TarError) as error:
            raise unreadable(path, error) from error
        try:
            yield Archive(archive, members, path)
        except tarfile.TarError as error:
            raise unreadable(path, error) from error


def _normal(name: str) -> str:
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def unreadable(path: Path, error: Exception) -> UsageError:
    """The error that says why `path` cannot be read."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UsageError(
        "image-unreadable", f"cannot read {path}", found=reason, hint="check the path and the kind of source"
    )


class ArchivedLayout(Layout):
    """A layout within an archive, for reading. Several threads take turns."""

    def __init__(self, archive: Archive, path: Path) -> None:
        super().__init__(path)
        self.url = f"oci-archive:{path}"
        self._archive = archive
        self._turn = threading.Lock()

    def _exists(self, name: str) -> bool:
        return self._archive.has(name)

    def _chunks(self, name: str) -> Iterator[bytes]:
        with self._turn:
            file = self._archive.open(name)
        with file:
            while True:
                with self._turn:
                    chunk = file.read(CHUNK)
                if not chunk:
                    return
                yield chunk
