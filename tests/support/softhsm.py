"""Tokens of SoftHSM, the PKCS#11 library in software. A test says loudly when it is missing."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIBRARY = Path("/usr/lib/softhsm/libsofthsm2.so")


def missing() -> bool:
    """Whether SoftHSM (Debian's package softhsm2) is not there."""
    return not LIBRARY.exists() or not shutil.which("softhsm2-util")


@contextlib.contextmanager
def tokens(directory: Path, pin: bytes, *labels: str) -> Iterator[Any]:
    """The library with empty tokens of these labels, made before it looks, kept in `directory`."""
    import pkcs11

    (directory / "tokens").mkdir()
    configuration = directory / "softhsm2.conf"
    configuration.write_text(
        f"directories.tokendir = {directory}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(configuration)
    for label in labels:
        arguments = ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "1234", "--pin"]
        subprocess.run([*arguments, pin.decode()], check=True, capture_output=True, timeout=30)
    library = pkcs11.lib(str(LIBRARY))
    library.reinitialize()
    yield library
    library.finalize()
    if before is None:
        del os.environ["SOFTHSM2_CONF"]
    else:
        os.environ["SOFTHSM2_CONF"] = before
