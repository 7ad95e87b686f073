"""JSON that stays JSON: a fuzzer's bytes choose where a genuine object is changed, and into what.

Random changes to the text would hardly ever parse, and the parser behind it would never be reached.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, Final

VALUES: Final[tuple[Any, ...]] = (
    None, True, -1, 0, 2**31, 2**64, 1.5, "", "x" * 300, "AAAA", "00" * 24, "=", "\u0000", [], {}, [[]], [0] * 5000,
    [256], [-1], [None], {"a": 1}, [{"svn": 999}], "2026-11-23T00:00:00Z", "9999-99-99T99:99:99Z",
)  # fmt: skip
"""What a leaf may become."""

Place = tuple[Any, Any]
"""An object or array, and the key or index of a member."""


def places(value: Any) -> Iterator[Place]:
    """Every member of every object and array below `value`; of long arrays the first few."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value[:4]) if isinstance(value, list) else ()
    for key, member in list(pairs):
        yield value, key
        yield from places(member)


def changed(genuine: Any, data: bytes) -> Any:
    """`genuine` after the changes that `data` spells, four bytes each: where (two), what, and how."""
    value = copy.deepcopy(genuine)
    for start in range(0, min(len(data) - 3, 64), 4):
        found = list(places(value))
        if not found:
            break
        holder, key = found[int.from_bytes(data[start : start + 2], "big") % len(found)]
        what, how = data[start + 2], data[start + 3]
        if how % 8 == 0:
            del holder[key]
        elif how % 8 == 1 and isinstance(holder, dict):
            holder[f"{key}{what}"] = copy.deepcopy(VALUES[what % len(VALUES)])
        elif how % 8 == 2 and isinstance(holder[key], str):
            text = holder[key]
            at = what * len(text) // 256
            holder[key] = text[:at] + chr(how) + text[at + 1 :]
        elif how % 8 == 3 and isinstance(holder[key], int):
            holder[key] = holder[key] ^ (1 << what % 70)
        else:
            holder[key] = copy.deepcopy(VALUES[what % len(VALUES)])
    return value


def structured(genuine: Any, parse: Callable[[Any], object]) -> Callable[[bytes], object]:
    """A target that feeds `parse` changed forms of `genuine`."""

    def target(data: bytes) -> object:
        return parse(changed(genuine, data))

    return target
