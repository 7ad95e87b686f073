"""Every field of a report by the name in AMD's ABI (document 56860), as plain JSON values. Nothing is verified.

Beside them stand the names under which Confidential Containers' attestation service shows the same values to its
policies, so that a policy written for one reads the other.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from kokon.tee.evidence import Evidence
from kokon.tee.snp.report import (
    ECDSA_P384_SHA384,
    PLATFORM_BITS,
    POLICY_BITS,
    POLICY_RESERVED_ONE,
    SIGNATURE_SCALAR,
    VCEK,
    VLEK,
    Report,
    parse_report,
    product_of,
)

SIGNING_KEYS: Final = {VCEK: "VCEK", VLEK: "VLEK", 7: "none"}
_ALGORITHMS: Final = {ECDSA_P384_SHA384: "ECDSA P-384 with SHA-384"}
_OCTETS: Final = (
    "family_id",
    "image_id",
    "measurement",
    "host_data",
    "id_key_digest",
    "author_key_digest",
    "report_id_ma",
    "chip_id",
)
_TCBS: Final = ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb")
_POLICY_KNOWN: Final = 0xFFFF | POLICY_RESERVED_ONE | sum(POLICY_BITS.values())
_REMEMBERED: Final = 256
_PLATFORM_KNOWN: Final = sum(PLATFORM_BITS.values())


def unknown_bits(report: Report) -> dict[str, int]:
    """Bits without a known meaning that are set (for bit 17 of POLICY: clear), by field."""
    policy = (report.policy ^ POLICY_RESERVED_ONE) & ~(_POLICY_KNOWN ^ POLICY_RESERVED_ONE)
    platform = report.platform_info & ~_PLATFORM_KNOWN
    if not policy and not platform:
        return {}
    return {name: value for name, value in (("policy", policy), ("platform_info", platform)) if value}


def describe(evidence: Evidence) -> dict[str, Any]:
    """The fields of the evidence's report. Raises what `parse_report` raises."""
    return describe_report(parse_report(evidence.report))


def describe_report(report: Report) -> dict[str, Any]:
    """Byte strings in lower-case hex, counters as integers, bits as booleans; None for what the version has not."""
    policy, platform = _policy(report.policy), _platform(report.platform_info)
    turin = report.turin
    tcbs = {name: report.tcb(getattr(report, name), turin=turin) for name in _TCBS}
    family, model, stepping = report.cpuid
    members: dict[str, Any] = {
        "version": report.version,
        "guest_svn": report.guest_svn,
        "vmpl": report.vmpl,
        "signature_algo": _ALGORITHMS.get(report.signature_algorithm, report.signature_algorithm),
        "policy": dict(policy),
        "platform_info": dict(platform),
        "author_key_en": report.author_key_enabled,
        "mask_chip_key": report.chip_key_masked,
        "signing_key": SIGNING_KEYS.get(report.signing_key, report.signing_key),
        "cpuid": None if report.version < 3 else {"family": family, "model": model, "stepping": stepping},
        "current_version": _version(report.current_version),
        "committed_version": _version(report.committed_version),
        "launch_mit_vector": None if report.version < 5 else f"{report.launch_mitigations:#x}",
        "current_mit_vector": None if report.version < 5 else f"{report.current_mitigations:#x}",
        "product": product_of(report),
        "unknown_bits": {name: f"{value:#x}" for name, value in unknown_bits(report).items()},
    }
    members |= {name: getattr(report, name).hex() for name in _OCTETS} | describe_own(report)
    return members | tcbs | _service_names(policy, platform, tcbs["reported_tcb"], members["host_data"])


def describe_own(report: Report) -> dict[str, str]:
    """Those of the fields that differ between reports of one image on one machine."""
    return {
        "report_data": report.report_data.hex(),
        "report_id": report.report_id.hex(),
        "signature_r": report.signature[:SIGNATURE_SCALAR].hex(),
        "signature_s": report.signature[SIGNATURE_SCALAR:].hex(),
    }


def _version(version: tuple[int, int, int]) -> dict[str, int]:
    build, minor, major = version
    return {"major": major, "minor": minor, "build": build}


@lru_cache(maxsize=_REMEMBERED)
def _policy(value: int) -> dict[str, Any]:
    bits = {name: bool(value & bit) for name, bit in POLICY_BITS.items()}
    return {"value": f"{value:#x}", "abi_minor": value & 0xFF, "abi_major": value >> 8 & 0xFF} | bits


@lru_cache(maxsize=_REMEMBERED)
def _platform(value: int) -> dict[str, Any]:
    return {"value": f"{value:#x}"} | {name: bool(value & bit) for name, bit in PLATFORM_BITS.items()}


def _service_names(
    policy: dict[str, Any], platform: dict[str, Any], reported: dict[str, int], host_data: str
) -> dict[str, Any]:
    """Names of Confidential Containers' attestation service for what stands in the ABI's fields already."""
    return {
        "init_data": host_data,
        "policy_abi_major": policy["abi_major"],
        "policy_abi_minor": policy["abi_minor"],
        "policy_smt_allowed": policy["smt_allowed"],
        "policy_migrate_ma": policy["migrate_ma_allowed"],
        "policy_debug_allowed": policy["debug_allowed"],
        "policy_single_socket": policy["single_socket_required"],
        "platform_smt_enabled": platform["smt_en"],
        "platform_tsme_enabled": platform["tsme_en"],
        **{f"reported_tcb_{name}": value for name, value in reported.items()},
    }
