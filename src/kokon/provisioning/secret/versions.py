"""Which versions of a secret stay, and which one is released. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from kokon.errors import DeniedError, StaleError


class Version(Protocol):
    """One version that is kept."""

    @property
    def version(self) -> int:
        """Its number, from 1."""
        ...

    @property
    def expires(self) -> datetime | None:
        """When it ends (aware), None if it does not."""
        ...


def choose(kept: Sequence[Version], wanted: int | None, now: datetime, path: str) -> int:
    """The version to release at `now`: the `wanted` one, else the newest that has not expired; `kept` are oldest first.

    Raises `DeniedError` (`resource-unknown`), `StaleError` (`secret-expired`).
    """
    candidates = [one for one in kept if wanted is None or one.version == wanted]
    if not candidates:
        raise DeniedError(
            "resource-unknown",
            "there is no such resource",
            found=path[:400] if wanted is None else f"{path[:400]} version {wanted}",
            hint=f"put it there with `kokon secret put {path[:400]}`",
        )
    good = [one.version for one in candidates if one.expires is None or now < one.expires]
    if not good:
        last = candidates[-1]
        raise StaleError(
            "secret-expired",
            "the secret has expired",
            expected=f"before {last.expires.isoformat() if last.expires else ''}",
            found=now.isoformat(timespec="seconds"),
            hint="put a new version there, or rotate it",
        )
    return good[-1]


def surplus(kept: Sequence[Version], keep: int | None) -> tuple[int, ...]:
    """The versions to delete so that, with a new one, `keep` are left (None: all stay)."""
    if keep is None:
        return ()
    return tuple(one.version for one in kept[: max(0, len(kept) - keep + 1)])
