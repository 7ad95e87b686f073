"""Where a lacking endorsement may come from: the vendors' services through the cache, the cache alone, or nowhere."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from kokon.endorsements.cache import Cache, Entry, default_directory
from kokon.endorsements.examine import Examined, examine
from kokon.endorsements.http import Getter
from kokon.endorsements.kds import URL as KDS_URL
from kokon.endorsements.kds import Kds
from kokon.endorsements.limiter import INTERVAL, Limiter
from kokon.endorsements.needs import FETCHED
from kokon.endorsements.pcs import DOCUMENTS, Access, Choice, Pcs
from kokon.endorsements.pcs import URL as PCS_URL
from kokon.errors import StaleError, UnreachableError, UntrustedError
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Need

REFRESH: Final = timedelta(days=1)
"""After this time a list or document is asked for again, though it may still be in date."""

_LASTING: Final = frozenset({"vcek", "amd-chain"})
"""What these say does not change, so they are not asked for again while they are in date. PCKs are: which platform one
is for cannot be seen from an encrypted id, so a wrong one must not stay for ever."""

_RETRY: Final[dict[str, float]] = {
    "endorsement-not-found": 600.0,
    "endorsement-rate-limited": 60.0,
    "endorsement-service-refused": 300.0,
}
"""Seconds after which a failure is tried again; 30 for every other one."""

_SUPPORT: Final[dict[str, tuple[Need, ...]]] = {
    "root-crl": (Need("pck-crl", (("ca", "platform"),)), Need("pck-crl", (("ca", "processor"),)))
}


class Source(Protocol):
    """Where endorsements come from."""

    def fetch(self, need: Need, now: datetime) -> Endorsements:
        """What `need` names, in date at `now`.

        Raises `UnreachableError` if it cannot be had (and why), `UntrustedError` (`endorsement-wrong`,
        `endorsement-rolled-back`) or `StaleError` (`endorsement-stale`) if something else was given, and `UsageError`
        (`endorsement-parameters`) for a need whose parameters make no sense.
        """


class Client(Protocol):
    """A vendor's service."""

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of needs that it can be asked for."""

    def variant(self, need: Need) -> str:
        """What, beside the need, its answer depends on."""

    def fetch(self, need: Need) -> Endorsements:
        """Its answer, not examined."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old what is kept may be. After `refresh` it is asked for again, and used all the same if that fails; what is
    older than `limit` is never used. None: as long as it says itself (nextUpdate)."""

    refresh: timedelta | None = REFRESH
    limit: timedelta | None = None


class Nothing:
    """No source at all."""

    def fetch(self, need: Need, now: datetime) -> Endorsements:
        """Raises `UnreachableError` (`endorsement-offline`)."""
        raise UnreachableError(
            "endorsement-offline",
            f"nothing may be fetched: {need}",
            found=f"{now:%Y-%m-%dT%H:%M:%SZ}",
            hint="give it with --endorsements: kokon endorsements bundle, on a connected machine",
        )


class CacheOnly:
    """What earlier calls have kept."""

    def __init__(
        self,
        cache: Cache,
        *,
        choice: Choice | None = None,
        freshness: Freshness | None = None,
        accepted: frozenset[str] = frozenset(),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._shelf = Shelf(cache, freshness or Freshness(), accepted, clock)
        self._choice = choice or Choice()

    def fetch(self, need: Need, now: datetime) -> Endorsements:
        """As `Source`. Raises `UnreachableError` (`endorsement-not-cached`)."""
        if need.kind not in FETCHED:
            raise _not_offered(need)
        variant = str(self._choice) if need.kind in DOCUMENTS else ""
        kept = self._shelf.take(_key(need, variant), need, now, variant)
        if kept is None:
            raise UnreachableError(
                "endorsement-not-cached",
                f"not in the cache, or not in date: {need}",
                hint="on a connected machine: kokon endorsements fetch, or kokon endorsements bundle",
            )
        return kept.endorsements


@dataclass(frozen=True, slots=True)
class Kept:
    """Something of the cache that may be used; `fresh` if there is no need to ask for it again yet."""

    endorsements: Endorsements
    fresh: bool


@dataclass(frozen=True, slots=True)
class Shelf:
    """The cache as far as it may be used: examined, fresh enough, and not older than what was seen before."""

    cache: Cache
    freshness: Freshness
    accepted: frozenset[str]
    clock: Callable[[], float]

    def take(self, key: str, need: Need, now: datetime, variant: str) -> Kept | None:
        """What is kept for `key`, if it may be used at `now`."""
        entry = self.cache.get(key)
        if entry is None:
            return None
        age = timedelta(seconds=max(self.clock() - entry.fetched, 0))
        limit, refresh = self.freshness.limit, self.freshness.refresh
        if limit is not None and age > limit and need.kind not in _LASTING:
            return None
        try:
            found = self.admit(need, entry, now, variant)
        except (UntrustedError, StaleError):
            return None
        return Kept(found, need.kind in _LASTING or refresh is None or age <= refresh)

    def admit(self, need: Need, entry: Entry, now: datetime, variant: str) -> Endorsements:
        """What `entry` holds, with the lowest number that is believed now. Raises what `examine` raises, and
        `UntrustedError` (`endorsement-rolled-back`)."""
        examined = examine(need, entry.endorsements, now, accepted=self.accepted)
        return self.level(need, entry.endorsements, examined, variant)

    def level(self, need: Need, found: Endorsements, examined: Examined, variant: str) -> Endorsements:
        """`found` with the highest TCB evaluation data number that was seen for its TEE under its root; that of
        `found` must not be lower. Numbers of `early` documents say nothing about `standard` ones."""
        if not found.documents:
            return found
        name = f"{dict(need.parameters).get('tee', '')} {variant} {examined.root}"
        floor = self.cache.floor(name)
        if examined.evaluation < floor:
            raise UntrustedError(
                "endorsement-rolled-back",
                f"what was given for {need} is older than what was seen before",
                expected=f"TCB evaluation data number >= {floor}",
                found=examined.evaluation,
                hint="somebody holds newer knowledge of weaknesses back; or Intel's cache (PCCS) is behind",
            )
        self.cache.raise_floor(name, min(examined.evaluation, 2**31 - 1))
        return replace(found, minimum_evaluation=min(examined.evaluation, 2**31 - 1))


class Online:
    """The vendors' services, through the cache: each thing is asked for once, by one process, and then kept.

    `accepted` are fingerprints of simulated roots; answers under any other root than those and the vendors' are
    refused. `again` asks even for what is fresh or failed a moment ago.
    """

    def __init__(
        self,
        clients: tuple[Client, ...],
        cache: Cache,
        *,
        freshness: Freshness | None = None,
        accepted: frozenset[str] = frozenset(),
        again: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clients = {kind: client for client in clients for kind in client.kinds}
        self._shelf = Shelf(cache, freshness or Freshness(), accepted, clock)
        self._cache = cache
        self._again = again
        self._clock = clock
        self._done: set[str] = set()

    @property
    def problem(self) -> str | None:
        """Why the cache could not keep something; None if it could."""
        return self._cache.problem

    def fetch(self, need: Need, now: datetime) -> Endorsements:
        """As `Source`. Raises also what `Getter` raises, and `UnreachableError` (`endorsement-not-offered`)."""
        client = self._clients.get(need.kind)
        if client is None:
            raise _not_offered(need)
        variant = client.variant(need)
        key = _key(need, variant)
        kept = self._ready(key, need, now, variant)
        if kept is not None and kept.fresh:
            return kept.endorsements
        with self._cache.lock(key):
            kept = self._ready(key, need, now, variant) or kept
            if kept is not None and kept.fresh:
                return kept.endorsements
            try:
                return self._ask(client, key, need, now)
            except (UnreachableError, UntrustedError, StaleError):
                if kept is None:
                    raise
                return kept.endorsements

    def _ready(self, key: str, need: Need, now: datetime, variant: str) -> Kept | None:
        """What is kept; raises the error of a failure that was a moment ago, if there is nothing to use instead."""
        if self._again and key not in self._done:
            return None
        kept = self._shelf.take(key, need, now, variant)
        failure = None if kept is not None and kept.fresh else self._cache.failure(key)
        if failure is None:
            return kept
        if kept is None:
            raise failure
        return Kept(kept.endorsements, fresh=True)

    def _ask(self, client: Client, key: str, need: Need, now: datetime) -> Endorsements:
        self._done.add(key)
        try:
            found = client.fetch(need)
            found, examined = self._examine(need, found, now)
            leveled = self._shelf.level(need, found, examined, client.variant(need))
        except (UnreachableError, UntrustedError) as error:
            # Not what is stale: it may hold at another time than the one that was asked for.
            self._cache.put_failure(key, error, _RETRY.get(error.code, 30.0))
            raise
        self._cache.put(key, found)
        return leveled

    def _examine(self, need: Need, found: Endorsements, now: datetime) -> tuple[Endorsements, Examined]:
        """Examine an answer; if its issuer is not known, with the chain that the same service gives."""
        accepted = self._shelf.accepted
        try:
            return found, examine(need, found, now, accepted=accepted)
        except UntrustedError as error:
            reason: UntrustedError | StaleError = error
        for other in _support(need):
            try:
                chain = self.fetch(other, now).certificates
            except (UnreachableError, UntrustedError, StaleError):
                continue
            together = replace(found, certificates=(*found.certificates, *chain))
            try:
                return together, examine(need, together, now, accepted=accepted)
            except (UntrustedError, StaleError) as error:
                reason = error
        raise reason


def default_cache() -> Cache:
    """The cache in Kokon's home."""
    return Cache(default_directory())


def connect(
    directory: Path | None = None,
    *,
    kds: str | None = None,
    pcs: str | None = None,
    choice: Choice | None = None,
    freshness: Freshness | None = None,
    accepted: frozenset[str] = frozenset(),
    again: bool = False,
    getter: Getter | None = None,
    interval: float = INTERVAL,
    waiting: Callable[[float], None] | None = None,
) -> Online:
    """The vendors' services with the cache in `directory` (default: in Kokon's home).

    `kds` and `pcs` are other places to ask; default: $KOKON_KDS_URL and $KOKON_PCS_URL, else the vendors' own.
    $KOKON_PCS_KEY is the subscription key that Intel wants for PCK certificates. `waiting` is told of long waits for
    one's turn at AMD. Raises `UsageError` (`endorsement-url`).
    """
    cache = Cache(directory or default_directory())
    getter = getter or Getter()
    with contextlib.suppress(OSError):
        cache.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    limiter = Limiter(cache.directory / "kds-turn", interval, waiting=waiting)
    access = Access(pcs or os.environ.get("KOKON_PCS_URL") or PCS_URL, os.environ.get("KOKON_PCS_KEY", ""))
    clients = (
        Kds(getter, limiter, kds or os.environ.get("KOKON_KDS_URL") or KDS_URL),
        Pcs(getter, access, choice),
    )
    return Online(clients, cache, freshness=freshness, accepted=accepted, again=again)


def _not_offered(need: Need) -> UnreachableError:
    return UnreachableError(
        "endorsement-not-offered",
        f"no service can be asked for: {need}",
        expected=", ".join(sorted(FETCHED)),
        found=need.kind,
        hint="only the owner of the platform or of the workload has it",
    )


def _key(need: Need, variant: str) -> str:
    return f"{need} {variant}".strip()


def _support(need: Need) -> tuple[Need, ...]:
    if need.kind in ("vcek", "amd-crl"):
        line = dict(need.parameters).get("product", "")
        return (Need("amd-chain", (("kind", "vcek"), ("product", line))),)
    return _SUPPORT.get(need.kind, ())
