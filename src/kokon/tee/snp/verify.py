"""SNP evidence to claims: signature, chain, pinned root, revocation, and that certificate and report speak of the same
chip. Pure.

Every check is made and recorded even if an earlier one failed. Debug, VMPL, SMT and TCB minima are policy and decided
in `appraisal`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from typing import Final

from kokon.tee.anchors import AMD, check_root, is_simulated
from kokon.tee.certificates import REMEMBERED, Certificate
from kokon.tee.endorsed import parse_lists
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Check, Claims, Evidence, Need, canonical_digest, failed, mark_alike, not_checked, passed
from kokon.tee.path import build_path, check_leaf, check_path
from kokon.tee.revocation import RevocationList, check_path_revoked
from kokon.tee.snp.describe import SIGNING_KEYS, describe_own, describe_report, unknown_bits
from kokon.tee.snp.platform import CHAIN_LENGTH, check_parameters, check_platform, platform_of
from kokon.tee.snp.report import ECDSA_P384_SHA384, REPORT_SIZE, SIGNED_SIZE, VLEK, Report, parse_report, product_of
from kokon.tee.snp.selection import LEAF_NAMES, Leaf, amd_authorities, authorities, extensions_of, find_leaf, layout

_SIZE: Final = passed("size", f"{REPORT_SIZE} bytes")
_RESERVED: Final = passed("reserved-bits")
_ALGORITHM: Final = passed("signature-algorithm", "ECDSA P-384 with SHA-384")
_CHIP_KEY: Final = passed("chip-key")
_passed = lru_cache(maxsize=REMEMBERED)(passed)
_NO_SIGNATURE: Final = bytes(REPORT_SIZE - SIGNED_SIZE)
_UNTOLD: Final = ("Milan", "Genoa")
"""Product lines whose firmware made version 2 reports, which do not tell theirs."""


def verify_snp(evidence: Evidence, endorsements: Endorsements, now: datetime) -> Claims:
    """The claims of SNP evidence at the time `now` (aware), with all checks.

    Certificates come with the evidence or are among the endorsements; AMD's own are built in. Raises `MalformedError`
    for bytes of the evidence that do not parse, never for evidence that is merely untrustworthy.

    What is found of one report holds for all others of the same guest image and machine, but for their signatures, and
    until a certificate or a list begins or ends: it is remembered if nothing is wrong.
    """
    report = parse_report(evidence.report)
    leaf = find_leaf(report, evidence, endorsements.certificates, now)
    if leaf is not None and leaf.signed:
        key = leaf.certificate, evidence.certificates, evidence.parts.get("crl"), endorsements
        since = _since(*key, now)
        found = None if since is None else _alike(_common(evidence.report), *key, since)
        if found is not None and not found.failures:
            return _with_own(found, report, evidence.report, leaf.certificate)
    return _verified(report, leaf, evidence, endorsements, now)


def _common(raw: bytes) -> bytes:
    """A report without what differs between those of one image on one machine: REPORT_DATA, REPORT_ID, the signature
    (56860, "ATTESTATION_REPORT")."""
    return raw[:0x50] + bytes(64) + raw[0x90:0x140] + bytes(32) + raw[0x160:SIGNED_SIZE] + _NO_SIGNATURE


def _with_own(claims: Claims, report: Report, raw: bytes, leaf: Certificate) -> Claims:
    """`claims` of a report like this one with what `_common` left out of it."""
    own = replace(
        claims,
        report_data=report.report_data,
        details={**claims.details, **describe_own(report)},
        canonical=canonical_digest("snp", raw[:SIGNED_SIZE], leaf.spki),
    )
    return mark_alike(own, claims.alike)


def _since(
    leaf: Certificate, came: tuple[bytes, ...], crl: bytes | None, endorsements: Endorsements, now: datetime
) -> datetime | None:
    """The last moment up to `now` at which a certificate or list that may matter began or ended."""
    crls = endorsements.crls if crl is None else (*endorsements.crls, crl)
    moments = _moments(leaf, came, endorsements.certificates, crls)
    place = bisect_right(moments, now)
    return moments[place - 1] if place else None


@lru_cache(maxsize=REMEMBERED)
def _moments(
    leaf: Certificate, came: tuple[bytes, ...], held: tuple[bytes, ...], crls: tuple[bytes, ...]
) -> tuple[datetime, ...]:
    """When what may be in a path from `leaf`, or on whose word it may be revoked, begins and ends to be valid."""
    found: set[datetime] = set()
    for certificate in (leaf, *authorities(leaf, came, held), *amd_authorities(leaf)):
        found |= {certificate.not_before, certificate.not_after}
    for crl in _lists(crls):
        found |= {crl.this_update, crl.next_update or crl.this_update}
    return tuple(sorted(found))


@lru_cache(maxsize=REMEMBERED)
def _alike(
    raw: bytes,
    certificate: Certificate,
    came: tuple[bytes, ...],
    crl: bytes | None,
    endorsements: Endorsements,
    since: datetime,
) -> Claims:
    """The claims of all reports that are like `raw` and that `certificate` signed."""
    evidence = Evidence("snp", raw, came, {} if crl is None else {"crl": crl})
    leaf = Leaf(certificate, extensions_of(certificate), signed=True)
    return mark_alike(_verified(parse_report(raw), leaf, evidence, endorsements, since), object())


def _verified(
    report: Report, leaf: Leaf | None, evidence: Evidence, endorsements: Endorsements, now: datetime
) -> Claims:
    path = _find_path(leaf, evidence, endorsements, now) if leaf else ()
    root = path[-1] if path and path[-1].self_issued else None
    product = leaf.chip.product if leaf else product_of(report) or ""
    turin = layout(report, leaf.chip if leaf else None)
    checks = [*_check_report(report), *_check_signer(report, leaf, path, root, endorsements, now)]
    revocation = tuple(_check_revocation(path, evidence, endorsements, now))
    checks += revocation
    return Claims(
        tee="snp",
        simulated=root is not None and is_simulated(root, AMD, endorsements.accepted_simulated),
        root=root.fingerprint if root else "",
        product=product,
        measurement=report.measurement,
        host_data=report.host_data,
        report_data=report.report_data,
        debug=report.debug,
        migratable=report.migratable,
        vmpl=report.vmpl,
        chip_id=report.chip_id,
        reported_tcb=report.tcb(report.reported_tcb, turin=turin),
        checks=tuple(checks),
        registers={"measurement": report.measurement},
        tcbs={
            "current": report.tcb(report.current_tcb, turin=turin),
            "committed": report.tcb(report.committed_tcb, turin=turin),
            "launch": report.tcb(report.launch_tcb, turin=turin),
        },
        signer=report.id_key_digest,
        security_version=report.guest_svn,
        details=describe_report(report),
        needs=tuple(_needs(report, leaf, path, revocation, product)),
        canonical=canonical_digest("snp", evidence.report[:SIGNED_SIZE], path[0].spki if path else b""),
    )


def _find_path(leaf: Leaf, evidence: Evidence, endorsements: Endorsements, now: datetime) -> tuple[Certificate, ...]:
    """The path through what was given if that is good; else AMD's own certificates come first."""
    given = authorities(leaf.certificate, evidence.certificates, endorsements.certificates)
    path = build_path(leaf.certificate, given, now)
    root = path[-1]
    known = root.self_issued and (root.fingerprint in AMD or root.fingerprint in endorsements.accepted_simulated)
    if known and all(check.outcome != "failed" for check in _check_path(path, now)):
        return path
    return build_path(leaf.certificate, amd_authorities(leaf.certificate) + given, now)


def _check_report(report: Report) -> Iterator[Check]:
    """What a report says by itself. Its size, version and reserved bytes were checked by parsing it."""
    yield _SIZE
    yield _passed("version", report.version)
    unknown = unknown_bits(report)
    if unknown:
        found = ", ".join(f"{name} {value:#x}" for name, value in unknown.items())
        hint = "bits that are set without a meaning known here; AMD's document 56860 may have one by now"
        yield not_checked("reserved-bits", "snp-bits-unknown", hint, found=found)
    else:
        yield _RESERVED
    if report.signature_algorithm != ECDSA_P384_SHA384:
        yield failed("signature-algorithm", "snp-signature-algorithm", expected="1", found=report.signature_algorithm)
    else:
        yield _ALGORITHM
    if report.chip_key_masked:
        yield failed(
            "chip-key",
            "snp-chip-key-masked",
            expected="a signed report",
            found="MASK_CHIP_KEY",
            hint="the host told the firmware not to sign reports",
        )
    else:
        yield _CHIP_KEY


def _check_signer(
    report: Report,
    leaf: Leaf | None,
    path: tuple[Certificate, ...],
    root: Certificate | None,
    endorsements: Endorsements,
    now: datetime,
) -> Iterator[Check]:
    """The signature, the certificates behind it, and whether they are for such a report."""
    if leaf is None:
        yield _check_unsigned(report)
        return
    name, certificate = "report-signature", leaf.certificate
    if leaf.signed:
        yield _passed(name, f"by {certificate.name}")
    else:
        yield failed(
            name,
            "snp-signature-invalid",
            expected=f"a signature by {certificate.name}",
            found="another",
            hint="the report was altered, or it is another chip's or another TCB version's",
        )
    if root is None:
        found = " <- ".join(certificate.name for certificate in path)
        yield not_checked("certificates", "chain-incomplete", "the issuer's certificates are needed", found=found)
    yield from _check_path(path, now)
    if root is not None:
        yield check_root(root, AMD, endorsements.accepted_simulated)
    yield from check_platform(platform_of(report, leaf.chip), path, AMD.get(root.fingerprint) if root else None)


def _check_unsigned(report: Report) -> Check:
    """What can be said without a certificate. If one could help, `_needs` names it as required."""
    kind = SIGNING_KEYS.get(report.signing_key, report.signing_key)
    if not _signable(report):
        hint = "the firmware did not sign this report, or with a key that nobody certifies"
        return failed("report-signature", "snp-report-unsigned", expected="VCEK or VLEK", found=kind, hint=hint)
    hint = "neither came one with the report nor is one for this chip and TCB among the endorsements"
    return not_checked("report-signature", "snp-certificate-missing", hint, found=kind)


def _signable(report: Report) -> bool:
    return report.signing_key in LEAF_NAMES and not report.chip_key_masked


def _check_path(path: tuple[Certificate, ...], now: datetime) -> tuple[Check, ...]:
    """Every check of the path itself; remembered for the time in which all its certificates are valid."""
    start, end, checks = _check_path_within(path)
    return checks if start <= now < end else _check_path_at(path, now)


@lru_cache(maxsize=REMEMBERED)
def _check_path_within(path: tuple[Certificate, ...]) -> tuple[datetime, datetime, tuple[Check, ...]]:
    start = max(certificate.not_before for certificate in path)
    return start, min(certificate.not_after for certificate in path), _check_path_at(path, start)


def _check_path_at(path: tuple[Certificate, ...], now: datetime) -> tuple[Check, ...]:
    chain = (check for check in check_path(path, now) if check.code != "chain-incomplete")
    return (*chain, *check_leaf(path[0]), check_parameters(path))


def _check_revocation(
    path: tuple[Certificate, ...], evidence: Evidence, endorsements: Endorsements, now: datetime
) -> Iterator[Check]:
    """The intermediate on the list of its root: AMD's lists name no leaves (57230, "Certificate Revocation List")."""
    if len(path) < CHAIN_LENGTH:
        yield not_checked("revocation", "crl-missing", "the chain is not complete")
        return
    lists = _lists(endorsements.crls)
    if "crl" in evidence.parts:
        lists += _lists((evidence.parts["crl"],))
    yield from check_path_revoked(path[1:], lists, now, required=False)


@lru_cache(maxsize=64)
def _lists(crls: tuple[bytes, ...]) -> tuple[RevocationList, ...]:
    return parse_lists(crls)


def _needs(
    report: Report, leaf: Leaf | None, path: tuple[Certificate, ...], revocation: tuple[Check, ...], product: str
) -> Iterator[Need]:
    if leaf is None:
        if _signable(report):
            kind = "vlek" if report.signing_key == VLEK else "vcek"
            for line in _UNTOLD if report.version < 3 else (product,):
                yield Need(kind, _leaf_parameters(report, line))
        return
    if not path[-1].self_issued:
        yield Need("amd-chain", (("kind", _kind(leaf)), ("product", product)))
    if any(check.outcome == "not-checked" for check in revocation):
        yield Need("amd-crl", (("product", product),), required=False)


def _kind(leaf: Leaf) -> str:
    return "vlek" if leaf.certificate.name == LEAF_NAMES[VLEK] else "vcek"


def _leaf_parameters(report: Report, product: str) -> tuple[tuple[str, str], ...]:
    """What the URL of a certificate at AMD's key service is made of (57230, "KDS"); a VLEK is for no chip, and of
    a CPU that is newer than this program the product line is not known."""
    parameters = {name: str(value) for name, value in report.tcb(report.reported_tcb).items()}
    if product:
        parameters["product"] = product
    if report.signing_key != VLEK:
        parameters["chip-id"] = report.chip_id[: 8 if report.turin else 64].hex()
    return tuple(sorted(parameters.items()))
