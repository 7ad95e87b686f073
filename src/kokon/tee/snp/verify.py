"""SNP evidence to claims: signature, chain, pinned root, and that certificate and report speak of the same chip.
Pure.

Every check is made and recorded even if an earlier one failed. Debug, VMPL and TCB minima are policy and decided in
`appraisal`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from kokon.tee.evidence import Check, Claims, Evidence, Trust, failed, not_checked, passed
from kokon.tee.snp.chain import CHAIN_LENGTH, Certificate, complete_chain
from kokon.tee.snp.extensions import ChipExtensions, parse_extensions
from kokon.tee.snp.report import ECDSA_P384_SHA384, SIGNED_SIZE, VCEK, VLEK, Report, parse_report, product_of
from kokon.tee.snp.roots import PINNED, SIMULATED_PREFIX

SIMULATED = "Simulated"
_LEAF_NAMES = {VCEK: "SEV-VCEK", VLEK: "SEV-VLEK"}


def verify_snp(evidence: Evidence, trust: Trust, now: datetime) -> Claims:
    """The claims of SNP evidence at the time `now` (aware), with all checks.

    Raises `MalformedError` for bytes that do not parse, never for evidence that is merely untrustworthy.
    """
    report = parse_report(evidence.report)
    chain = complete_chain(evidence.certificates)
    chip = parse_extensions(chain[0].extensions) if chain else None
    root = chain[-1] if chain and chain[-1].self_issued else None
    fingerprint = root.fingerprint if root else ""
    pinned = PINNED.get(fingerprint)
    simulated = pinned is None and root is not None and _is_simulated(root, fingerprint, trust)
    checks = [_check_algorithm(report), _check_masked(report), *_check_chain(chain, now)]
    if root is not None:
        checks.append(_check_root(root, fingerprint, trust))
    if chip is not None:
        product = pinned or (SIMULATED if simulated else None)
        checks.append(_check_report_signature(report, evidence.report, chain[0]))
        checks += _check_leaf(report, chain, chip, product, vendor=pinned is not None)
    checks.append(not_checked("revocation", "snp-revocation-not-checked", "no revocation list was given"))
    return Claims(
        tee="snp",
        simulated=simulated,
        root=fingerprint,
        product=chip.product if chip else product_of(report) or "",
        measurement=report.measurement,
        host_data=report.host_data,
        report_data=report.report_data,
        debug=report.debug,
        migratable=report.migratable,
        vmpl=report.vmpl,
        chip_id=report.chip_id,
        reported_tcb=report.tcb(report.reported_tcb),
        checks=tuple(checks),
    )


def _is_simulated(root: Certificate, fingerprint: str, trust: Trust) -> bool:
    return fingerprint in trust.accepted_simulated or root.name.startswith(SIMULATED_PREFIX)


def _check_algorithm(report: Report) -> Check:
    if report.signature_algorithm != ECDSA_P384_SHA384:
        return failed("signature-algorithm", "snp-signature-algorithm", expected="1", found=report.signature_algorithm)
    return passed("signature-algorithm", "ECDSA P-384 with SHA-384")


def _check_masked(report: Report) -> Check:
    if report.chip_key_masked:
        return failed(
            "chip-key",
            "snp-chip-key-masked",
            expected="a signed report",
            found="MASK_CHIP_KEY",
            hint="the host told the firmware not to sign reports",
        )
    return passed("chip-key")


def _check_report_signature(report: Report, raw: bytes, leaf: Certificate) -> Check:
    name, code = "report-signature", "snp-signature-invalid"
    if not isinstance(leaf.key, ec.EllipticCurvePublicKey) or not isinstance(leaf.key.curve, ec.SECP384R1):
        return failed(name, code, expected="a P-384 key", found=type(leaf.key).__name__)
    try:
        leaf.key.verify(encode_dss_signature(report.r, report.s), raw[:SIGNED_SIZE], ec.ECDSA(SHA384()))
    except InvalidSignature:
        return failed(
            name,
            code,
            expected=f"a signature by {leaf.name}",
            found="another",
            hint="the report was altered, or it is another chip's or another TCB version's",
        )
    return passed(name, f"by {leaf.name}")


def _check_chain(chain: tuple[Certificate, ...], now: datetime) -> Iterator[Check]:
    if not chain:
        yield failed(
            "certificates",
            "snp-certificates-missing",
            expected="VCEK or VLEK at least",
            found="none",
            hint="the evidence came without certificates",
        )
        return
    if len(chain) < CHAIN_LENGTH or not chain[-1].self_issued:
        found = " <- ".join(certificate.name for certificate in chain)
        yield failed("certificates", "snp-chain-incomplete", expected="leaf, intermediate, root", found=found)
    for child, parent in zip(chain, (*chain[1:], chain[-1]), strict=True):
        if parent is not child or child.self_issued:
            yield _check_issued(child, parent)
    for depth, authority in enumerate(chain[1:]):
        if not authority.authority or (authority.path_length is not None and authority.path_length < depth):
            yield failed("authority", "snp-not-an-authority", expected="a CA certificate", found=authority.name)
    if chain[0].authority:
        yield failed("authority", "snp-not-an-authority", expected="an end certificate", found=chain[0].name)
    for certificate in chain:
        yield _check_validity(certificate, now)


def _check_issued(child: Certificate, parent: Certificate) -> Check:
    name = f"signature of {child.name}"
    if parent.issued(child):
        return passed(name, f"by {parent.name}")
    return failed(name, "snp-chain-broken", expected=f"signed by {parent.name}", found="not signed by it")


def _check_validity(certificate: Certificate, now: datetime) -> Check:
    name = f"validity of {certificate.name}"
    if now < certificate.not_before:
        code, limit = "snp-certificate-not-yet-valid", certificate.not_before
    elif now > certificate.not_after:
        code, limit = "snp-certificate-expired", certificate.not_after
    else:
        return passed(name, f"until {certificate.not_after:%Y-%m-%d}")
    return failed(name, code, expected=f"{limit:%Y-%m-%dT%H:%M:%SZ}", found=f"{now:%Y-%m-%dT%H:%M:%SZ}")


def _check_root(root: Certificate, fingerprint: str, trust: Trust) -> Check:
    if fingerprint in PINNED:
        return passed("root", f"ARK-{PINNED[fingerprint]}")
    if fingerprint in trust.accepted_simulated:
        return passed("root", f"{root.name}, simulated, accepted")
    if root.name.startswith(SIMULATED_PREFIX):
        return failed(
            "root",
            "simulated-root-refused",
            expected="a chip vendor's root",
            found=f"{root.name} ({fingerprint})",
            hint=f"simulation protects nothing; to accept it for a trial: --accept-simulated {fingerprint}",
        )
    return failed("root", "snp-root-untrusted", expected="a pinned AMD root", found=f"{root.name} ({fingerprint})")


def _check_leaf(
    report: Report, chain: tuple[Certificate, ...], chip: ChipExtensions, product: str | None, *, vendor: bool
) -> Iterator[Check]:
    leaf = chain[0]
    kind = _LEAF_NAMES.get(report.signing_key)
    if leaf.name != kind:
        yield failed("signing-key", "snp-signing-key-mismatch", expected=kind or "VCEK or VLEK", found=leaf.name)
    else:
        yield passed("signing-key", leaf.name)
    yield _check_product(report, chain, chip, product, vendor=vendor)
    reported = report.tcb(report.reported_tcb)
    if reported != dict(chip.tcb):
        yield failed("tcb", "snp-tcb-mismatch", expected=_tcb_text(chip.tcb), found=_tcb_text(reported))
    else:
        yield passed("tcb", _tcb_text(reported))
    yield _check_chip(report, chip)


def _check_product(
    report: Report, chain: tuple[Certificate, ...], chip: ChipExtensions, product: str | None, *, vendor: bool
) -> Check:
    by_cpu = product_of(report)
    found = f"certificate {chip.product}, CPUID {by_cpu or 'unknown'}, root {product or 'unknown'}"
    if (product is not None and chip.product != product) or (by_cpu is not None and by_cpu != chip.product):
        return failed("product", "snp-product-mismatch", expected="one product line", found=found)
    prefix = "SEV-VLEK-" if report.signing_key == VLEK else "SEV-"
    if vendor and (len(chain) < CHAIN_LENGTH or chain[1].name != prefix + chip.product):
        return failed("product", "snp-product-mismatch", expected=prefix + chip.product, found=chain[-2:][0].name)
    return passed("product", chip.product)


def _check_chip(report: Report, chip: ChipExtensions) -> Check:
    if report.signing_key == VLEK and chip.hardware_id is None:
        return not_checked("chip-id", "snp-chip-id-unbound", "a VLEK is not bound to one chip")
    expected = (chip.hardware_id or b"").ljust(64, b"\0")
    if chip.hardware_id is None or report.chip_id != expected:
        return failed("chip-id", "snp-chip-id-mismatch", expected=expected.hex(), found=report.chip_id.hex())
    return passed("chip-id", report.chip_id.hex()[:16])


def _tcb_text(tcb: object) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(dict(tcb).items()))  # type: ignore[call-overload]
