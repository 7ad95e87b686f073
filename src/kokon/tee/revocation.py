"""Certificate revocation lists (RFC 5280, section 5): parsing, and whether a path holds a revoked certificate. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID, ObjectIdentifier

from kokon.errors import MalformedError
from kokon.tee.certificates import REMEMBERED, Certificate, check_unsigned_parts, verify_signature
from kokon.tee.evidence import Check, failed, not_checked, passed

CRL_LIMIT: Final = 8 << 20
ENTRIES_LIMIT: Final = 200_000
LISTS_REMEMBERED: Final = 32
"""Vendors have a dozen lists; each may be large."""
_UNDERSTOOD: Final = (ExtensionOID.CRL_NUMBER, ExtensionOID.AUTHORITY_KEY_IDENTIFIER)


@dataclass(frozen=True, slots=True, eq=False)
class RevocationList:
    """One list. `issuer` is DER; `next_update` None if the list names no end; `revoked` holds serial numbers."""

    der: bytes
    issuer: bytes
    this_update: datetime
    next_update: datetime | None
    revoked: frozenset[int]
    algorithm: ObjectIdentifier
    signed: bytes
    signature: bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RevocationList) and self.der == other.der

    def __hash__(self) -> int:
        return hash(self.der)

    def current(self, now: datetime) -> bool:
        """True if `now` lies within the list's dates; a list without an end is never current."""
        return self.next_update is not None and self.this_update <= now < self.next_update

    def signed_by(self, issuer: Certificate) -> bool:
        """True if `issuer` may sign lists and signed this one."""
        return issuer.signs_lists and issuer.subject == self.issuer and _signed(issuer, self)


def parse_crl(der: bytes) -> RevocationList:
    """One DER list of at most 8 MiB. Raises `MalformedError` (`crl-malformed`).

    Delta lists and lists for a part of the certificates only (critical extensions) are refused.
    """
    if len(der) > CRL_LIMIT:
        raise MalformedError(
            "crl-malformed", "a revocation list is too large", expected=f"<= {CRL_LIMIT}", found=len(der)
        )
    try:
        return _parse(der)
    except (
        ValueError,
        TypeError,
        IndexError,
        OverflowError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise MalformedError("crl-malformed", "a revocation list does not parse", found=error) from error


@lru_cache(maxsize=LISTS_REMEMBERED)
def _parse(der: bytes) -> RevocationList:
    crl = x509.load_der_x509_crl(der)
    if crl.public_bytes(Encoding.DER) != der:
        raise ValueError("bytes outside the list")
    check_unsigned_parts(der, version=False)
    for extension in crl.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise ValueError(f"critical extension {extension.oid.dotted_string}")
    serials: set[int] = set()
    for entry in crl:
        if len(serials) > ENTRIES_LIMIT:
            raise ValueError("too many entries")
        serials.add(entry.serial_number)
    return RevocationList(
        der=der,
        issuer=crl.issuer.public_bytes(),
        this_update=crl.last_update_utc,
        next_update=crl.next_update_utc,
        revoked=frozenset(serials),
        algorithm=crl.signature_algorithm_oid,
        signed=crl.tbs_certlist_bytes,
        signature=crl.signature,
    )


@lru_cache(maxsize=REMEMBERED)
def _signed(issuer: Certificate, crl: RevocationList) -> bool:
    return verify_signature(issuer.key, crl.algorithm, crl.signature, crl.signed)


def check_revoked(
    subject: Certificate, issuer: Certificate, lists: Iterable[RevocationList], now: datetime, *, required: bool
) -> Check:
    """Whether `subject` stands on a list of its issuer.

    `passed` only by a current, signed list. A certificate on any signed list, even an old one, stays revoked. If
    there are lists but none is current, that is a failure when a list is `required`; if there is none at all the check
    is `not-checked` with the code `crl-missing`, and the caller says what is needed.
    """
    name = f"revocation of {subject.name}"
    named = [crl for crl in lists if crl.issuer == issuer.subject]
    signed = [crl for crl in named if crl.signed_by(issuer)]
    if any(subject.serial in crl.revoked for crl in signed):
        return failed(
            name,
            "certificate-revoked",
            expected="not on a revocation list",
            found=f"serial {subject.serial:#x}, revoked by {issuer.name}",
            hint="treat what this certificate signed as forged",
        )
    if any(crl.current(now) for crl in signed):
        return passed(name, f"not on the list of {issuer.name}")
    if not named:
        return not_checked(name, "crl-missing", f"no revocation list of {issuer.name} was given")
    if not signed:
        return failed(name, "crl-untrusted", expected=f"a list signed by {issuer.name}", found="another signature")
    newest = max(signed, key=lambda crl: crl.next_update or datetime.min.replace(tzinfo=UTC))
    end = "no end" if newest.next_update is None else f"{newest.next_update:%Y-%m-%dT%H:%M:%SZ}"
    span = f"from {newest.this_update:%Y-%m-%dT%H:%M:%SZ} to {end}"
    if required:
        return failed(name, "crl-expired", expected=f"{now:%Y-%m-%dT%H:%M:%SZ} within it", found=span)
    return not_checked(name, "crl-expired", "a newer revocation list is needed", found=span)


def check_path_revoked(
    path: tuple[Certificate, ...], lists: Iterable[RevocationList], now: datetime, *, required: bool
) -> Iterator[Check]:
    """`check_revoked` for each certificate of a path, leaf first, by its successor; the root by nobody."""
    known = tuple(lists)
    for subject, issuer in pairwise(path):
        yield check_revoked(subject, issuer, known, now, required=required)
