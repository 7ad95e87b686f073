"""Endorsements examined for themselves: is this certificate, revocation list or collateral the vendor's? Pure.

The same questions that are asked of evidence, with the same answers: a chain to a pinned root, dates, revocation. The
claims say nothing about any workload.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from kokon.errors import MalformedError
from kokon.tee.anchors import VENDORS, check_root, is_simulated
from kokon.tee.certificates import Certificate, parse_certificate
from kokon.tee.endorsements import Endorsements, SignedDocument
from kokon.tee.evidence import Check, Claims, Need, canonical_digest, failed, not_checked, passed
from kokon.tee.path import build_path, check_path
from kokon.tee.revocation import RevocationList, check_path_revoked, parse_crl

SUBJECTS_LIMIT: Final = 256
"""Certificates, lists and documents that are verified together; the pool for each holds all the others."""


def verify_certificate(der: bytes, endorsements: Endorsements, now: datetime) -> Claims:
    """Whether a certificate leads to a vendor's pinned root, is in date, and stands on no list that was given.

    Raises `MalformedError` (`certificate-malformed`).
    """
    subject = parse_certificate(der)
    path = build_path(subject, pool(endorsements), now)
    details = {
        "subject": subject.name,
        "issuer": path[1].name if len(path) > 1 else subject.name,
        "serial": hex(subject.serial),
        "not_before": f"{subject.not_before:%Y-%m-%dT%H:%M:%SZ}",
        "not_after": f"{subject.not_after:%Y-%m-%dT%H:%M:%SZ}",
        "spki_sha256": subject.fingerprint,
    }
    canonical = canonical_digest("certificate", subject.signed, path[-1].spki)
    checks = _check_path(path, endorsements, now)
    return _claims("certificate", path, endorsements, checks, details, canonical)


def verify_crl(der: bytes, endorsements: Endorsements, now: datetime) -> Claims:
    """Whether a revocation list is signed by a vendor's authority and current.

    Raises `MalformedError` (`crl-malformed`).
    """
    crl = parse_crl(der)
    details: dict[str, Any] = {
        "this_update": f"{crl.this_update:%Y-%m-%dT%H:%M:%SZ}",
        "next_update": None if crl.next_update is None else f"{crl.next_update:%Y-%m-%dT%H:%M:%SZ}",
        "revoked": [hex(serial) for serial in sorted(crl.revoked)[:1000]],
    }
    named = [candidate for candidate in pool(endorsements) if candidate.subject == crl.issuer]
    signers = [candidate for candidate in named if crl.signed_by(candidate)]
    if not named:
        missing = not_checked("signature of the list", "crl-issuer-missing", "the issuer's certificate was not given")
        need = (Need("issuer", (("list", hashlib.sha256(der).hexdigest()),)),)
        return _claims("crl", (), endorsements, (missing, _check_dates(crl, now)), details, b"", need)
    path = build_path((signers or named)[0], pool(endorsements), now)
    canonical = canonical_digest("crl", crl.signed, path[0].spki)
    signature = (
        passed("signature of the list", f"by {path[0].name}")
        if signers
        else failed("signature of the list", "crl-untrusted", expected=f"by {path[0].name}", found="another")
    )
    checks = (signature, _check_dates(crl, now), *_check_path(path, endorsements, now))
    return _claims("crl", path, endorsements, checks, details, canonical)


def verify_document(document: SignedDocument, endorsements: Endorsements, now: datetime) -> Claims:
    """Whether Intel signed a TCB info or enclave identity, and it is in date. Revocation lists are looked at if given.

    Raises `MalformedError` (as `intel.documents` does).
    """
    from kokon.tee.intel.chain import make_pool
    from kokon.tee.intel.documents import parse_qe_identity, parse_tcb_info
    from kokon.tee.intel.issued import Issued, find_qe_identity, find_tcb_info

    given, certificates = replace(endorsements, documents=(document,)), make_pool(endorsements)
    details: dict[str, Any]
    issued: Issued[Any]
    if document.kind == "tcb-info":
        info = parse_tcb_info(document.body)
        issued = find_tcb_info(info.tee, info.fmspc, certificates, None, given, now)
        details = {"tee": info.tee, "fmspc": info.fmspc.hex(), "tcb_evaluation_data_number": info.evaluation}
    else:
        identity = parse_qe_identity(document.body)
        issued = find_qe_identity(identity.tee, certificates, None, given, now)
        details = {"tee": identity.tee, "tcb_evaluation_data_number": identity.evaluation}
    needs = tuple(replace(need, required=False) for need in issued.needs)
    canonical = canonical_digest(document.kind, document.body, b"")
    return _claims(document.kind, issued.path, endorsements, issued.checks, details, canonical, needs)


def verify_all(subject: Endorsements, endorsements: Endorsements, now: datetime) -> Claims:
    """Every certificate, list and document of `subject`, which also help to verify one another.

    Raises `MalformedError` for one that does not parse, or if there is nothing in it (`endorsements-empty`).
    """
    count = len(subject.documents) + len(subject.crls) + len(subject.certificates)
    if count > SUBJECTS_LIMIT:
        raise MalformedError(
            "endorsements-crowded", "too much to verify at once", expected=f"<= {SUBJECTS_LIMIT}", found=count
        )
    together = endorsements | subject
    made = [verify_document(document, together, now) for document in subject.documents]
    made += [verify_crl(der, together, now) for der in subject.crls]
    made += [verify_certificate(der, together, now) for der in subject.certificates]
    if not made:
        raise MalformedError("endorsements-empty", "there is nothing in it to verify")
    if len(made) == 1:
        return made[0]
    named = tuple(
        replace(check, name=f"{number}. {claims.tee}: {check.name}")
        for number, claims in enumerate(made, start=1)
        for check in claims.checks
    )
    needs = tuple(dict.fromkeys(need for claims in made for need in claims.needs))
    digest = canonical_digest("collateral", b"".join(sorted(claims.canonical for claims in made)), b"")
    details = {f"{number}. {claims.tee}": dict(claims.details) for number, claims in enumerate(made, start=1)}
    found = _claims("collateral", (), endorsements, named, details, digest, needs)
    roots = {claims.root for claims in made if claims.root}
    return replace(
        found, simulated=any(claims.simulated for claims in made), root=roots.pop() if len(roots) == 1 else ""
    )


def nothing(kind: str, need: Need, hint: str) -> Claims:
    """Claims that say only what is lacking."""
    check = not_checked(need.kind, "quote-missing", hint)
    return _claims(kind, (), Endorsements(), (check,), {}, b"", (need,))


def pool(endorsements: Endorsements) -> tuple[Certificate, ...]:
    """All certificates at hand: those given, as far as they parse, and the vendors' that are built in."""
    from kokon.tee.intel.known import certificates as intel
    from kokon.tee.snp.amd import certificates as amd

    return parse_all((*endorsements.certificates, *amd(), *intel()))


def parse_all(certificates: Iterable[bytes]) -> tuple[Certificate, ...]:
    """Those that parse; what does not is no use to anybody and no harm."""
    found = []
    for der in certificates:
        try:
            found.append(parse_certificate(der))
        except MalformedError:
            continue
    return tuple(found)


def parse_lists(crls: Iterable[bytes]) -> tuple[RevocationList, ...]:
    """Those that parse."""
    found = []
    for der in crls:
        try:
            found.append(parse_crl(der))
        except MalformedError:
            continue
    return tuple(found)


def _check_path(path: tuple[Certificate, ...], endorsements: Endorsements, now: datetime) -> tuple[Check, ...]:
    lists = parse_lists(endorsements.crls)
    checks = (*check_path(path, now), *check_path_revoked(path, lists, now, required=False))
    if not path[-1].self_issued:
        return checks
    return (*checks, check_root(path[-1], VENDORS, endorsements.accepted_simulated))


def _check_dates(crl: RevocationList, now: datetime) -> Check:
    end = "no end" if crl.next_update is None else f"{crl.next_update:%Y-%m-%dT%H:%M:%SZ}"
    span = f"from {crl.this_update:%Y-%m-%dT%H:%M:%SZ} to {end}"
    if crl.current(now):
        return passed("dates of the list", span)
    return failed("dates of the list", "crl-expired", expected=f"{now:%Y-%m-%dT%H:%M:%SZ} within it", found=span)


def _claims(
    kind: str,
    path: tuple[Certificate, ...],
    endorsements: Endorsements,
    checks: tuple[Check, ...],
    details: dict[str, Any],
    canonical: bytes,
    needs: tuple[Need, ...] = (),
) -> Claims:
    root = path[-1] if path and path[-1].self_issued else None
    return Claims(
        tee=kind,
        simulated=root is not None and is_simulated(root, VENDORS, endorsements.accepted_simulated),
        root=root.fingerprint if root else "",
        product="",
        measurement=b"",
        host_data=b"",
        report_data=b"",
        debug=False,
        migratable=False,
        vmpl=0,
        chip_id=b"",
        reported_tcb={},
        checks=checks,
        details=details,
        canonical=canonical,
        needs=needs,
    )
