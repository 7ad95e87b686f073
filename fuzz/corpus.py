"""First inputs for a target."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def seed(folder: Path, inputs: Iterable[bytes]) -> Path:
    """Write `inputs` into `folder`, which is made, each under its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    return folder
