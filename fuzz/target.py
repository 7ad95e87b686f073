"""What a target is, and how one is made for JSON and for text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fuzz.structured import structured
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


def json_target(parse: Callable[[bytes], object], genuine: Any) -> Target:
    """Bytes as they are if the first one is odd, else a genuine object that the rest changes."""
    change = structured(genuine, lambda value: parse(json.dumps(value, separators=(",", ":")).encode()))
    text = json.dumps(genuine, separators=(",", ":")).encode()

    def run(data: bytes) -> object:
        return parse(data[1:]) if data[:1] and data[0] % 2 else change(data[1:])

    return Target(run, (b"\1" + text, *(b"\0" + seed for seed in CHANGES)))


def text_target(parse: Callable[[str], object], genuine: str) -> Target:
    """Text, whatever the bytes are."""
    return Target(lambda data: parse(data.decode("utf-8", "replace")), (genuine.encode(),))
