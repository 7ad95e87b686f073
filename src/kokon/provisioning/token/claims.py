"""What is in a token: an EAR document by Trustee's names, in full or compact. Pure.

Trustee, the attestation service of Confidential Containers, puts evidence into its tokens whole, which with event logs
or certificates makes them larger than headers may be. A compact token keeps what policies ask about under the same
names, and puts digests where evidence stood; the verifier had the evidence, and the log has its digest too. What is
left out is undefined for policies: a rule must not rest on the absence of a claim.

Trustee's key broker (its `jsonwebtoken` crate, for which no audience is configured) refuses every token that has an
`aud`. A `portable` token names its audience in a claim of ours instead, so that it can be a passport there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from kokon.appraisal.ear import ear_document
from kokon.appraisal.remembered import ByIdentity
from kokon.appraisal.result import AttestationResult

AUDIENCE: Final = "aud"
PORTABLE_AUDIENCE: Final = "kokon.audience"
EVIDENCE: Final = "kokon.evidence"
"""`Claims.canonical` in hex: the digest of the evidence that the token speaks of."""
LARGE: Final = 512
"""A member of the TEE's claims whose JSON is longer gives way to its digest in compact tokens."""

_REPEATED: Final = frozenset(
    {
        # SNP: what stands there under Trustee's names too, or is of no use to policies.
        *("policy", "platform_info", "reported_tcb", "current_tcb", "committed_tcb", "launch_tcb", "host_data"),
        *("signature_algo", "signature_r", "signature_s", "signing_key", "unknown_bits", "report_id", "report_id_ma"),
        *("family_id", "image_id", "cpuid", "current_version", "committed_version"),
        *("launch_mit_vector", "current_mit_vector"),
        # Intel: of the quoting enclave and the collateral, which verification looked at.
        *("attestation_key", "qe_mrenclave", "qe_mrsigner", "qe_isv_prod_id", "qe_isv_svn", "padding", "pce_id"),
        *("certification_type", "platform_provider_id", "platform_instance_id", "earliest_issue_date"),
        *("latest_issue_date", "platform_tcb_date", "tdx_module_tcb_date", "qe_tcb_date", "qe_tcb_eval_num"),
        # TPM and Nitro: the registers stand there one by one.
        *("pcrs", "quotes", "user_data", "vm_configuration", "runtime_data_keys"),
    }
)
_OF_ONE_TEE: Final = frozenset({("tpm", "tpm"), ("nonce", "nitro")})
_OR_NONE: Final = frozenset({"id_key_digest", "author_key_digest"})
"""SNP's digests of keys, which are zeros where there is no such key."""
_WHOLE: Final = frozenset({"quote", "body", "tpm"})
"""Members that policies look into, however long."""
_ANNOTATED: Final = "ear.veraison.annotated-evidence"
_Platform = tuple[Mapping[str, Any], Mapping[str, Any]]
"""Members of the submodule without its evidence, and of the TEE's claims in there."""
_known: Final[ByIdentity[_Platform]] = ByIdentity()


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a token is for and what it is bound to: `audience` (the project), token id, the session's nonce, and the
    runtime data of the evidence (`messages.runtime_data`)."""

    audience: str
    identity: str
    nonce: str
    runtime_data: Mapping[str, Any]


def compact_ear(
    result: AttestationResult,
    subject: Subject,
    now: datetime,
    lifetime: timedelta,
    *,
    issuer: str,
    extra: Mapping[str, Any] | None = None,
    verbose: bool = False,
    portable: bool = False,
) -> dict[str, Any]:
    """The claims of a token issued at `now` (aware) and good for `lifetime`.

    `extra` are further top-level claims, which overwrite none of these. `verbose`: everything, also what large evidence
    says. `portable`: without `aud`.
    """
    runtime = dict(subject.runtime_data)
    devices = "" if verbose else runtime.pop("additional-evidence", "")
    if devices:
        runtime["additional-evidence_sha256"] = hashlib.sha256(devices.encode()).hexdigest()
    if verbose:
        claims = result.as_ear(now, lifetime, issuer=issuer, runtime_data=runtime)
    else:
        claims = _document(result, now, lifetime, issuer, runtime)
    claims |= {
        PORTABLE_AUDIENCE if portable else AUDIENCE: subject.audience,
        "jti": subject.identity,
        "eat_nonce": subject.nonce,
        EVIDENCE: result.claims.canonical.hex(),
    }
    return dict(extra or {}) | claims


def tee_pubkey(claims: Mapping[str, Any]) -> Mapping[str, str]:
    """The guest's key in the claims of one of our tokens, where Trustee's relying parties look for it."""
    evidence = claims["submods"]["cpu0"][_ANNOTATED]
    return evidence["runtime_data_claims"]["tee-pubkey"]  # type: ignore[no-any-return]


def audience_of(claims: Mapping[str, Any]) -> str:
    """The audience that a token names in either way, "" if none or one that is not a text."""
    audience = claims.get(AUDIENCE, claims.get(PORTABLE_AUDIENCE))
    return audience if isinstance(audience, str) else ""


def _document(
    result: AttestationResult, now: datetime, lifetime: timedelta, issuer: str, runtime: Mapping[str, Any]
) -> dict[str, Any]:
    """The EAR document of a compact token. What it says of the platform, the same for all claims that are alike, is
    made once for them; a result of another type than ours may say more."""
    claims, known = result.claims, None
    rest = (result.status, result.vector, result.checks, result.policy, result.reference, result.missing)
    if claims.alike is not None and type(result) is AttestationResult:
        known = _known.get((claims.alike, *rest)) or _known.put((claims.alike, *rest), _made_once(result, now))
    if known is not None:
        appraisal, members = known
        return ear_document(claims, appraisal, now, lifetime, issuer=issuer, runtime_data=runtime, members=members)
    document = result.as_ear(now, lifetime, issuer=issuer, runtime_data=runtime, verbose=False)
    _compact(document["submods"]["cpu0"], result.tee)
    return document


def _made_once(result: AttestationResult, now: datetime) -> _Platform:
    """What of a compact document says nothing of the one report."""
    submodule = result.as_ear(now, timedelta(0), issuer="", verbose=False)["submods"]["cpu0"]
    _compact(submodule, result.tee)
    members = submodule.pop(_ANNOTATED)[result.tee]
    return submodule, members


def _compact(submodule: dict[str, Any], tee: str) -> None:
    """Shorten a submodule in place: of checks their names, outcomes and codes; of evidence what policies ask about."""
    checks = [
        {name: check[name] for name in ("name", "outcome", "code") if name in check}
        for check in submodule.pop("kokon.checks")
    ]
    missing = submodule.pop("kokon.missing")
    submodule |= ({"kokon.checks": checks} if checks else {}) | ({"kokon.missing": missing} if missing else {})
    annotated = submodule[_ANNOTATED]
    annotated[tee] = _short(annotated[tee], tee)


def _short(members: Mapping[str, Any], tee: str) -> dict[str, Any]:
    short: dict[str, Any] = {}
    for name, value in members.items():
        if name in _REPEATED or (name, tee) in _OF_ONE_TEE or (name in _OR_NONE and value == "0" * 96):
            continue
        encoded = b"" if name in _WHOLE or not isinstance(value, str | list | dict) else msgspec.json.encode(value)
        if len(encoded) > LARGE:
            short[f"{name}_sha256"] = hashlib.sha256(encoded).hexdigest()
        else:
            short[name] = value
    return short
