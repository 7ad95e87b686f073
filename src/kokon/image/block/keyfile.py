"""The file with a block image's own key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kokon.errors import UsageError
from kokon.image.block.format import KEY_SIZE

if TYPE_CHECKING:
    from pathlib import Path


def read_image_key(path: Path) -> bytes:
    """The 32 bytes of a key file. Raises `UsageError` (`image-key-unusable`)."""
    try:
        with path.open("rb") as file:
            key = file.read(KEY_SIZE + 1)
    except OSError as error:
        raise UsageError("image-key-unusable", f"cannot read the image's key {path}", found=error.strerror) from error
    if len(key) != KEY_SIZE:
        raise UsageError(
            "image-key-unusable",
            f"{path} is not the key of a block image",
            expected=f"{KEY_SIZE} bytes",
            found="another size",
            hint=f"make one: head -c {KEY_SIZE} /dev/urandom > {path.name}",
        )
    return key
