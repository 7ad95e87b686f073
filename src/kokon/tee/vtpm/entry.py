"""What the registry knows of TPMs: one by itself, and the virtual ones of Azure's confidential machines."""

from __future__ import annotations

from typing import Final

from kokon.tee.evidence import Evidence
from kokon.tee.registry import Tee
from kokon.tee.vtpm.assemble import assemble, is_attestation, is_bincode
from kokon.tee.vtpm.azure import verify_azure
from kokon.tee.vtpm.details import describe
from kokon.tee.vtpm.formats import (
    attest_begins,
    from_attestation,
    from_azure_snp_envelope,
    from_azure_tdx_envelope,
    from_bincode,
    from_tpm_envelope,
)
from kokon.tee.vtpm.hcl import MAGIC
from kokon.tee.vtpm.tpm import parse_attest
from kokon.tee.vtpm.verify import verify_tpm


def recognise_tpm(data: bytes) -> Evidence | None:
    """A bare TPMS_ATTEST, go-tpm-tools' message or the bincode form. Raises `MalformedError` of the format."""
    if attest_begins(data):
        parse_attest(data)
        return Evidence("tpm", data)
    if is_attestation(data):
        return from_attestation(data)
    return from_bincode(data) if is_bincode(data) else None


def _recognise_hcl(name: str, data: bytes) -> Evidence | None:
    """An HCL report by itself, as evidence without a quote, of the one or the other kind."""
    if data[:4] != MAGIC:
        return None
    found = assemble((data,))
    return found if found.tee == name else None


def recognise_azure_snp(data: bytes) -> Evidence | None:
    """An HCL report with an SNP report. Raises `MalformedError` (`hcl-malformed`)."""
    return _recognise_hcl("az-snp-vtpm", data)


def recognise_azure_tdx(data: bytes) -> Evidence | None:
    """An HCL report with a TD report. Raises `MalformedError` (`hcl-malformed`)."""
    return _recognise_hcl("az-tdx-vtpm", data)


TPM: Final = Tee("tpm", verify_tpm, recognise_tpm, from_tpm_envelope, describe)
AZURE_SNP: Final = Tee("az-snp-vtpm", verify_azure, recognise_azure_snp, from_azure_snp_envelope, describe)
AZURE_TDX: Final = Tee("az-tdx-vtpm", verify_azure, recognise_azure_tdx, from_azure_tdx_envelope, describe)
