"""Results that hold for all evidence that is alike (`Claims.alike`): made once, and used while nothing runs out.

Only results without a failure are kept. What is told apart by what it is, not by what it says: a workload or a policy
that was read anew is another one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from kokon.appraisal.result import AttestationResult
    from kokon.tee.evidence import Claims

LIMIT: Final = 4096
"""What is kept at most, some 2 KiB each; of more the oldest is given up."""

T = TypeVar("T")


class ByIdentity(Generic[T]):
    """Values by the objects that they were made of, which live as long; at most `limit`. Calls are safe from several
    threads."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._kept: dict[tuple[int, ...], tuple[tuple[object, ...], T]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, parts: tuple[object, ...]) -> T | None:
        """What was made of exactly these objects."""
        found = self._kept.get(tuple(map(id, parts)))
        return None if found is None else found[1]

    def put(self, parts: tuple[object, ...], value: T) -> T:
        """Keep `value`, which is given back."""
        while len(self._kept) >= self._limit:
            self._kept.pop(next(iter(self._kept), ()), None)
        self._kept[tuple(map(id, parts))] = (parts, value)
        return value


class Remembered:
    """Results of appraisal. Calls are safe from several threads."""

    def __init__(self) -> None:
        self._kept: ByIdentity[AttestationResult] = ByIdentity()

    def __len__(self) -> int:
        return len(self._kept)

    def result(
        self, claims: Claims, by: tuple[object, ...], now: datetime, make: Callable[[], AttestationResult]
    ) -> AttestationResult:
        """The result for `claims` at `now` (aware) of being held against `by`, immutable values that `make`, which
        makes it, looks at besides."""
        if claims.alike is None:
            return make()
        parts = (claims.alike, *by)
        kept = self._kept.get(parts)
        if kept is not None and _holds(kept, now):
            return replace(kept, claims=claims)
        result = make()
        if _lasts(result):
            self._kept.put(parts, result)
        return result


def _lasts(result: AttestationResult) -> bool:
    """Whether it is another's as well: nothing failed, and nothing was asked of the one report."""
    return not result.failures and result.reference is not None and result.reference.report_data is None


def _holds(result: AttestationResult, now: datetime) -> bool:
    """Whether its reference values are good still, of all that a result without failures rests on the one thing that
    runs out by itself."""
    end = None if result.reference is None else result.reference.not_after
    return end is None or now < end
