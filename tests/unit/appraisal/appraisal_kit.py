"""Claims of every kind of TEE as verification makes them, all in order."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from kokon.appraisal.policy import ReferenceValues
from kokon.tee.evidence import Claims, Need, passed

NOW = datetime(2026, 11, 23, tzinfo=UTC)
KNOWN = bytes(range(48))
DOCUMENT = bytes(range(32))
REFERENCE = ReferenceValues((bytes(48), KNOWN), NOW + timedelta(days=1), DOCUMENT)
TCB = {"bootloader": 3, "tee": 0, "snp": 8, "microcode": 115}
RTMR = bytes([7]) * 48
PCR = bytes([9]) * 32

SNP = Claims(
    tee="snp",
    simulated=False,
    root="ab" * 32,
    product="Milan",
    measurement=KNOWN,
    host_data=DOCUMENT,
    report_data=DOCUMENT + bytes(32),
    debug=False,
    migratable=False,
    vmpl=0,
    chip_id=bytes(range(64)),
    reported_tcb=TCB,
    checks=(passed("report-signature", "by SEV-VCEK"), passed("revocation of SEV-Milan", "not on the list")),
    registers={"measurement": KNOWN},
    tcbs={"current": TCB, "committed": TCB, "launch": TCB},
    signer=bytes(48),
    security_version=2,
    details={"platform_smt_enabled": True, "policy_debug_allowed": False, "platform_tsme_enabled": False},
)

TDX = replace(
    SNP,
    tee="tdx",
    product="FMSPC b0c06f000000, Scalable",
    host_data=DOCUMENT + bytes(16),
    chip_id=bytes(range(16)),
    reported_tcb={"sgxtcbcomp01svn": 1},
    tcbs={},
    registers={"mrtd": KNOWN, "mrseam": RTMR, **{f"rtmr{number}": RTMR for number in range(4)}},
    signer=b"",
    checks=(passed("quote-signature"), passed("revocation of Intel SGX PCK Certificate")),
    tcb_status="UpToDate",
    details={
        "is_dynamic_platform": False,
        "is_cached_keys": False,
        "is_smt_enabled": True,
        "tcb_eval_num": 17,
        "tcb_date": "2024-03-13T00:00:00Z",
    },
)
TDX_REFERENCE = ReferenceValues((KNOWN,), registers={"rtmr1": (RTMR,), "RTMR_2": (bytes(48), RTMR)}, tee="tdx")

SGX = replace(
    TDX,
    tee="sgx",
    measurement=DOCUMENT,
    host_data=bytes(64),
    registers={"mrenclave": DOCUMENT, "mrsigner": PCR},
    signer=PCR,
    product_id=3,
    security_version=5,
)
SGX_REFERENCE = ReferenceValues(signers=(PCR,), product_id=3, security_version=5)

NITRO = replace(
    SNP,
    tee="nitro",
    host_data=b"",
    report_data=b"nonce",
    chip_id=b"",
    reported_tcb={},
    tcbs={},
    signer=b"",
    registers={f"pcr{number}": KNOWN for number in range(16)},
    checks=(passed("document-signature"),),
    details={"timestamp": int(NOW.timestamp() * 1000) - 60_000},
)

TPM = replace(
    NITRO,
    tee="tpm",
    registers={f"pcr{number}": PCR for number in range(24)},
    details={},
)
TPM_REFERENCE = ReferenceValues(registers={"pcr11": (PCR,)})

AZURE_SNP = replace(TPM, tee="az-snp-vtpm", measurement=KNOWN, parts=(SNP,), checks=TPM.checks + SNP.checks)
AZURE_TDX = replace(TPM, tee="az-tdx-vtpm", measurement=KNOWN, parts=(TDX,), checks=TPM.checks + TDX.checks)

ALL: dict[str, tuple[Claims, ReferenceValues]] = {
    "snp": (SNP, REFERENCE),
    "tdx": (TDX, TDX_REFERENCE),
    "sgx": (SGX, SGX_REFERENCE),
    "nitro": (NITRO, ReferenceValues((KNOWN,))),
    "tpm": (TPM, TPM_REFERENCE),
    "az-snp-vtpm": (AZURE_SNP, TPM_REFERENCE),
    "az-tdx-vtpm": (AZURE_TDX, TPM_REFERENCE),
}

CRL_NEED = Need("amd-crl", (("product", "Milan"),), required=False)


def changed(claims: Claims, **changes: Any) -> Claims:
    """The claims with some fields changed; `details` are merged."""
    if "details" in changes:
        changes["details"] = {**claims.details, **changes["details"]}
    return replace(claims, **changes)
