"""What the verification of TDX and SGX quotes shares: everything about the platform and its quoting enclave. Pure.

The chain of trust: Intel's root - PCK authority - PCK certificate of the platform - report of the quoting enclave -
attestation key - quote; and Intel's root - TCB signing - what Intel says of that platform and quoting enclave. Every
check is made and recorded even if an earlier one failed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from kokon.errors import MalformedError
from kokon.tee.anchors import INTEL, is_simulated
from kokon.tee.certificates import REMEMBERED, Certificate, parse_certificate
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Check, Need, failed, not_checked, passed
from kokon.tee.intel.chain import Chain, Pool, check_chain, make_pool
from kokon.tee.intel.collateral import raw_signature_holds
from kokon.tee.intel.documents import Level, QeIdentity, TcbInfo
from kokon.tee.intel.issued import Issued, find_qe_identity, find_tcb_info
from kokon.tee.intel.pck import SGX_EXTENSION, SGX_TYPES, PckExtension, parse_pck_extension
from kokon.tee.intel.pem import CERTIFICATE, read_blocks
from kokon.tee.intel.quote import INTEL_QE, PCK_LEAF, Quote, encode_enclave_report, parse_platform_id
from kokon.tee.intel.tcb import TcbResult, check_qe, check_qe_debug, enclave_level, evaluate_tcb

EMBEDDED_LIMIT: Final = 8
"""Certificates in a quote; a chain of Intel's has three."""


@dataclass(frozen=True, slots=True)
class Platform:
    """What stands behind a quote. `root` is a fingerprint or "", `tcb_status` "" if it could not be established.

    `details` holds plain JSON values for `Claims.details`, `tcb` the SVNs of the platform by component.
    """

    checks: tuple[Check, ...]
    needs: tuple[Need, ...]
    root: str
    simulated: bool
    pck: PckExtension | None
    tcb_status: str = ""
    advisories: tuple[str, ...] = ()
    tcb: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    signer: bytes = b""
    """DER SubjectPublicKeyInfo of the PCK, which says whose attestation key it is; b"" without one."""

    @property
    def product(self) -> str:
        """FMSPC and SGX type, "" without a PCK certificate."""
        return "" if self.pck is None else f"FMSPC {self.pck.fmspc.hex()}, {_sgx_type(self.pck)}"


def verify_platform(quote: Quote, tee: str, endorsements: Endorsements, now: datetime) -> Platform:
    """The checks of everything but the quoted body itself, at the time `now` (aware); `tee` is "sgx" or "tdx".

    Raises `MalformedError`: `pem-malformed`, `certificate-malformed`, `pck-extension` for a broken chain in the quote.
    """
    pool = make_pool(endorsements) | embedded_certificates(quote)
    checks = [*check_header(quote), *check_signature(quote), check_qe_debug(quote.qe_report)]
    leaf = _find_pck(quote, pool)
    if leaf is None:
        return _without_pck(quote, tee, checks, pool, endorsements, now)
    checks.append(_check_qe_signature(quote, leaf))
    chain = check_chain(leaf, pool, now)
    checks += chain.checks
    checks += check_embedded(embedded_certificates(quote), pool)
    pck = parse_pck_extension(leaf.unknown[SGX_EXTENSION])
    identity = find_qe_identity(tee, pool, chain, endorsements, now)
    info = find_tcb_info(tee, pck.fmspc, pool, chain, endorsements, now)
    checks += identity.checks
    qe_level = _judge_qe(identity.content, quote, checks)
    checks += info.checks
    result = _judge_tcb(info.content, pck, quote, qe_level, checks)
    root = chain.root
    return Platform(
        checks=tuple(dict.fromkeys(checks)),
        needs=tuple(dict.fromkeys((*chain.needs, *identity.needs, *info.needs))),
        root=root.fingerprint if root else "",
        simulated=root is not None and is_simulated(root, INTEL, pool.accepted),
        pck=pck,
        tcb_status=result.status,
        advisories=result.advisories,
        tcb=_components("sgx", pck.components) | {"pcesvn": pck.pce_svn},
        details=_details(pck, result, qe_level, chain, identity, info, now),
        signer=leaf.spki,
    )


def _without_pck(
    quote: Quote, tee: str, checks: list[Check], pool: Pool, endorsements: Endorsements, now: datetime
) -> Platform:
    """Without a PCK certificate nothing can be said about the platform but what its quoting enclave is."""
    identity = find_qe_identity(tee, pool, None, endorsements, now)
    needs = [*identity.needs]
    platform = parse_platform_id(quote.certification)
    if platform is None:
        hint = "the quote's certification data must be a chain of PCK certificate, PCK CA and root"
        checks.append(failed("pck", "intel-pck-absent", expected="a PCK certificate", found="none", hint=hint))
    else:
        hint = "the quote names its platform only: ask Intel's service for the platform's PCK certificate"
        checks.append(not_checked("pck", "intel-pck-missing", hint, found=f"type {quote.certification.kind}"))
        kind = "ppid" if len(platform.ppid) == 16 else "encrypted-ppid"
        parameters = {"cpusvn": platform.cpu_svn, "pceid": platform.pce_id, "pcesvn": platform.pce_svn}
        parameters[kind] = platform.ppid
        needs.append(Need("pck", tuple(sorted((name, value.hex()) for name, value in parameters.items()))))
    checks += identity.checks
    _judge_qe(identity.content, quote, checks)
    return Platform(tuple(dict.fromkeys(checks)), tuple(dict.fromkeys(needs)), "", simulated=False, pck=None)


def check_header(quote: Quote) -> Iterator[Check]:
    """Version and key type, which parsing has limited to what is known, and whose quoting enclave it was."""
    yield passed("quote-version", quote.header.version)
    yield passed("attestation-key-type", "ECDSA P-256")
    vendor = quote.header.qe_vendor_id
    if vendor == INTEL_QE:
        yield passed("qe-vendor", "Intel")
    else:
        yield failed("qe-vendor", "intel-qe-vendor", expected=INTEL_QE.hex(), found=vendor.hex())


def check_signature(quote: Quote) -> Iterator[Check]:
    """The quote's signature by the attestation key, and that the quoting enclave's report is about this key.

    The report's data are the SHA-256 of key and QE authentication data, then 32 zero bytes.
    """
    key = _attestation_key(quote.attestation_key)
    if key is not None and raw_signature_holds(key, quote.signature, quote.signed):
        yield passed("quote-signature", "by the attestation key")
    else:
        expected = "a signature by the attestation key"
        found = "another" if key is not None else "an attestation key that is no point of the curve"
        yield failed("quote-signature", "intel-quote-signature", expected=expected, found=found)
    expected_data = hashlib.sha256(quote.attestation_key + quote.qe_auth_data).digest() + bytes(32)
    if quote.qe_report.report_data == expected_data:
        yield passed("qe-binding", "the attestation key is the quoting enclave's")
    else:
        found = quote.qe_report.report_data.hex()
        yield failed("qe-binding", "intel-qe-binding", expected=expected_data.hex(), found=found)


@lru_cache(maxsize=REMEMBERED)
def _attestation_key(point: bytes) -> ec.EllipticCurvePublicKey | None:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point)
    except ValueError:
        return None


def embedded_certificates(quote: Quote) -> tuple[Certificate, ...]:
    """The certificates in the quote, in its order.

    Raises `MalformedError`: `pem-malformed`, `certificate-malformed`.
    """
    if quote.certification.kind < PCK_LEAF:
        return ()
    return _parse_chain(quote.certification.data)


@lru_cache(maxsize=REMEMBERED // 8)
def _parse_chain(data: bytes) -> tuple[Certificate, ...]:
    blocks = read_blocks(data, CERTIFICATE)
    if len(blocks) > EMBEDDED_LIMIT:
        raise MalformedError(
            "quote-malformed",
            "too many certificates in the quote",
            expected=f"<= {EMBEDDED_LIMIT}",
            found=len(blocks),
        )
    return tuple(parse_certificate(der) for der in blocks)


def check_embedded(embedded: tuple[Certificate, ...], pool: Pool) -> Iterator[Check]:
    """Every certificate in a quote was issued by one at hand, also those that the path does without: so a quote in
    which a copy was altered does not pass for the genuine one."""
    for certificate in embedded:
        if not any(candidate.issued(certificate) for candidate in pool.certificates):
            expected = "certificates that their issuers signed"
            yield failed("embedded-certificates", "intel-chain-altered", expected=expected, found=certificate.name)


def _find_pck(quote: Quote, pool: Pool) -> Certificate | None:
    """The PCK certificate, which alone has Intel's extension, among those in the quote; of several the one that signed.
    If the quote has none, the one at hand that signed, if any."""
    embedded = [certificate for certificate in embedded_certificates(quote) if SGX_EXTENSION in certificate.unknown]
    at_hand = embedded or [certificate for certificate in pool.certificates if SGX_EXTENSION in certificate.unknown]
    signed = [certificate for certificate in at_hand if _signed_qe(quote, certificate) and _parses(certificate)]
    return next(iter(signed or embedded), None)


def _parses(certificate: Certificate) -> bool:
    try:
        parse_pck_extension(certificate.unknown[SGX_EXTENSION])
    except MalformedError:
        return False
    return True


def _signed_qe(quote: Quote, pck: Certificate) -> bool:
    return _qe_signature_holds(pck, quote.qe_report_signature, encode_enclave_report(quote.qe_report))


@lru_cache(maxsize=REMEMBERED)
def _qe_signature_holds(pck: Certificate, signature: bytes, report: bytes) -> bool:
    return raw_signature_holds(pck.key, signature, report)


def _check_qe_signature(quote: Quote, leaf: Certificate) -> Check:
    if _signed_qe(quote, leaf):
        return passed("qe-report-signature", f"by {leaf.name}")
    return failed(
        "qe-report-signature",
        "intel-qe-report-signature",
        expected=f"a signature by {leaf.name}",
        found="another",
        hint="the quote was altered, or the certificate is another platform's",
    )


def _judge_qe(identity: QeIdentity | None, quote: Quote, checks: list[Check]) -> Level | None:
    if identity is None:
        return None
    checks += check_qe(identity, quote.qe_report)
    return enclave_level(identity.levels, quote.qe_report.isv_svn)


def _judge_tcb(
    info: TcbInfo | None, pck: PckExtension, quote: Quote, qe_level: Level | None, checks: list[Check]
) -> TcbResult:
    if info is None:
        return TcbResult(())
    if info.pce_id == pck.pce_id:
        checks.append(passed("pce-id", pck.pce_id.hex()))
    else:
        checks.append(failed("pce-id", "intel-pce-id", expected=pck.pce_id.hex(), found=info.pce_id.hex()))
    result = evaluate_tcb(info, pck, quote.body, qe_level)
    checks += result.checks
    return result


def _sgx_type(pck: PckExtension) -> str:
    return SGX_TYPES[pck.sgx_type] if pck.sgx_type < len(SGX_TYPES) else f"SGX type {pck.sgx_type}"


def _components(tee: str, svns: tuple[int, ...] | bytes) -> dict[str, int]:
    return {f"{tee}tcbcomp{index:02}": svn for index, svn in enumerate(svns, 1)}


def tdx_components(svns: bytes) -> dict[str, int]:
    """TEE_TCB_SVN by component, named as in Intel's TCB info."""
    return _components("tdx", svns)


def _details(
    pck: PckExtension,
    result: TcbResult,
    qe_level: Level | None,
    chain: Chain,
    identity: Issued[QeIdentity],
    info: Issued[TcbInfo],
    now: datetime,
) -> dict[str, Any]:
    """Names are those of Confidential Containers' Trustee where it has one (its `intel_dcap` verifier)."""
    starts = (*chain.starts, *identity.starts, *info.starts)
    ends = (*chain.ends, *identity.ends, *info.ends)
    levels = {"platform_tcb_date": result.platform, "tdx_module_tcb_date": result.module, "qe_tcb_date": qe_level}
    dates = {name: level.date for name, level in levels.items() if level is not None and level.date is not None}
    flags = {
        "is_dynamic_platform": pck.dynamic_platform,
        "is_cached_keys": pck.cached_keys,
        "is_smt_enabled": pck.smt_enabled,
    }
    details: dict[str, Any] = {
        "tcb_status": result.status,
        "advisory_ids": list(result.advisories),
        "fmspc": pck.fmspc.hex(),
        "pce_id": pck.pce_id.hex(),
        "sgx_type": _sgx_type(pck),
        "platform_provider_id": pck.ppid.hex(),
        "tcb_cpusvn": pck.cpu_svn.hex(),
        "earliest_issue_date": _text(min(starts)),
        "latest_issue_date": _text(max(starts)),
        "earliest_expiration_date": _text(min(ends)),
        "collateral_expiration_status": "0" if now < min(ends) else "1",
    }
    details |= {name: _text(date) for name, date in dates.items()}
    if dates:
        details["tcb_date"] = _text(min(dates.values()))
    if result.current:
        details["current_tcb_status"] = result.current
    details |= {name: flag for name, flag in flags.items() if flag is not None}
    if pck.platform_instance_id is not None:
        details["platform_instance_id"] = pck.platform_instance_id.hex()
    if info.content is not None:
        details["tcb_eval_num"] = info.content.evaluation
    if identity.content is not None:
        details["qe_tcb_eval_num"] = identity.content.evaluation
    return details


def _text(date: datetime) -> str:
    return f"{date:%Y-%m-%dT%H:%M:%SZ}"
