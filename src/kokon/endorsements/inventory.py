"""What endorsements are, for people: kind, subject, what they are for, how long they hold. Nothing is verified."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509

from kokon.errors import MalformedError
from kokon.tee.certificates import Certificate, parse_certificate
from kokon.tee.endorsements import Endorsements, SignedDocument
from kokon.tee.intel.documents import parse_qe_identity, parse_tcb_info
from kokon.tee.intel.pck import SGX_EXTENSION, parse_pck_extension
from kokon.tee.revocation import parse_crl
from kokon.tee.snp.extensions import PRODUCT_NAME, parse_extensions

_EARLIEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Item:
    """One endorsement: `about` is the chip, platform or authority; `evaluation` Intel's TCB evaluation data number, 0
    where there is none; `digest` the SHA-256 of its bytes."""

    kind: str
    subject: str
    about: str
    begins: datetime
    ends: datetime | None
    digest: str
    evaluation: int = 0

    def state(self, now: datetime) -> str:
        """Either "valid", "expired", "not yet valid" or, for a list without an end, "no end"."""
        if now < self.begins:
            return "not yet valid"
        if self.ends is None:
            return "no end"
        return "valid" if now < self.ends else "expired"

    def as_dict(self, now: datetime) -> dict[str, Any]:
        """The item as plain JSON values."""
        return {
            "kind": self.kind,
            "subject": self.subject,
            "about": self.about,
            "not_before": _text(self.begins),
            "not_after": None if self.ends is None else _text(self.ends),
            "state": self.state(now),
            "evaluation": self.evaluation or None,
            "sha256": self.digest,
        }


def inventory(endorsements: Endorsements) -> tuple[Item, ...]:
    """All that parses, in a fixed order."""
    return tuple(sorted(_items(endorsements), key=lambda item: (item.kind, item.subject, item.about, item.digest)))


def _items(endorsements: Endorsements) -> Iterator[Item]:
    chains = (der for document in endorsements.documents for der in document.chain)
    for der in dict.fromkeys((*endorsements.certificates, *chains)):
        try:
            yield _certificate(parse_certificate(der))
        except MalformedError:
            continue
    for der in dict.fromkeys(endorsements.crls):
        try:
            yield _crl(der)
        except MalformedError:
            continue
    for document in dict.fromkeys(endorsements.documents):
        try:
            yield _document(document)
        except MalformedError:
            continue
    for key in endorsements.enrolled_keys:
        yield Item("enrolled key", key, "", _EARLIEST, None, key)


def _certificate(certificate: Certificate) -> Item:
    return Item(
        "certificate",
        certificate.name,
        _about(certificate),
        certificate.not_before,
        certificate.not_after,
        hashlib.sha256(certificate.der).hexdigest(),
    )


def _about(certificate: Certificate) -> str:
    try:
        if PRODUCT_NAME in certificate.unknown:
            said = parse_extensions(certificate.unknown)
            tcb = " ".join(f"{name}={number}" for name, number in said.tcb.items())
            owner = said.csp or (said.hardware_id or b"").hex()[:16]
            return f"{said.product} {owner} {tcb}"
        if SGX_EXTENSION in certificate.unknown:
            return f"fmspc {parse_pck_extension(certificate.unknown[SGX_EXTENSION]).fmspc.hex()}"
    except MalformedError:
        return "malformed extensions"
    if certificate.self_issued:
        return "root"
    return "authority" if certificate.authority else ""


def _crl(der: bytes) -> Item:
    crl = parse_crl(der)
    names = x509.load_der_x509_crl(der).issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    issuer = str(names[0].value) if names else "unnamed issuer"
    about = f"{len(crl.revoked)} revoked"
    return Item("revocation list", issuer, about, crl.this_update, crl.next_update, hashlib.sha256(der).hexdigest())


def _document(document: SignedDocument) -> Item:
    digest = hashlib.sha256(document.body).hexdigest()
    if document.kind == "tcb-info":
        info = parse_tcb_info(document.body)
        about = f"fmspc {info.fmspc.hex()}"
        return Item("TCB info", info.tee.upper(), about, info.issue_date, info.next_update, digest, info.evaluation)
    identity = parse_qe_identity(document.body)
    subject = identity.tee.upper()
    return Item("QE identity", subject, "", identity.issue_date, identity.next_update, digest, identity.evaluation)


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
