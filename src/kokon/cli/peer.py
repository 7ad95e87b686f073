"""The guest at the other end, and whom to believe about it: what `verify`, `connect` and `logs` share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

from kokon.cli.hardware import Hardware, completion, read_endorsements, read_policy

if TYPE_CHECKING:
    from kokon.channel.client import AttestedPeer


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """Whom to trust, for this once, beside those of `kokon trust`.

    Parameters
    ----------
    author
        File with the public key of an author to trust, for this once. May be repeated.
    accept_simulated
        Fingerprint of a simulated root to accept, for this once. Simulation protects nothing. May be repeated.
    owner
        Certificate (PEM) of an owner's provisioning server to trust, for this once. If any owner is trusted, only an
        owner whom you trust may have given the secrets. May be repeated.
    """

    author: list[Path] = field(default_factory=list)
    accept_simulated: list[str] = field(default_factory=list)
    owner: list[Path] = field(default_factory=list)


DEFAULT_TRUSTED = Trusted()


def peer_for(
    url: str, trusted: Trusted, hardware: Hardware, *, image: str | None = None, minutes: int = 10
) -> AttestedPeer:
    """The peer that the options describe; its verification is good for so many minutes.

    Raises `UsageError` for options that make no sense and files that cannot be read.
    """
    from datetime import timedelta

    from kokon.channel.client import AttestedPeer, image_digest
    from kokon.channel.trust import gather_trust
    from kokon.cli.output import kokon_home

    trust = gather_trust(kokon_home() / "trust.json", trusted.author, trusted.accept_simulated, trusted.owner)
    accepted = trust.endorsements.accepted_simulated
    return AttestedPeer(
        url,
        replace(trust, endorsements=trust.endorsements | read_endorsements(hardware)),
        image=None if image is None else image_digest(image),
        max_age=timedelta(minutes=minutes),
        policy=read_policy(hardware),
        complete=completion(hardware, accepted),
    )
