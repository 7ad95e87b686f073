"""The plainest holder: the master key lies in clear in `master.key`, which only the server's user can read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kokon.errors import MalformedError
from kokon.provisioning.custody.master import KEY_SIZE, MasterKey

if TYPE_CHECKING:
    from kokon.provisioning.custody.wrapped import HolderName


@dataclass(frozen=True, slots=True)
class FileHolder:
    """Keeps the key as it is, 32 bytes: who can read the file or its backup has everything."""

    @property
    def name(self) -> HolderName:
        """`file`."""
        return "file"

    def wrap(self, master: MasterKey) -> bytes:
        """The key's 32 bytes."""
        return master.key

    def open(self, data: bytes) -> MasterKey:
        """The key. Raises `MalformedError` (`key-file-malformed`)."""
        if len(data) != KEY_SIZE:
            raise MalformedError(
                "key-file-malformed", "master.key is not a master key", expected="32 bytes", found=len(data)
            )
        return MasterKey(data)
