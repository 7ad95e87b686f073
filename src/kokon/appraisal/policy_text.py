"""A policy in plain sentences, every decision explained, for owners and auditors. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

from kokon.appraisal.policy import Policy, Tolerance

_SWITCHES: Final[Mapping[str, tuple[str, str]]] = {
    "allow_debug": ("Debug enclaves are refused.", "Debug enclaves are ALLOWED: the host can read their memory."),
    "allow_migration": (
        "Guests that a migration agent may move are refused.",
        "Guests that a migration agent may move are ALLOWED.",
    ),
    "allow_sept_ve_off": (
        "TDX guests with SEPT_VE_DISABLE off are refused.",
        "TDX guests with SEPT_VE_DISABLE off are ALLOWED: the host may interrupt them at any page.",
    ),
    "allow_service_td": (
        "TDX guests with a service TD are refused.",
        "TDX guests with a service TD are ALLOWED; which one is not judged.",
    ),
    "allow_vmpl_nonzero": (
        "SEV-SNP reports from below VMPL 0 are refused.",
        "SEV-SNP reports from below VMPL 0 are ALLOWED: more privileged guest software stands above.",
    ),
    "allow_dynamic_platform": (
        "Intel platforms to which processors may be added are refused.",
        "Intel platforms to which processors may be added are ALLOWED.",
    ),
    "allow_cached_keys": (
        "Intel platforms whose root keys Intel keeps are refused.",
        "Intel platforms whose root keys Intel keeps are ALLOWED.",
    ),
    "allow_unbound_ak": (
        "A TPM's attestation key must be bound to hardware or a vendor's certificate, or be enrolled.",
        "Attestation keys of TPMs that nobody vouches for are ALLOWED: such a quote proves nothing by itself.",
    ),
    "allow_partial_references": (
        "Reference values must cover all that runs.",
        "Reference values that cover only a part of what runs are ALLOWED.",
    ),
    "require_smt_off": (
        "Simultaneous multithreading may be on.",
        "Simultaneous multithreading must be off.",
    ),
    "require_current_tcb": (
        "SEV-SNP firmware may have an update pending.",
        "SEV-SNP firmware must have nothing pending: reported, committed and current TCB are equal.",
    ),
    "require_event_log": (
        "An event log is replayed if it is given.",
        "TDX and TPM evidence must come with its event log, which must replay to the registers.",
    ),
}


def describe(policy: Policy, now: datetime | None = None) -> list[str]:
    """What the policy demands, permits and tolerates, a sentence each. With `now` (aware), tolerances that have ended
    are called so."""
    return [
        f"Policy {policy.name}.",
        *(texts[getattr(policy, name)] for name, texts in _SWITCHES.items()),
        *_evidence(policy),
        *_snp(policy),
        *_intel(policy, now),
        *_restrictions(policy),
    ]


def _evidence(policy: Policy) -> Iterator[str]:
    if policy.revocation == "required":
        yield "AMD's or Intel's revocation lists must have been consulted, and be in date."
    else:
        yield "Revocation lists are consulted IF they are given; evidence is accepted without them."
    if policy.maximum_age is None:
        yield "Evidence that carries a time may be of ANY age."
    else:
        yield f"Evidence that carries a time (AWS Nitro) may be {int(policy.maximum_age.total_seconds())} seconds old."
    numbers = ", ".join(map(str, policy.required_pcrs))
    yield f"A TPM's quote must cover PCR {numbers}." if numbers else "A TPM's quote may cover ANY PCRs."


def _snp(policy: Policy) -> Iterator[str]:
    if not policy.minimum_tcb and not policy.minimum_tcb_by_product:
        yield "No lowest SEV-SNP firmware version is named: any version that AMD certified will do."
    if policy.minimum_tcb:
        yield f"SEV-SNP: reported, committed and launch TCB are at least {_components(policy.minimum_tcb)}."
    for product, minimum in sorted(policy.minimum_tcb_by_product.items()):
        yield f"SEV-SNP on {product}: at least {_components(minimum)}."


def _components(minimum: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(minimum.items()))


def _intel(policy: Policy, now: datetime | None) -> Iterator[str]:
    yield "Intel's TCB status must be UpToDate and no advisory may be open, with the exceptions that follow, if any."
    for kind, tolerances in (("status", policy.tolerated_statuses), ("advisory", policy.tolerated_advisories)):
        for one in tolerances:
            yield _tolerance(kind, one, now)
    if policy.minimum_evaluation:
        yield f"Intel's TCB evaluation data number is at least {policy.minimum_evaluation}."
    if policy.minimum_tcb_date is not None:
        yield f"Intel's TCB level is dated {policy.minimum_tcb_date.isoformat()} or later."


def _tolerance(kind: str, one: Tolerance, now: datetime | None) -> str:
    end = f"{one.until:%Y-%m-%dT%H:%M:%SZ}"
    if now is not None and now >= one.until:
        return f"The {kind} {one.name} was tolerated before {end} and IS NOT ANY MORE: {one.reason}"
    return f"The {kind} {one.name} is TOLERATED before {end}: {one.reason}"


def _restrictions(policy: Policy) -> Iterator[str]:
    if policy.only_tees:
        yield f"Only these kinds of TEE are accepted: {', '.join(policy.only_tees)}."
    else:
        yield "Every kind of TEE is accepted."
    if policy.only_chips:
        yield f"Only these platforms are accepted: {', '.join(chip.hex() for chip in policy.only_chips)}."
    else:
        yield "Every genuine platform is accepted, wherever it stands."
    if policy.only_simulated_roots:
        yield f"Of simulated roots only these: {', '.join(policy.only_simulated_roots)}."
