"""Fields that TDX and SGX quotes share, as plain JSON values under the names of Confidential Containers' Trustee."""

from __future__ import annotations

from typing import Any

from kokon.tee.intel.quote import Quote


def describe_header(quote: Quote, *, tdx: bool) -> dict[str, str]:
    """The header in hexadecimal, integers in memory order."""
    header = quote.header
    described = {
        "version": header.version.to_bytes(2, "little").hex(),
        "att_key_type": header.key_type.to_bytes(2, "little").hex(),
        "vendor_id": header.qe_vendor_id.hex(),
        "user_data": header.user_data.hex(),
    }
    tee_type = header.tee_type.to_bytes(4, "little").hex()
    qe_svn, pce_svn = header.qe_svn.to_bytes(2, "little").hex(), header.pce_svn.to_bytes(2, "little").hex()
    if tdx:
        return described | {"tee_type": tee_type, "reserved": qe_svn + pce_svn}
    return described | {"att_key_data_0": tee_type, "qe_svn": qe_svn, "pce_svn": pce_svn}


def describe_certification(quote: Quote) -> dict[str, Any]:
    """What else a quote says: the quoting enclave, the attestation key, how its platform is certified."""
    report = quote.qe_report
    return {
        "quote_version": quote.header.version,
        "certification_type": quote.certification.kind,
        "attestation_key": quote.attestation_key.hex(),
        "qe_mrenclave": report.mr_enclave.hex(),
        "qe_mrsigner": report.mr_signer.hex(),
        "qe_isv_prod_id": report.isv_prod_id,
        "qe_isv_svn": report.isv_svn,
        "padding": len(quote.padding),
    }
