"""SGX in the registry of TEEs: raw quotes and the KBS protocol's JSON in, evidence out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kokon.tee.evidence import Evidence
from kokon.tee.intel.quote import QUOTE_LIMIT, looks_like_quote
from kokon.tee.intel.quote import SGX as TEE_TYPE
from kokon.tee.registry import Tee
from kokon.tee.sgx.describe import describe_quote
from kokon.tee.sgx.verify import parse_enclave_quote, verify
from kokon.wire import Fields, unb64


def recognise(data: bytes) -> Evidence | None:
    """Evidence in raw bytes that begin like an SGX quote, with whatever padding follows.

    Raises what `parse_quote` raises.
    """
    if not looks_like_quote(data, TEE_TYPE):
        return None
    parse_enclave_quote(data)
    return Evidence("sgx", data)


def from_envelope(value: Mapping[str, Any]) -> Evidence:
    """Evidence from the KBS protocol's `{"quote": base64}`.

    Raises `MalformedError`: `field-missing`, `field-type`, `field-unknown`, `base64-malformed`, `quote-tee-type` for a
    TDX quote, and what `parse_quote` raises.
    """
    fields = Fields(value, "SGX evidence")
    quote = unb64(fields.text("quote", limit=2 * QUOTE_LIMIT), what="the quote", limit=QUOTE_LIMIT)
    fields.finish()
    parse_enclave_quote(quote)
    return Evidence("sgx", quote)


def describe(evidence: Evidence) -> dict[str, Any]:
    """All fields of the quote. Raises what `parse_quote` raises."""
    return describe_quote(*parse_enclave_quote(evidence.report))


SGX: Final = Tee("sgx", verify, recognise, from_envelope, describe)
