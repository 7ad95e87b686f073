"""Every field of a TPM's evidence as plain JSON values, for people, EAR documents and policies. Nothing is verified."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from kokon.errors import MalformedError
from kokon.tee.eventlog.log import EventLog
from kokon.tee.evidence import Evidence
from kokon.tee.vtpm.hcl import HclReport, parse_hcl
from kokon.tee.vtpm.keys import AttestationKey, attestation_key
from kokon.tee.vtpm.proof import Statement, read_log, read_statements
from kokon.tee.vtpm.quote import parse_pcrs, strongest
from kokon.tee.vtpm.tpm import ATTRIBUTES, Attest
from kokon.wire import b64

EVENTS_SHOWN: Final = 2000


def describe(evidence: Evidence) -> dict[str, Any]:
    """All there is in evidence of "tpm" or of an Azure machine. Raises `MalformedError` of the formats."""
    hcl = parse_hcl(evidence.parts["hcl-report"]) if "hcl-report" in evidence.parts else None
    ak = attestation_key(evidence, hcl.ak if hcl else b"")
    statements = read_statements(evidence, ak.key)
    found = describe_quotes(statements, ak) | describe_pcrs(parse_pcrs(evidence.parts.get("pcrs", b"")))
    log = read_log(evidence)
    if log is not None:
        found["uefi_event_logs"] = describe_log(log)
    if hcl is not None:
        found |= describe_hcl(hcl) | _hardware(evidence, hcl)
    return found


def _hardware(evidence: Evidence, hcl: HclReport) -> dict[str, Any]:
    """The hardware report's fields by its TEE's own description."""
    from kokon.tee.registry import tee
    from kokon.tee.vtpm.azure import inner_evidence

    inner = inner_evidence(evidence, hcl)
    if inner is None:
        return {}
    try:
        return {inner.tee: tee(inner.tee).describe(inner)}
    except MalformedError as error:
        return {inner.tee: str(error)}


def describe_quotes(statements: tuple[Statement, ...], ak: AttestationKey) -> dict[str, Any]:
    """Quotes and key. `report_data` and `ak_public` are named as Confidential Containers' verifier names them."""
    found: dict[str, Any] = {"quotes": [_quote(statement) for statement in statements]}
    if statements:
        found["report_data"] = statements[0].attest.extra_data.hex()
    if ak.spki:
        found |= {"ak_public": b64(ak.spki), "ak_fingerprint": ak.fingerprint}
    if ak.public is not None:
        found["ak_attributes"] = [name for name in ATTRIBUTES if ak.public.has(name)]
    return found


def _quote(statement: Statement) -> dict[str, Any]:
    found = _attest(statement.attest)
    if statement.signature is not None:
        found["signature"] = {"scheme": statement.signature.scheme, "hash": statement.signature.hash}
    return found


def _attest(attest: Attest) -> dict[str, Any]:
    return {
        "qualified_signer": attest.qualified_signer.hex(),
        "extra_data": attest.extra_data.hex(),
        "clock": attest.clock,
        "reset_count": attest.reset_count,
        "restart_count": attest.restart_count,
        "safe": attest.safe,
        "firmware_version": f"{attest.firmware_version:#018x}",
        "pcr_selection": {selection.bank: list(selection.pcrs) for selection in attest.selections},
        "pcr_digest": attest.pcr_digest.hex(),
    }


def describe_pcrs(banks: Mapping[str, Mapping[int, bytes]]) -> dict[str, Any]:
    """PCR values: all banks, and "tpm" with the strongest bank's as "pcr00", as Confidential Containers name them."""
    if not banks:
        return {}
    by_bank = {bank: {str(index): value.hex() for index, value in values.items()} for bank, values in banks.items()}
    strong = banks.get(strongest(banks), {})
    return {"pcrs": by_bank, "tpm": {f"pcr{index:02}": value.hex() for index, value in strong.items()}}


def describe_log(log: EventLog) -> dict[str, Any]:
    """An event log: what is said of each event, at most 2,000 of them."""
    events = [
        {
            "index": event.index,
            "register": event.register,
            "type": event.type_name,
            "description": event.description,
            "digests": {name: digest.hex() for name, digest in event.digests.items()},
        }
        for event in log.events[:EVENTS_SHOWN]
    ]
    found = {"algorithms": list(log.algorithms), "locality": log.locality, "count": len(log.events)}
    return {**found, "events": events}


def describe_hcl(hcl: HclReport) -> dict[str, Any]:
    """Azure's runtime data."""
    return {
        "hcl_version": hcl.version,
        "hcl_report_type": hcl.type,
        "vm_configuration": hcl.claims.get("vm-configuration", {}),
        "user_data": hcl.user_data.hex(),
        "runtime_data_keys": [key.get("kid", "") for key in hcl.claims["keys"] if isinstance(key, dict)],
    }
