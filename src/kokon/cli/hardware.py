"""Options about hardware that `verify`, `connect`, `logs` and `provision serve` share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from kokon.appraisal.lacking import Completion
    from kokon.appraisal.policy import Policy
    from kokon.endorsements.sources import Source
    from kokon.tee.endorsements import Endorsements
    from kokon.tee.evidence import Claims


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What is demanded of hardware, and who says what about it.

    Parameters
    ----------
    endorsements
        Certificates (PEM or DER), revocation lists, Intel collateral, a bundle, or a folder of these. May be repeated.
        Nothing is fetched then; without, what is missing comes from the cache or from the chip vendor's service.
    offline
        Fetch nothing; use the cache.
    policy
        File with the policy that platforms must meet (docs/POLICY.md); the strict default otherwise.
    """

    endorsements: list[Path] = field(default_factory=list)
    offline: bool = False
    policy: Path | None = None


DEFAULT_HARDWARE = Hardware()


def read_endorsements(hardware: Hardware) -> Endorsements:
    """What was named on the command line. Raises `UsageError` (`endorsements-...`)."""
    from kokon.tee.endorsements import Endorsements

    if not hardware.endorsements:
        return Endorsements()
    from kokon.endorsements.files import load

    return load(hardware.endorsements)


def read_policy(hardware: Hardware) -> Policy:
    """The policy in the file, or the default. Raises `UsageError` (`input-...`, `policy-...`)."""
    from kokon.appraisal.policy import Policy

    if hardware.policy is None:
        return Policy()
    from kokon.appraisal.policy_file import POLICY_LIMIT, parse_policy
    from kokon.cli.inputs import read_input

    return parse_policy(read_input(hardware.policy, POLICY_LIMIT))


def completion(hardware: Hardware, accepted: frozenset[str]) -> Completion | None:
    """What gets the endorsements that are lacking, if any may be got; `accepted` are simulated roots.

    Nothing is opened or imported before something is lacking: simulation lacks nothing.
    """
    if hardware.endorsements:
        return None
    kept: list[Source] = []

    def complete(
        make: Callable[[Endorsements], Claims], endorsements: Endorsements, now: datetime
    ) -> tuple[Claims, Endorsements]:
        from kokon.endorsements import service

        if not kept:
            kept.append(_source(offline=hardware.offline, accepted=accepted))
        return service.complete(make, endorsements, now, kept[0])

    return complete


def _source(*, offline: bool, accepted: frozenset[str]) -> Source:
    from kokon.cli.output import note
    from kokon.endorsements.sources import CacheOnly, connect, default_cache

    def waiting(seconds: float) -> None:
        note(f"waiting {seconds:.0f} s for AMD's service, which answers one request in ten seconds")

    if offline:
        return CacheOnly(default_cache(), accepted=accepted)
    return connect(accepted=accepted, waiting=waiting)
