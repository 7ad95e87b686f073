"""All fields of an SGX quote by name, as plain JSON values for people and policies. Nothing is verified.

Names and forms are those of Confidential Containers' Trustee where it has the field (its SGX claims).
"""

from __future__ import annotations

from typing import Any, Final

from kokon.tee.intel.describe import describe_certification, describe_header
from kokon.tee.intel.quote import EnclaveReport, Quote

_FLAGS: Final = {
    "init": 0,
    "debug": 1,
    "mode64bit": 2,
    "provision_key": 4,
    "einittoken_key": 5,
    "cet": 6,
    "kss": 7,
    "aex_notify": 10,
}
"""Bits of ATTRIBUTES.FLAGS (Intel SDM volume 3D, 35.7.1)."""


def describe_quote(quote: Quote, body: EnclaveReport) -> dict[str, Any]:
    """The fields of a quote and of its body."""
    return {
        "header": describe_header(quote, tdx=False),
        "body": {
            "cpu_svn": body.cpu_svn.hex(),
            "misc_select": body.misc_select.hex(),
            "isv_ext_prod_id": body.isv_ext_prod_id.hex(),
            "attributes.flags": body.attributes[:8].hex(),
            "attributes.xfrm": body.attributes[8:].hex(),
            "mr_enclave": body.mr_enclave.hex(),
            "mr_signer": body.mr_signer.hex(),
            "config_id": body.config_id.hex(),
            "isv_prod_id": body.isv_prod_id.to_bytes(2, "little").hex(),
            "isv_svn": body.isv_svn.to_bytes(2, "little").hex(),
            "config_svn": body.config_svn.to_bytes(2, "little").hex(),
            "isv_family_id": body.isv_family_id.hex(),
            "report_data": body.report_data.hex(),
        },
        "attributes": {name: bool(body.flags >> bit & 1) for name, bit in _FLAGS.items()},
        "report_data": body.report_data.hex(),
        "init_data": body.config_id.hex(),
        **describe_certification(quote),
    }
