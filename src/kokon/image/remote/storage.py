"""Images in the storage of Podman (`containers-storage:NAME`) and Docker (`docker-daemon:NAME`), by their own tools.

`podman save` and `podman load` speak OCI archives, `docker save` and `docker load` Docker archives. Their storage is
never touched behind their back. What they need (a daemon, rights) is theirs to say: their last words are quoted.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from kokon.errors import HostError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

PODMAN = "containers-storage"
DOCKER = "docker-daemon"
_TOOLS = {PODMAN: "podman", DOCKER: "docker"}
_FORMAT = {PODMAN: ("--format", "oci-archive"), DOCKER: ()}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}")


def save(kind: str, name: str, file: Path) -> None:
    """Write image `name` of that storage to `file`, which must not be there yet.

    Raises `UsageError` (`reference-malformed`), `HostError` (`storage-tool-missing`, `storage-tool-failed`).
    """
    _run(kind, "save", *_FORMAT[kind], "--output", str(file), check_name(name))


def load(kind: str, file: Path) -> None:
    """Put the images of the archive `file` into that storage. Raises as `save` does."""
    _run(kind, "load", "--quiet", "--input", str(file))


def check_name(name: str) -> str:
    """`name` itself if an image in a storage may be called so: it goes into a command line."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            "reference-malformed", "not the name of an image", expected="NAME[:TAG]", found=repr(name[:200])
        )
    return name


def _run(kind: str, *arguments: str) -> None:
    tool = _TOOLS[kind]
    program = shutil.which(tool)
    if program is None:
        raise HostError(
            "storage-tool-missing", f"{tool} is not there", hint=f"install {tool}, or give an archive instead"
        )
    done = subprocess.run([program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        raise HostError(
            "storage-tool-failed",
            f"{tool} {arguments[0]} fails",
            found=done.stderr.decode(errors="replace").strip()[-400:] or f"exit status {done.returncode}",
            hint=f"try the image's name with: {tool} images",
        )
