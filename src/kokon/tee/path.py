"""Certification paths: from a leaf through a pool of certificates to a root, with every reason. Pure.

The pool may hold anything in any order. Names only find candidates; what makes a path is signatures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

from kokon.tee.certificates import Certificate
from kokon.tee.evidence import Check, failed, passed

PATH_LIMIT: Final = 6
"""Certificates in a path; AWS has the longest with five."""
COPIES: Final = 16
"""Certificates for one name and key that are told apart by their own signatures."""


def build_path(leaf: Certificate, pool: Iterable[Certificate], now: datetime) -> tuple[Certificate, ...]:
    """The path from `leaf` to a self-issued certificate or as far as the pool reaches.

    Among certificates of the wanted name those that signed come first, and of these one that is valid at `now`: a root
    may have been issued twice for one key. If none signed, the first of that name is taken, so that the check that
    follows can say what is wrong.
    """
    path = [leaf]
    known = tuple(dict.fromkeys(pool))
    while not path[-1].self_issued and len(path) < PATH_LIMIT:
        child = path[-1]
        named = [candidate for candidate in known if candidate.subject == child.issuer and candidate not in path]
        if not named:
            break
        signed = [candidate for candidate in named if candidate.issued(child)]
        sound = _issued_themselves(signed, known)
        current = [candidate for candidate in sound if candidate.not_before <= now < candidate.not_after]
        path.append((current or sound or named)[0])
    return tuple(path)


def _issued_themselves(signed: list[Certificate], known: tuple[Certificate, ...]) -> list[Certificate]:
    """Of several certificates for the key that signed, those that were themselves signed by one at hand; all, if none
    was: an altered copy must not stand in the way of the genuine one."""
    if len(signed) < 2:
        return signed
    return [one for one in signed[:COPIES] if any(issuer.issued(one) for issuer in known)] or signed


def check_path(path: tuple[Certificate, ...], now: datetime) -> Iterator[Check]:
    """Signatures, authority, path lengths and validity of a path, leaf first. Whether its end is a root that is
    believed is `anchors.check_root`'s to say."""
    if not path[-1].self_issued:
        found = " <- ".join(certificate.name for certificate in path)
        yield failed("certificates", "chain-incomplete", expected="a path to a root", found=found)
    for child, parent in zip(path, (*path[1:], path[-1]), strict=True):
        if parent is not child or child.self_issued:
            yield _check_issued(child, parent)
    for depth, authority in enumerate(path[1:]):
        if not authority.authority or (authority.path_length is not None and authority.path_length < depth):
            yield failed("authority", "not-an-authority", expected="a CA certificate", found=authority.name)
    for certificate in path:
        yield check_validity(certificate, now)


def check_leaf(leaf: Certificate) -> Iterator[Check]:
    """The end of a path signs reports, not certificates."""
    if leaf.authority:
        yield failed("authority", "not-an-authority", expected="an end certificate", found=leaf.name)


def _check_issued(child: Certificate, parent: Certificate) -> Check:
    name = f"signature of {child.name}"
    if parent.issued(child):
        return passed(name, f"by {parent.name}")
    return failed(name, "chain-broken", expected=f"signed by {parent.name}", found="not signed by it")


def check_validity(certificate: Certificate, now: datetime) -> Check:
    """Whether `now` lies within the certificate's dates; the very end does not count as valid any more."""
    name = f"validity of {certificate.name}"
    if now < certificate.not_before:
        code, limit = "certificate-not-yet-valid", certificate.not_before
    elif now >= certificate.not_after:
        code, limit = "certificate-expired", certificate.not_after
    else:
        return passed(name, f"until {certificate.not_after:%Y-%m-%d}")
    return failed(name, code, expected=f"{limit:%Y-%m-%dT%H:%M:%SZ}", found=f"{now:%Y-%m-%dT%H:%M:%SZ}")
