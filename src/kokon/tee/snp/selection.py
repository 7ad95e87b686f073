"""Which certificate signed a report, out of what came with it and what the verifier holds. Pure.

Certificates may be anybody's and for any chip: names, chip ids and TCB versions find candidates, the report's
signature picks among them. What is derived from certificates alone is remembered by their bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from kokon.errors import MalformedError
from kokon.tee.certificates import REMEMBERED, Certificate
from kokon.tee.evidence import Evidence
from kokon.tee.snp.extensions import ARC, ChipExtensions, parse_extensions
from kokon.tee.snp.known import KNOWN, recall
from kokon.tee.snp.report import SIGNED_SIZE, VCEK, VLEK, Report

LEAF_NAMES: Final = {VCEK: "SEV-VCEK", VLEK: "SEV-VLEK"}
CERTIFICATES_LIMIT: Final = 8
"""Certificates that may come with a report."""
_TRIED: Final = 32
"""Signatures that are checked at most for one report whose chip id is masked, when many certificates would fit."""
_POOLS: Final = 64
_ECDSA: Final = ec.ECDSA(SHA384())


@dataclass(frozen=True, slots=True)
class Leaf:
    """A VCEK or VLEK with what AMD wrote into it, and whether it signed the report."""

    certificate: Certificate
    chip: ChipExtensions
    signed: bool


@dataclass(frozen=True, slots=True)
class _Pool:
    """Certificates of a caller, told apart: those of chips, by the chip's id too (None: a VLEK), and all others."""

    leaves: tuple[tuple[Certificate, ChipExtensions], ...]
    by_chip: Mapping[bytes | None, tuple[tuple[Certificate, ChipExtensions], ...]]
    others: tuple[Certificate, ...]

    def candidates(self, report: Report) -> tuple[tuple[Certificate, ChipExtensions], ...]:
        """Those of the chips' that may have signed the report."""
        if report.signing_key == VLEK or not any(report.chip_id):
            return self.leaves
        return self.by_chip.get(report.chip_id, ())


def layout(report: Report, chip: ChipExtensions | None) -> bool:
    """True if the report's TCB versions are laid out as on Turin. A version 2 report does not tell; there the
    certificate does, unless the bytes cannot be meant so."""
    if report.version >= 3 or report.turin or chip is None or "fmc" not in chip.tcb:
        return report.turin
    tcbs = (report.current_tcb, report.reported_tcb, report.committed_tcb, report.launch_tcb)
    return not any(any(tcb[4:7]) for tcb in tcbs)


def reported_tcb(report: Report, chip: ChipExtensions) -> dict[str, int]:
    """REPORTED_TCB by component, as the certificate should have it."""
    return report.tcb(report.reported_tcb, turin=layout(report, chip))


def chip_id_of(chip: ChipExtensions) -> bytes | None:
    """The certificate's hardware id as reports carry it: 64 bytes, those of 8 bytes (Turin) followed by zeros."""
    return None if chip.hardware_id is None else chip.hardware_id.ljust(64, b"\0")


def signed_by(report: Report, raw: bytes, certificate: Certificate) -> bool:
    """True if the certificate's key is on P-384 and signed the report (56860, "Report signature")."""
    key = _p384_key(certificate)
    if key is None:
        return False
    try:
        key.verify(encode_dss_signature(report.r, report.s), raw[:SIGNED_SIZE], _ECDSA)
    except InvalidSignature:
        return False
    return True


@lru_cache(maxsize=REMEMBERED)
def _p384_key(certificate: Certificate) -> ec.EllipticCurvePublicKey | None:
    key = certificate.key
    return key if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1) else None


def find_leaf(report: Report, evidence: Evidence, held: tuple[bytes, ...], now: datetime) -> Leaf | None:
    """The certificate that signed the report, in date if there is a choice; else the one that came with it or is
    meant for the same chip and TCB, for the checks to say what is wrong; None if there is none.

    Raises `MalformedError` for certificates that came with the report and do not parse: `certificate-count`,
    `certificate-malformed`, `amd-extension`.
    """
    found: list[Leaf] = []
    for certificate, chip in _candidates(report, evidence, held):
        same = next((leaf.signed for leaf in found if leaf.certificate.spki == certificate.spki), None)
        leaf = Leaf(certificate, chip, signed_by(report, evidence.report, certificate) if same is None else same)
        if leaf.signed and certificate.not_before <= now < certificate.not_after:
            return leaf
        found.append(leaf)
    return next((leaf for leaf in found if leaf.signed), found[0] if found else None)


def _candidates(
    report: Report, evidence: Evidence, held: tuple[bytes, ...]
) -> Iterator[tuple[Certificate, ChipExtensions]]:
    for certificate in _parse_own(evidence.certificates):
        if _is_leaf(certificate):
            yield certificate, extensions_of(certificate)
    fitting = (pair for pair in _divide(held).candidates(report) if _fits(report, *pair))
    for pair, _tried in zip(fitting, range(_TRIED), strict=False):
        yield pair


def _fits(report: Report, certificate: Certificate, chip: ChipExtensions) -> bool:
    if certificate.name != LEAF_NAMES.get(report.signing_key) or reported_tcb(report, chip) != dict(chip.tcb):
        return False
    return report.signing_key == VLEK or not any(report.chip_id) or chip_id_of(chip) == report.chip_id


@lru_cache(maxsize=REMEMBERED)
def extensions_of(certificate: Certificate) -> ChipExtensions:
    """What AMD wrote into a VCEK or VLEK. Raises `MalformedError` (`amd-extension`)."""
    return parse_extensions(certificate.unknown)


def _is_leaf(certificate: Certificate) -> bool:
    return any(oid.startswith(ARC) for oid in certificate.unknown)


def _parse_own(certificates: tuple[bytes, ...]) -> list[Certificate]:
    if len(certificates) > CERTIFICATES_LIMIT:
        raise MalformedError(
            "certificate-count",
            "too many certificates came with the report",
            expected=f"<= {CERTIFICATES_LIMIT}",
            found=len(certificates),
        )
    return [recall(der) for der in certificates]


@lru_cache(maxsize=REMEMBERED)
def authorities(leaf: Certificate, came: tuple[bytes, ...], held: tuple[bytes, ...]) -> tuple[Certificate, ...]:
    """What a path from `leaf` may be built of: of the certificates that came with the report and those that are held
    the ones whose names lead on from it. Raises as `find_leaf` does."""
    own = tuple(certificate for certificate in _parse_own(came) if not _is_leaf(certificate))
    return _leading_on(leaf, own + _divide(held).others)


@lru_cache(maxsize=REMEMBERED)
def amd_authorities(leaf: Certificate) -> tuple[Certificate, ...]:
    """Those of AMD's own certificates, which are built in, whose names lead on from `leaf`."""
    return _leading_on(leaf, tuple(KNOWN.values()))


def _leading_on(leaf: Certificate, pool: tuple[Certificate, ...]) -> tuple[Certificate, ...]:
    wanted, found = {leaf.issuer}, 0
    while found < len(wanted):
        found = len(wanted)
        wanted |= {certificate.issuer for certificate in pool if certificate.subject in wanted}
    return tuple(dict.fromkeys(certificate for certificate in pool if certificate.subject in wanted))


@lru_cache(maxsize=_POOLS)
def _divide(ders: tuple[bytes, ...]) -> _Pool:
    """What does not parse is left out: it may be for something else altogether."""
    leaves: list[tuple[Certificate, ChipExtensions]] = []
    others: list[Certificate] = []
    for der in dict.fromkeys(ders):
        try:
            certificate = recall(der)
            if _is_leaf(certificate):
                leaves.append((certificate, extensions_of(certificate)))
            else:
                others.append(certificate)
        except MalformedError:
            continue
    by_chip: dict[bytes | None, list[tuple[Certificate, ChipExtensions]]] = {}
    for certificate, chip in leaves:
        by_chip.setdefault(chip_id_of(chip), []).append((certificate, chip))
    return _Pool(tuple(leaves), {chip_id: tuple(found) for chip_id, found in by_chip.items()}, tuple(others))
