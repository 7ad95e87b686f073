"""Paths from PCK and TCB signing certificates to a root, with revocation lists, and what is lacking. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, TypeVar

from kokon.errors import MalformedError
from kokon.tee.anchors import INTEL, check_root
from kokon.tee.certificates import Certificate, parse_certificate
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Check, Need
from kokon.tee.intel.known import certificates as known_certificates
from kokon.tee.path import build_path, check_leaf, check_path
from kokon.tee.revocation import RevocationList, check_revoked, parse_crl

_POOLS: Final = 16
_Parsed = TypeVar("_Parsed")


@dataclass(frozen=True, slots=True)
class Pool:
    """Certificates and lists at hand, parsed; `accepted` are fingerprints of simulated roots."""

    certificates: tuple[Certificate, ...]
    lists: tuple[RevocationList, ...]
    accepted: frozenset[str]

    def __or__(self, certificates: tuple[Certificate, ...]) -> Pool:
        """With these certificates after the others."""
        return Pool((*self.certificates, *certificates), self.lists, self.accepted)


@dataclass(frozen=True, slots=True)
class Chain:
    """A path, leaf first, and what was found on the way. `starts` and `ends` are the dates of all that was used."""

    path: tuple[Certificate, ...]
    checks: tuple[Check, ...]
    needs: tuple[Need, ...]
    starts: tuple[datetime, ...]
    ends: tuple[datetime, ...]

    @property
    def root(self) -> Certificate | None:
        """The self-issued certificate at the end, if there is one."""
        return self.path[-1] if self.path[-1].self_issued else None

    @property
    def holds(self) -> bool:
        """Nothing failed. Something may still be lacking."""
        return all(check.outcome != "failed" for check in self.checks)


def make_pool(endorsements: Endorsements) -> Pool:
    """Intel's built-in certificates, then those given, also beside documents; what does not parse is left out.

    The built-in ones come first so that a copy in a quote, which nobody signed for that quote, changes nothing.
    """
    chains = tuple(certificate for document in endorsements.documents for certificate in document.chain)
    certificates, lists = _parse_pool((*endorsements.certificates, *chains), endorsements.crls)
    return Pool(certificates, lists, endorsements.accepted_simulated)


@lru_cache(maxsize=_POOLS)
def _parse_pool(
    ders: tuple[bytes, ...], crls: tuple[bytes, ...]
) -> tuple[tuple[Certificate, ...], tuple[RevocationList, ...]]:
    known = dict.fromkeys((*known_certificates(), *ders))
    return tuple(_parse_each(known, parse_certificate)), tuple(_parse_each(crls, parse_crl))


def _parse_each(items: Iterable[bytes], parse: Callable[[bytes], _Parsed]) -> Iterator[_Parsed]:
    for item in items:
        try:
            yield parse(item)
        except MalformedError:
            continue


def check_chain(leaf: Certificate, pool: Pool, now: datetime) -> Chain:
    """The path from `leaf` and every check on it: signatures, dates, authority, the root, and revocation of each
    certificate by its issuer, of the root by itself. Lists are required."""
    path = build_path(leaf, pool.certificates, now)
    checks = [*check_path(path, now), *check_leaf(leaf)]
    if path[-1].self_issued:
        checks.append(check_root(path[-1], INTEL, pool.accepted))
    needs: list[Need] = []
    starts = [certificate.not_before for certificate in path]
    ends = [certificate.not_after for certificate in path]
    issuers = (*path[1:], path[-1]) if path[-1].self_issued else path[1:]
    for certificate, issuer in zip(path, issuers, strict=False):
        check = check_revoked(certificate, issuer, pool.lists, now, required=True)
        checks.append(check)
        if check.code == "crl-missing":
            needs.append(_need(issuer))
        for newest in _newest(issuer, pool.lists, now):
            starts.append(newest.this_update)
            ends.append(newest.next_update or newest.this_update)
    return Chain(path, tuple(checks), tuple(dict.fromkeys(needs)), tuple(starts), tuple(ends))


def _newest(issuer: Certificate, lists: tuple[RevocationList, ...], now: datetime) -> tuple[RevocationList, ...]:
    current = (crl for crl in lists if crl.current(now) and crl.signed_by(issuer))
    return tuple(sorted(current, key=lambda crl: crl.next_update or crl.this_update)[-1:])


def _need(issuer: Certificate) -> Need:
    """Which list Intel's service must be asked for: the root's, or that of one of the two PCK authorities."""
    if issuer.self_issued:
        return Need("root-crl")
    return Need("pck-crl", (("ca", "platform" if "Platform" in issuer.name else "processor"),))
