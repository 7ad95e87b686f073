"""What every benchmark is given: where to work, the guest image, how often to repeat, and whom to tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kokon.launch.image import GuestImage


@dataclass(frozen=True, slots=True)
class Setting:
    """`home` is a Kokon home with a guest image; `area` an empty directory that is removed afterwards.

    `quick` asks for one repetition and small inputs, to see that a benchmark works; `note` takes a line about progress.
    """

    home: Path
    area: Path
    guest: GuestImage
    accelerator: str
    quick: bool
    note: Callable[[str], None]

    @property
    def runs(self) -> int:
        """How often to repeat what is noisy; the median counts."""
        return 1 if self.quick else 3

    def directory(self, name: str) -> Path:
        """A new directory for one purpose."""
        path = self.area / name
        path.mkdir(parents=True, mode=0o700)
        return path
