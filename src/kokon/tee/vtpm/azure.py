"""Azure's confidential machines: a virtual TPM's quote, its key in an HCL report, and the hardware report behind. Pure.

The chain is: the chip signs the report (SNP) or quote (TDX); its REPORT_DATA is the hash of the runtime data; that
holds the attestation key; the key signs the PCRs. The hardware report is verified by its own TEE's package, its checks
are taken over with its name before them.

One of them weighs less here: that a TD's SEPT_VE_DISABLE is off is how Azure started all its early TDs, and says
nothing against the signatures. It is "not-checked" with the TDX package's code and waiver, so that policy decides: one
that does not grant the waiver must refuse it. The claims in `parts` have it as failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from kokon.errors import MalformedError
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Check, Claims, Evidence, Need, canonical_digest, failed, not_checked, passed
from kokon.tee.registry import verify
from kokon.tee.vtpm import hcl as layout
from kokon.tee.vtpm.details import describe_hcl, describe_pcrs, describe_quotes
from kokon.tee.vtpm.formats import AZURE_SNP, AZURE_TDX
from kokon.tee.vtpm.hcl import HclReport, parse_hcl
from kokon.tee.vtpm.keys import attestation_key
from kokon.tee.vtpm.proof import Proof, prove
from kokon.tee.vtpm.verify import examine_log, key_checks

_TYPES: Final = {AZURE_SNP: layout.SNP, AZURE_TDX: layout.TDX}
_BODIES: Final = {4: 48, 5: 54}
"""Where the report's body begins, by the TD quote's version."""
_LEFT_TO_POLICY: Final = "allow_sept_ve_off"
_BODY: Final = 584
"""Bytes of a TD 1.0 report body; later versions add to its end."""


def inner_evidence(evidence: Evidence, hcl: HclReport) -> Evidence | None:
    """The hardware's evidence inside, None for TDX without a quote: a TD report alone is signed by nobody."""
    if hcl.type == layout.SNP:
        return Evidence("snp", hcl.hardware, evidence.certificates)
    quote = evidence.parts.get("td-quote")
    return None if quote is None else Evidence("tdx", quote)


def verify_azure(evidence: Evidence, endorsements: Endorsements, now: datetime) -> Claims:
    """The claims of an Azure machine's evidence at the time `now` (aware), with all checks.

    Without a quote the HCL report alone is verified: the hardware's signature and the binding of the runtime data; the
    registers then hold no PCRs and `report_data` is the hardware's. Raises `MalformedError` of the formats inside.
    """
    hcl = parse_hcl(evidence.parts.get("hcl-report", b""))
    if _TYPES.get(evidence.tee) != hcl.type:
        found = f"a report of type {hcl.type}"
        raise MalformedError("hcl-malformed", "the HCL report is of another TEE", expected=evidence.tee, found=found)
    ak = attestation_key(evidence, hcl.ak)
    proof = prove(evidence, ak.key)
    inner = inner_evidence(evidence, hcl)
    hardware = verify(inner, endorsements, now) if inner is not None else None
    log_checks, log_details = examine_log(evidence, proof)
    checks = (
        *_check_hardware(hardware),
        *_check_binding(evidence, hcl),
        *_check_quote(proof),
        *proof.checks,
        *key_checks(ak, evidence, proof),
        *_check_user_data(evidence, hcl, proof),
        *log_checks,
    )
    details = describe_quotes(proof.statements, ak) | describe_pcrs(proof.banks) | log_details | describe_hcl(hcl)
    needs = (*(hardware.needs if hardware else (Need("quote", (("kind", "td-quote"),)),)), *_needs(proof))
    base = hardware or _nothing(evidence.tee)
    signed = (evidence.report, ak.spki) if evidence.report else (base.canonical or hcl.hardware, hcl.runtime_data)
    return replace(
        base,
        tee=evidence.tee,
        report_data=proof.statements[0].attest.extra_data if proof.statements else hcl.report_data,
        checks=checks,
        registers={**base.registers, **proof.registers},
        details=_details(details, hardware),
        needs=tuple(dict.fromkeys(needs)),
        parts=(hardware,) if hardware else (),
        canonical=canonical_digest(evidence.tee, *signed),
    )


def _details(own: dict[str, Any], hardware: Claims | None) -> dict[str, Any]:
    return own | ({hardware.tee: dict(hardware.details)} if hardware else {})


def _needs(proof: Proof) -> tuple[Need, ...]:
    return proof.needs if proof.statements else (Need("quote", (("kind", "tpm-quote"),), required=False),)


def _nothing(tee: str) -> Claims:
    """Claims of hardware that has said nothing yet."""
    return Claims(
        tee=tee,
        simulated=False,
        root="",
        product="",
        measurement=b"",
        host_data=b"",
        report_data=b"",
        debug=False,
        migratable=False,
        vmpl=0,
        chip_id=b"",
        reported_tcb={},
        checks=(),
    )


def _check_hardware(hardware: Claims | None) -> Iterator[Check]:
    if hardware is None:
        hint = "a TD report is signed by nobody: give the TD quote that was made of it"
        yield not_checked("TD quote", "azure-td-quote-missing", hint)
        return
    for check in hardware.checks:
        left_to_policy = check.outcome == "failed" and check.waiver == _LEFT_TO_POLICY
        outcome = "not-checked" if left_to_policy else check.outcome
        yield replace(check, name=f"{hardware.tee}: {check.name}", outcome=outcome)


def _check_binding(evidence: Evidence, hcl: HclReport) -> Iterator[Check]:
    """The runtime data, and with it the attestation key, stands in the hardware report; on TDX also in the quote."""
    name = "runtime data"
    if hcl.report_data == hcl.binding:
        yield passed(name, f"{hcl.hash} {hcl.binding.rstrip(bytes(1)).hex()} is REPORT_DATA")
        yield passed("attestation key", "in the hardware report")
    else:
        hint = "the runtime data with the attestation key is not this hardware's"
        expected, found = hcl.binding.hex(), hcl.report_data.hex()
        yield failed(name, "azure-runtime-data", expected=expected, found=found, hint=hint)
    quote = evidence.parts.get("td-quote")
    if hcl.type != layout.TDX or quote is None:
        return
    start = _BODIES.get(int.from_bytes(quote[:2], "little"), len(quote))
    body = quote[start : start + _BODY]
    if body == hcl.td_fields:
        yield passed("TD report", "the one that was quoted")
    else:
        hint = "the TD quote is of another machine or boot"
        expected, found = hcl.td_fields[-64:].hex(), body[-64:].hex()
        yield failed("TD report", "azure-td-report", expected=expected, found=found, hint=hint)


def _check_quote(proof: Proof) -> Iterator[Check]:
    if not proof.statements:
        hint = "only the hardware report was given: no PCR is proven, and the nonce is what the runtime data holds"
        yield not_checked("quote", "tpm-quote-missing", hint)


def _check_user_data(evidence: Evidence, hcl: HclReport, proof: Proof) -> Iterator[Check]:
    """From version 2 of the KBS envelope on, the hardware report was made for this nonce too (guest-components)."""
    if not proof.statements or evidence.parts.get("version", b"0") in (b"0", b"1"):
        return
    nonce = proof.statements[0].attest.extra_data
    if nonce and hcl.user_data.startswith(nonce):
        yield passed("user data", "begins with the quote's nonce")
    else:
        hint = "the hardware report was not made for this nonce"
        yield failed("user data", "azure-user-data", expected=nonce.hex(), found=hcl.user_data.hex(), hint=hint)
