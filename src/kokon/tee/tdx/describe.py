"""All fields of a TDX quote by name, as plain JSON values for people and policies. Nothing is verified.

Names and forms are those of Confidential Containers' Trustee where it has the field (its TDX claims): hexadecimal in
memory order below "quote", booleans below "td_attributes".
"""

from __future__ import annotations

from typing import Any, Final

from kokon.tee.intel.describe import describe_certification, describe_header
from kokon.tee.intel.quote import Quote, TdReport, encode_td_report

_BODY: Final = {
    "tcb_svn": "tee_tcb_svn",
    "mr_seam": "mr_seam",
    "mrsigner_seam": "mrsigner_seam",
    "seam_attributes": "seam_attributes",
    "td_attributes": "td_attributes",
    "xfam": "xfam",
    "mr_td": "mr_td",
    "mr_config_id": "mr_config_id",
    "mr_owner": "mr_owner",
    "mr_owner_config": "mr_owner_config",
    "rtmr_0": "rtmr0",
    "rtmr_1": "rtmr1",
    "rtmr_2": "rtmr2",
    "rtmr_3": "rtmr3",
    "report_data": "report_data",
    "tee_tcb_svn2": "tee_tcb_svn2",
    "mr_servicetd": "mr_service_td",
}
_ATTRIBUTES: Final = {
    "debug": 0,
    "hgs_plus_prof": 4,
    "perf_prof": 5,
    "pmt_prof": 6,
    "lass": 27,
    "septve_disable": 28,
    "migratable": 29,
    "protection_keys": 30,
    "key_locker": 31,
    "tpa": 62,
    "perfmon": 63,
}
"""Bits of TDATTRIBUTES (Intel TDX Module ABI)."""


def describe_quote(quote: Quote, body: TdReport) -> dict[str, Any]:
    """The fields of a quote and of its body."""
    values = {name: getattr(body, field) for name, field in _BODY.items()}
    described: dict[str, Any] = {
        "header": describe_header(quote, tdx=True),
        "body": {name: value.hex() for name, value in values.items() if value is not None},
    }
    if quote.header.version == 5:
        described["type"] = quote.body_type.to_bytes(2, "little").hex()
        described["size"] = len(encode_td_report(body)).to_bytes(4, "little").hex()
    return {
        "quote": described,
        "td_attributes": {name: bool(body.attributes >> bit & 1) for name, bit in _ATTRIBUTES.items()},
        "xfam": body.xfam.hex(),
        "report_data": body.report_data.hex(),
        "init_data": body.mr_config_id.hex(),
        **describe_certification(quote),
    }
