"""SGX evidence to claims: the quote, what stands behind it (`tee.intel`), and what the enclave is. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from kokon.errors import MalformedError
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Check, Claims, Evidence, canonical_digest, failed, passed
from kokon.tee.intel.quote import EnclaveReport, Quote, parse_quote
from kokon.tee.intel.verify import verify_platform
from kokon.tee.sgx.describe import describe_quote

DEBUG: Final = 1 << 1
"""ATTRIBUTES.FLAGS bit 1."""
_KNOWN: Final = sum(1 << bit for bit in (0, 1, 2, 4, 5, 6, 7, 10))
"""INIT, DEBUG, MODE64BIT, PROVISIONKEY, EINITTOKENKEY, CET, KSS, AEXNOTIFY (Intel SDM volume 3D, 35.7.1)."""


def parse_enclave_quote(data: bytes) -> tuple[Quote, EnclaveReport]:
    """An SGX quote and its body. Raises what `parse_quote` raises, `quote-tee-type` for a TDX quote."""
    quote = parse_quote(data)
    if not isinstance(quote.body, EnclaveReport):
        raise MalformedError("quote-tee-type", "this is no SGX quote", expected="SGX", found="TDX")
    return quote, quote.body


def verify(evidence: Evidence, endorsements: Endorsements, now: datetime) -> Claims:
    """The claims of SGX evidence at the time `now` (aware), with all checks.

    Raises `MalformedError` for bytes that do not parse: a quote or a certificate in it.
    """
    quote, body = parse_enclave_quote(evidence.report)
    platform = verify_platform(quote, "sgx", endorsements, now)
    return Claims(
        tee="sgx",
        simulated=platform.simulated,
        root=platform.root,
        product=platform.product,
        measurement=body.mr_enclave,
        host_data=body.config_id,
        report_data=body.report_data,
        debug=bool(body.flags & DEBUG),
        migratable=False,
        vmpl=0,
        chip_id=(platform.pck and platform.pck.platform_instance_id) or b"",
        reported_tcb=platform.tcb,
        checks=(*platform.checks, *check_enclave(body)),
        registers={"mrenclave": body.mr_enclave, "mrsigner": body.mr_signer},
        tcb_status=platform.tcb_status,
        advisories=platform.advisories,
        signer=body.mr_signer,
        product_id=body.isv_prod_id,
        security_version=body.isv_svn,
        details=describe_quote(quote, body) | dict(platform.details),
        needs=platform.needs,
        canonical=canonical_digest("sgx", quote.signed, quote.attestation_key + platform.signer),
    )


def check_enclave(body: EnclaveReport) -> Iterator[Check]:
    """Debug mode and reserved attributes."""
    if body.flags & DEBUG:
        hint = "the host can read this enclave's memory; build and sign it without debug"
        yield failed("debug", "sgx-debug", expected="off", found="on", hint=hint, waiver="allow_debug")
    else:
        yield passed("debug", "off")
    reserved = body.flags & ~_KNOWN
    if reserved:
        hint = "this code does not know what these bits allow"
        yield failed("attributes", "sgx-reserved-attributes", expected="0", found=f"{reserved:#x}", hint=hint)
    else:
        yield passed("attributes", body.attributes.hex())
