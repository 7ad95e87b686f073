"""Start the programs that a build needs, and say clearly what is missing when one is not there."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from kokon.errors import HostError

_PACKAGE_OF = {"apt-get": "apt", "apt-cache": "apt", "dpkg-deb": "dpkg"}
_TAIL = 400


def find_tool(name: str) -> str:
    """Path of a program of this host. Raises `HostError` (`guest-tool-missing`)."""
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path is None:
        package = _PACKAGE_OF.get(name, name)
        raise HostError(
            "guest-tool-missing",
            f"building the guest image needs {name}",
            expected=name,
            found="nothing in PATH",
            hint=f"apt-get install {package} (Debian or Ubuntu)",
        )
    return path


def run(
    arguments: Sequence[str | Path],
    *,
    what: str,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    given: bytes = b"",
) -> bytes:
    """Standard output of a program that must succeed; `what` says for people what it does.

    Raises `HostError` (`guest-build-failed`) with the end of what it printed.
    """
    try:
        done = subprocess.run(
            [str(argument) for argument in arguments],
            input=given,
            capture_output=True,
            check=False,
            env=None if environment is None else dict(environment),
            cwd=directory,
        )
    except OSError as error:
        raise HostError("guest-build-failed", f"{what} could not start", found=error) from error
    if done.returncode != 0:
        text = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
        raise HostError(
            "guest-build-failed", f"{what} ended with status {done.returncode}", found=text[-_TAIL:] or "no output"
        )
    return done.stdout
