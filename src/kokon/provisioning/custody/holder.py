"""What all holders of a master key have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kokon.provisioning.custody.master import MasterKey
    from kokon.provisioning.custody.wrapped import HolderName


class Holder(Protocol):
    """Wraps a master key into the content of a file, and gets it out again.

    `FileHolder`, `PassphraseHolder`, `TokenHolder` and `EnclaveHolder` are those that there are.
    """

    @property
    def name(self) -> HolderName:
        """Which kind this is; stands in the file."""
        ...

    def wrap(self, master: MasterKey) -> bytes:
        """The content of the file that keeps `master`."""
        ...

    def open(self, data: bytes) -> MasterKey:
        """The master key out of the file's content; every failure is an error of `kokon.errors`."""
        ...
