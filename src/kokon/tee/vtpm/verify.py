"""A TPM's quote to claims. Pure: the quote's signature, the key's origin, PCR values, event log.

Every check is made and recorded even if an earlier one failed. What the PCRs mean is policy and decided in `appraisal`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from kokon.errors import MalformedError
from kokon.tee import anchors
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Check, Claims, Evidence, canonical_digest, not_checked
from kokon.tee.vtpm.details import describe_log, describe_pcrs, describe_quotes
from kokon.tee.vtpm.keys import AttestationKey, attestation_key, check_kind, check_origin
from kokon.tee.vtpm.proof import Proof, check_log, prove, read_log


def verify_tpm(evidence: Evidence, endorsements: Endorsements, now: datetime) -> Claims:
    """The claims of a TPM's evidence at the time `now` (aware), with all checks.

    Raises `MalformedError` (`tpm-malformed`, `event-log-malformed`) for bytes that do not parse.
    """
    if not evidence.report:
        raise MalformedError("tpm-malformed", "no quote in the evidence", expected="TPMS_ATTEST", found="0 bytes")
    ak = attestation_key(evidence)
    proof = prove(evidence, ak.key)
    origin = check_origin(ak, evidence, endorsements, now)
    log_checks, log_details = examine_log(evidence, proof)
    root = origin.root
    details = describe_quotes(proof.statements, ak) | describe_pcrs(proof.banks) | log_details
    if origin.path:
        details["ak_certificate"] = describe_certificates(origin.path)
    return Claims(
        tee=evidence.tee,
        simulated=root is not None and anchors.is_simulated(root, anchors.TPM, endorsements.accepted_simulated),
        root=root.fingerprint if root else "",
        product=anchors.TPM.get(root.fingerprint, root.name) if root else "",
        measurement=proof.measurement,
        host_data=b"",
        report_data=proof.statements[0].attest.extra_data,
        debug=False,
        migratable=False,
        vmpl=0,
        chip_id=b"",
        reported_tcb={},
        checks=(*proof.checks, *key_checks(ak, evidence, proof), *origin.checks, *log_checks),
        registers=proof.registers,
        details=details,
        needs=(*proof.needs, *origin.needs),
        canonical=canonical_digest(evidence.tee, evidence.report, ak.spki),
    )


def key_checks(ak: AttestationKey, evidence: Evidence, proof: Proof) -> tuple[Check, ...]:
    """What kind of key made the quotes."""
    signers = frozenset(statement.attest.qualified_signer for statement in proof.statements)
    return tuple(check_kind(ak, evidence, signers))


def examine_log(evidence: Evidence, proof: Proof) -> tuple[tuple[Check, ...], dict[str, Any]]:
    """Checks and description of the event log, and of what stands beside the quotes and is not evaluated."""
    checks: list[Check] = []
    details: dict[str, Any] = {}
    log = read_log(evidence)
    if log is not None:
        checks += check_log(log, proof.banks)
        details["uefi_event_logs"] = describe_log(log)
    if "tee-attestation" in evidence.parts:
        hint = (
            "go-tpm-tools put a hardware report beside the quote; nothing binds the key to it, so it is not evaluated"
        )
        checks.append(not_checked("hardware report beside the quote", "tpm-tee-attestation", hint))
    return tuple(checks), details


def describe_certificates(path: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Names and dates of a path, leaf first, with extensions nobody here reads, in hex."""
    return [
        {
            "name": certificate.name,
            "not_before": f"{certificate.not_before:%Y-%m-%dT%H:%M:%SZ}",
            "not_after": f"{certificate.not_after:%Y-%m-%dT%H:%M:%SZ}",
            "extensions": {name: value.hex() for name, value in certificate.unknown.items()},
        }
        for certificate in path
    ]
