"""Unpacking Debian packages with merged /usr, without maintainer scripts and without what a guest never reads."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from kokon.errors import MalformedError
from kokon.guest.build.run import find_tool, run

_MERGED = ("bin", "sbin", "lib", "lib64")
_NEVER = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian", "usr/share/bug")


def merged(name: str) -> PurePosixPath:
    """A path inside a package, relative, with /bin, /sbin, /lib and /lib64 moved below /usr.

    Raises `MalformedError` (`deb-malformed`).
    """
    path = PurePosixPath(name.removeprefix("./"))
    if path.is_absolute() or ".." in path.parts:
        raise MalformedError("deb-malformed", "a package holds an unsafe name", found=name)
    return PurePosixPath("usr", path) if path.parts and path.parts[0] in _MERGED else path


def unpack_packages(files: Sequence[Path], target: Path, wanted: Callable[[str], bool] = lambda _: True) -> None:
    """Unpack packages over each other below `target`, of each only the merged paths that are `wanted`.

    Modes are kept, owners and times are not. Raises `MalformedError` (`deb-malformed`), `HostError`.
    """
    target.mkdir(parents=True, exist_ok=True)
    dpkg_deb = find_tool("dpkg-deb")
    for file in files:
        data = run([dpkg_deb, "--fsys-tarfile", file], what=f"dpkg-deb on {file.name}")
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
                for member in archive:
                    _unpack(archive, member, target, wanted)
        except tarfile.TarError as error:
            raise MalformedError("deb-malformed", f"{file.name} is no readable package", found=error) from error


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path, wanted: Callable[[str], bool]) -> None:
    name = merged(member.name)
    if member.isdir() or str(name).startswith(_NEVER) or not wanted(str(name)):
        return
    path = target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if member.issym():
        path.symlink_to(member.linkname)
    elif member.islnk():
        path.hardlink_to(target / merged(member.linkname))
    elif member.isreg():
        stream = archive.extractfile(member)
        path.write_bytes(b"" if stream is None else stream.read())
        path.chmod(0o755 if member.mode & 0o111 else 0o644)
    else:
        raise MalformedError("deb-malformed", "a package holds a special file", found=member.name)
