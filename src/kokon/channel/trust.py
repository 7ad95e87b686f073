"""Whom a user trusts: authors by public key, owners by their server's key, and simulated roots by fingerprint. Kept
in one JSON file.

Vendors' roots are pinned in the program (`kokon.tee.anchors`) and need no entry. Nothing gets in here on first
use: each entry is put by a command.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kokon.errors import HostError, MalformedError, UsageError
from kokon.image.ecdsa import key_id, load_public_key, public_pem
from kokon.tee.endorsements import Endorsements
from kokon.wire import Fields, parse_json, unhex

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FILE_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class UserTrust:
    """Authors' public keys (PEM), endorsements of hardware, and owners as fingerprints of their provisioning servers'
    keys (see `owner_fingerprint`); no owner at all means that none is asked for."""

    authors: tuple[str, ...] = ()
    endorsements: Endorsements = field(default_factory=Endorsements)
    owners: frozenset[str] = frozenset()

    def fingerprints(self) -> frozenset[str]:
        """The authors' keys as SHA-256 of their DER SubjectPublicKeyInfo, hex."""
        return frozenset(map(key_fingerprint, self.authors))

    def with_author(self, pem: str) -> UserTrust:
        """Also trust the author with this key. Raises `MalformedError` (`key-malformed`)."""
        pem = public_pem(load_public_key(pem))
        return self if pem in self.authors else replace(self, authors=(*self.authors, pem))

    def with_owner(self, fingerprint: str) -> UserTrust:
        """Also trust the owner whose server's key has this fingerprint, 64 hex digits. Raises `MalformedError`."""
        text = unhex(fingerprint, what="fingerprint of an owner", size=32).hex()
        return replace(self, owners=self.owners | {text})

    def with_simulated(self, fingerprint: str) -> UserTrust:
        """Also accept the simulated root with this fingerprint, 64 hex digits. Raises `MalformedError`."""
        text = unhex(fingerprint, what="fingerprint of a simulated root", size=32).hex()
        return replace(
            self,
            endorsements=replace(self.endorsements, accepted_simulated=self.endorsements.accepted_simulated | {text}),
        )


def key_fingerprint(pem: str) -> str:
    """SHA-256 of a key's DER SubjectPublicKeyInfo, hex. Raises `MalformedError` (`key-malformed`)."""
    return key_id(load_public_key(pem))


def owner_fingerprint(pem: str) -> str:
    """SHA-256 of the DER SubjectPublicKeyInfo of a provisioning server's certificate, hex: what stands for its owner,
    also when the certificate is renewed for the same key. Raises `MalformedError` (`owner-certificate-malformed`)."""
    try:
        key = x509.load_pem_x509_certificate(pem.encode()).public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError(
            "owner-certificate-malformed",
            "the provisioning server's certificate is not a PEM certificate",
            hint="the server keeps it as tls.pem in its state directory",
        ) from error
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def parse_trust(data: bytes) -> UserTrust:
    """The trust in a file's bytes. Raises `MalformedError`."""
    fields = Fields(parse_json(data, limit=FILE_LIMIT, what="trust file"), "trust file")
    fields.integer("version", low=1, high=1)
    trust = UserTrust()
    for pem in _texts(fields.array("authors", default=[])):
        trust = trust.with_author(pem)
    for fingerprint in _texts(fields.array("owners", default=[])):
        trust = trust.with_owner(fingerprint)
    for fingerprint in _texts(fields.array("simulated", default=[])):
        trust = trust.with_simulated(fingerprint)
    fields.finish()
    return trust


def _texts(values: list[Any]) -> list[str]:
    if not all(isinstance(value, str) for value in values):
        raise MalformedError("trust-malformed", "the trust file must hold texts")
    return values


def encode_trust(trust: UserTrust) -> bytes:
    """The file's bytes."""
    members = {
        "version": 1,
        "authors": list(trust.authors),
        "owners": sorted(trust.owners),
        "simulated": sorted(trust.endorsements.accepted_simulated),
    }
    return json.dumps(members, indent=2).encode() + b"\n"


def read_trust(path: Path) -> UserTrust:
    """The trust in the file `path`; none if there is no such file. Raises `MalformedError`, `HostError`
    (`trust-unreadable`)."""
    try:
        with path.open("rb") as file:
            return parse_trust(file.read(FILE_LIMIT + 1))
    except FileNotFoundError:
        return UserTrust()
    except OSError as error:
        raise HostError("trust-unreadable", f"cannot read {path}", found=error.strerror) from error


def write_trust(path: Path, trust: UserTrust) -> None:
    """Replace the file `path`, whole or not at all. Raises `HostError` (`trust-unwritable`)."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new.write_bytes(encode_trust(trust))
        new.replace(path)
    except OSError as error:
        raise HostError("trust-unwritable", f"cannot write {path}", found=error.strerror) from error


def read_author(path: Path) -> str:
    """An author's public key (PEM) from a file. Raises `UsageError` (`author-unreadable`), `MalformedError`."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT)
    except OSError as error:
        raise UsageError(
            "author-unreadable", f"cannot read the author's public key {path}", found=error.strerror
        ) from error
    return public_pem(load_public_key(data))


def read_owner(path: Path) -> str:
    """The fingerprint of an owner from a file with the provisioning server's certificate (PEM).

    Raises `UsageError` (`owner-certificate-unreadable`), `MalformedError` (`owner-certificate-malformed`).
    """
    try:
        with path.open("rb") as file:
            text = file.read(FILE_LIMIT).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "owner-certificate-unreadable", f"cannot read the provisioning server's certificate {path}", found=error
        ) from error
    return owner_fingerprint(text)


def gather_trust(
    path: Path, authors: Sequence[Path] = (), simulated: Sequence[str] = (), owners: Sequence[Path] = ()
) -> UserTrust:
    """The trust in the file `path` and, for this once, these authors' key files, simulated roots and owners'
    certificate files.

    Raises as `read_trust`, `read_author`, `read_owner` and `UserTrust.with_simulated` do.
    """
    trust = read_trust(path)
    for author in authors:
        trust = trust.with_author(read_author(author))
    for fingerprint in simulated:
        trust = trust.with_simulated(fingerprint)
    for owner in owners:
        trust = trust.with_owner(read_owner(owner))
    return trust
