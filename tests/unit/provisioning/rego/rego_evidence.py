"""Claims of every kind of TEE as verification makes them, and the reference values that fit them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kokon.tee.evidence import Claims
from kokon.tee.registry import verify
from kokon.tee.snp.describe import describe_report
from kokon.tee.snp.report import parse_report
from kokon.testing.vendor import FakeVendor
from kokon.testing.vendor.amd import SnpReport, Tcb
from unit.appraisal import appraisal_kit as kit

VENDOR = FakeVendor(now=kit.NOW)
TCB = Tcb(bootloader=3, tee=0, snp=8, microcode=115)
REPORT = SnpReport(measurement=kit.KNOWN, reported_tcb=TCB, platform_info=3, policy=0x30000 | 31)
AK = "MFkwEwYHKoZIzj0CAQ=="
SGX_BODY = {"mr_enclave": "11" * 32, "mr_signer": "22" * 32}


def snp(report: SnpReport = REPORT) -> Claims:
    details = describe_report(parse_report(report.encode()))
    return replace(
        kit.SNP,
        measurement=report.measurement,
        details=details,
        debug=details["policy_debug_allowed"],
        migratable=details["policy_migrate_ma"],
    )


def tdx(**fields: Any) -> Claims:
    evidence = VENDOR.tdx(**fields)
    return verify(evidence, VENDOR.endorsements(evidence), kit.NOW)


def sgx(**fields: Any) -> Claims:
    evidence = VENDOR.sgx(**fields)
    return verify(evidence, VENDOR.endorsements(evidence), kit.NOW)


TPM = replace(kit.TPM, details={"ak_public": AK})


def azure_snp(report: SnpReport = REPORT) -> Claims:
    return replace(kit.AZURE_SNP, parts=(snp(report),), details={"ak_public": AK})


def azure_tdx(**fields: Any) -> Claims:
    return replace(kit.AZURE_TDX, parts=(tdx(**fields),))


SNP_VALUES: dict[str, Any] = {
    "snp_launch_measurement": [kit.KNOWN.hex()],
    "snp_bootloader": [3],
    "snp_microcode": [115],
    "snp_snp_svn": [8],
    "snp_tee_svn": [0],
    "snp_smt_enabled": True,
    "snp_tsme_enabled": True,
    "snp_guest_abi_major": 0,
    "snp_guest_abi_minor": 31,
    "snp_single_socket": False,
    "snp_smt_allowed": True,
}
TPM_VALUES: dict[str, Any] = {"tpm_pcr11": [kit.PCR.hex()], "trusted_aks": [AK]}
AZURE_SNP_VALUES: dict[str, Any] = {
    "measurement": [kit.KNOWN.hex()],
    "snp_pcr11": [kit.PCR.hex()],
    "tcb_bootloader": ["3"],
    "tcb_microcode": ["115"],
    "tcb_snp": ["8"],
    "tcb_tee": ["0"],
    "smt_enabled": ["true"],
    "tsme_enabled": ["true"],
    "abi_major": ["0"],
    "abi_minor": ["31"],
    "single_socket": ["false"],
    "smt_allowed": ["true"],
}


def tdx_values(claims: Claims) -> dict[str, Any]:
    body = claims.details["quote"]["body"]
    return {name: [body[name]] for name in ("mr_td", "rtmr_1", "rtmr_2", "xfam")}


def azure_tdx_values(claims: Claims) -> dict[str, Any]:
    body = claims.parts[0].details["quote"]["body"]
    return {"mr_td": [body["mr_td"]], "xfam": [body["xfam"]], "tdx_pcr11": [kit.PCR.hex()]}


def sgx_values(claims: Claims) -> dict[str, Any]:
    return {"sgx_mr_enclave": [claims.measurement.hex()]}
