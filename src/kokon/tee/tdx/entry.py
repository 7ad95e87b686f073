"""TDX in the registry of TEEs: raw quotes and the KBS protocol's JSON in, evidence out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kokon.tee.evidence import Evidence
from kokon.tee.intel.quote import QUOTE_LIMIT, looks_like_quote
from kokon.tee.intel.quote import TDX as TEE_TYPE
from kokon.tee.registry import Tee
from kokon.tee.tdx.describe import describe_quote
from kokon.tee.tdx.verify import EVENT_LOG, parse_td_quote, verify
from kokon.wire import Fields, unb64

LOG_LIMIT: Final = 1 << 20


def recognise(data: bytes) -> Evidence | None:
    """Evidence in raw bytes that begin like a TDX quote, with whatever padding follows.

    Raises what `parse_quote` raises.
    """
    if not looks_like_quote(data, TEE_TYPE):
        return None
    parse_td_quote(data)
    return Evidence("tdx", data)


def from_envelope(value: Mapping[str, Any]) -> Evidence:
    """Evidence from the KBS protocol's `{"quote": base64, "cc_eventlog": base64 or null}`.

    Raises `MalformedError`: `field-missing`, `field-type`, `field-unknown`, `base64-malformed`, `quote-tee-type` for an
    SGX quote, and what `parse_quote` raises.
    """
    fields = Fields(value, "TDX evidence")
    quote = unb64(fields.text("quote", limit=2 * QUOTE_LIMIT), what="the quote", limit=QUOTE_LIMIT)
    log = None
    if value.get("cc_eventlog") is None:
        fields.value("cc_eventlog", default=None)
    else:
        log = unb64(fields.text("cc_eventlog", limit=2 * LOG_LIMIT), what="the event log", limit=LOG_LIMIT)
    fields.finish()
    parse_td_quote(quote)
    return Evidence("tdx", quote, parts={} if log is None else {EVENT_LOG: log})


def describe(evidence: Evidence) -> dict[str, Any]:
    """All fields of the quote. Raises what `parse_quote` raises."""
    return describe_quote(*parse_td_quote(evidence.report))


TDX: Final = Tee("tdx", verify, recognise, from_envelope, describe)
