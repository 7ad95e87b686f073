"""What a target is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kokon.errors import KokonError

CHANGES = tuple(bytes([0, place, what, how]) for place in (1, 9, 40) for what in (3, 17) for how in (0, 1, 4))
"""Seeds for targets that change JSON."""


@dataclass(frozen=True, slots=True)
class Target:
    """A parser under test and the seeds it starts from."""

    parse: Callable[[bytes], object]
    seeds: tuple[bytes, ...] = ()

    def run(self, data: bytes) -> None:
        """Feed `data`; our own refusals are fine."""
        try:
            self.parse(data)
        except KokonError:
            return
