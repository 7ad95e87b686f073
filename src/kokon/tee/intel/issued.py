"""Finding, among everything at hand, what Intel issued for a platform: TCB info and the quoting enclave's identity.
Pure.

Documents may come from anybody and for anything. What is for another platform is passed over; of what is for this one
the best is taken, and then every reason against it is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, TypeVar

from kokon.errors import MalformedError
from kokon.tee.certificates import Certificate
from kokon.tee.endorsements import Endorsements, SignedDocument
from kokon.tee.evidence import Check, Need, failed, not_checked, passed
from kokon.tee.intel.chain import Chain, Pool, check_chain
from kokon.tee.intel.collateral import is_signed_by
from kokon.tee.intel.documents import QeIdentity, TcbInfo, parse_qe_identity, parse_tcb_info

SIGNER: Final = "TCB Signing"
"""How the common name of who signs these documents ends. A PCK certificate, say, may not sign them."""

_Content = TypeVar("_Content", bound=TcbInfo | QeIdentity)


@dataclass(frozen=True, slots=True)
class Issued(Generic[_Content]):
    """A document and what was found out about it; `content` is None if there is none."""

    content: _Content | None
    checks: tuple[Check, ...]
    needs: tuple[Need, ...] = ()
    starts: tuple[datetime, ...] = ()
    ends: tuple[datetime, ...] = ()
    path: tuple[Certificate, ...] = ()


def find_tcb_info(
    tee: str, fmspc: bytes, pool: Pool, pck: Chain | None, endorsements: Endorsements, now: datetime
) -> Issued[TcbInfo]:
    """TCB info for that TEE and FMSPC. `pck` is the platform's chain, which must end in the same root."""
    candidates = [
        (document, info)
        for document, info in _parsed(endorsements, "tcb-info", parse_tcb_info)
        if info.tee == tee and info.fmspc == fmspc
    ]
    if candidates:
        return _best("tcb-info", candidates, pool, pck, endorsements, now)
    hint = f"no TCB info for FMSPC {fmspc.hex()} was given"
    need = Need("tcb-info", (("fmspc", fmspc.hex()), ("tee", tee)))
    return Issued(None, (not_checked("tcb-info", "intel-tcb-info-missing", hint),), (need,))


def find_qe_identity(
    tee: str, pool: Pool, pck: Chain | None, endorsements: Endorsements, now: datetime
) -> Issued[QeIdentity]:
    """The identity of that TEE's quoting enclave."""
    candidates = [
        (document, identity)
        for document, identity in _parsed(endorsements, "qe-identity", parse_qe_identity)
        if identity.tee == tee
    ]
    if candidates:
        return _best("qe-identity", candidates, pool, pck, endorsements, now)
    hint = "no identity of the quoting enclave was given"
    need = Need("qe-identity", (("tee", tee),))
    return Issued(None, (not_checked("qe-identity", "intel-qe-identity-missing", hint),), (need,))


def _parsed(
    endorsements: Endorsements, kind: str, parse: Callable[[bytes], _Content]
) -> Iterator[tuple[SignedDocument, _Content]]:
    for document in endorsements.documents:
        if document.kind == kind:
            try:
                yield document, parse(document.body)
            except MalformedError:
                continue


@dataclass(frozen=True, slots=True)
class _Examined(Generic[_Content]):
    content: _Content
    chain: Chain | None
    signed: bool
    rank: tuple[bool, bool, int, datetime]


def _best(
    name: str,
    candidates: list[tuple[SignedDocument, _Content]],
    pool: Pool,
    pck: Chain | None,
    endorsements: Endorsements,
    now: datetime,
) -> Issued[_Content]:
    """What is genuine comes first, then what is in date, then the highest evaluation number, then the newest."""
    examined = [_examine(document, content, pool, pck, now) for document, content in candidates]
    best = max(examined, key=lambda one: one.rank)
    content, chain = best.content, best.chain
    checks = (
        _check_signature(name, chain, signed=best.signed),
        *(chain.checks if chain else ()),
        *(_check_root(name, chain, pck) if best.signed else ()),
        _check_dates(name, content, now),
        _check_evaluation(name, content, endorsements),
    )
    return Issued(
        content,
        checks,
        chain.needs if chain else (),
        (content.issue_date, *(chain.starts if chain else ())),
        (content.next_update, *(chain.ends if chain else ())),
        chain.path if chain else (),
    )


def _examine(
    document: SignedDocument, content: _Content, pool: Pool, pck: Chain | None, now: datetime
) -> _Examined[_Content]:
    signer, signed = _signer(document, pool, now)
    chain = None if signer is None else check_chain(signer, pool, now)
    genuine = signed and chain is not None and chain.holds and _same_root(chain, pck)
    in_date = content.issue_date <= now < content.next_update
    return _Examined(content, chain, signed, (genuine, in_date, content.evaluation, content.issue_date))


def _signer(document: SignedDocument, pool: Pool, now: datetime) -> tuple[Certificate | None, bool]:
    """Who signed the document, and True; else who might have, and False. Of several issues one that is in date."""
    named = [certificate for certificate in pool.certificates if certificate.name.endswith(SIGNER)]
    signed = [certificate for certificate in named if is_signed_by(document, certificate)]
    current = [certificate for certificate in signed if certificate.not_before <= now < certificate.not_after]
    return next(iter(current or signed or named), None), bool(signed)


def _same_root(chain: Chain, pck: Chain | None) -> bool:
    """True if both end in one root, or there is nothing to compare with."""
    if pck is None or pck.root is None or chain.root is None:
        return True
    return pck.root.fingerprint == chain.root.fingerprint


def _check_signature(name: str, chain: Chain | None, *, signed: bool) -> Check:
    if signed and chain is not None:
        return passed(f"{name}-signature", f"by {chain.path[0].name}")
    hint = "the document was altered, or it was written anew instead of kept as it was sent"
    return failed(
        f"{name}-signature",
        "intel-document-signature",
        expected="a signature by Intel SGX TCB Signing",
        found="another",
        hint=hint,
    )


def _check_root(name: str, chain: Chain | None, pck: Chain | None) -> Iterator[Check]:
    """A simulated root that the caller accepts must not vouch for what a real platform is worth."""
    if chain is not None and not _same_root(chain, pck):
        expected = "the root of the PCK certificate"
        found = chain.path[-1].fingerprint
        yield failed(f"{name}-root", "intel-root-mixed", expected=expected, found=found)


def _check_dates(name: str, content: TcbInfo | QeIdentity, now: datetime) -> Check:
    name = f"{name}-dates"
    found = f"from {content.issue_date:%Y-%m-%dT%H:%M:%SZ} to {content.next_update:%Y-%m-%dT%H:%M:%SZ}"
    if now < content.issue_date:
        return failed(name, "intel-document-not-yet-valid", expected=f"{now:%Y-%m-%dT%H:%M:%SZ} within it", found=found)
    if now >= content.next_update:
        hint = "Intel issues it anew every few days, for 30 days: fetch the current one"
        expected = f"{now:%Y-%m-%dT%H:%M:%SZ} within it"
        return failed(name, "intel-document-expired", expected=expected, found=found, hint=hint)
    return passed(name, found)


def _check_evaluation(name: str, content: TcbInfo | QeIdentity, endorsements: Endorsements) -> Check:
    """The number goes up with each of Intel's TCB recoveries; what knew fewer weaknesses is not believed any more."""
    if content.evaluation >= endorsements.minimum_evaluation:
        return passed(f"{name}-evaluation", content.evaluation)
    return failed(
        f"{name}-evaluation",
        "intel-evaluation-number",
        expected=f">= {endorsements.minimum_evaluation}",
        found=content.evaluation,
        hint="a newer TCB evaluation was seen before: this one knows fewer weaknesses",
    )
