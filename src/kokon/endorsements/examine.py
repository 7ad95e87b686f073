"""Whether a service's answer is what was asked for, so that nothing else is kept. Pure.

This is hygiene, not verification: it keeps wrong, forged and outdated answers out of the cache, where they would make
good evidence fail. What counts is decided over again when evidence is verified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from kokon.endorsements.needs import FMSPC_SIZE, chip, octets, parameter, product
from kokon.errors import MalformedError, StaleError, UntrustedError
from kokon.tee.anchors import AMD, INTEL, check_root
from kokon.tee.certificates import Certificate, parse_certificate
from kokon.tee.endorsed import parse_all
from kokon.tee.endorsements import Endorsements, SignedDocument
from kokon.tee.evidence import Need
from kokon.tee.intel.collateral import is_signed_by
from kokon.tee.intel.documents import QeIdentity, TcbInfo, parse_qe_identity, parse_tcb_info
from kokon.tee.intel.known import certificates as intel_certificates
from kokon.tee.intel.pck import SGX_EXTENSION, parse_pck_extension
from kokon.tee.path import build_path, check_path
from kokon.tee.revocation import RevocationList, parse_crl
from kokon.tee.snp.amd import certificates as amd_certificates
from kokon.tee.snp.extensions import parse_extensions

_DATES: Final = ("certificate-expired", "certificate-not-yet-valid")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Examined:
    """What an answer turned out to be: the fingerprint of its root, the TCB evaluation data number (0 where there is
    none), and when it ends by itself (None: it does not say)."""

    root: str
    evaluation: int = 0
    expires: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Case:
    need: Need
    found: Endorsements
    now: datetime
    pool: tuple[Certificate, ...]
    accepted: frozenset[str]


def examine(
    need: Need,
    found: Endorsements,
    now: datetime,
    *,
    known: Iterable[bytes] = (),
    accepted: frozenset[str] = frozenset(),
) -> Examined:
    """Whether `found` is what `need` names: of that chip, product or platform, signed up to a vendor's pinned root or
    an `accepted` simulated one, and in date at `now`. `known` are further certificates (DER) to make chains from.

    Raises `UntrustedError` (`endorsement-wrong`), `StaleError` (`endorsement-stale`) and for a need that nobody can
    be asked for `UsageError` (`endorsement-parameters`).
    """
    chains = (der for document in found.documents for der in document.chain)
    pool = parse_all((*found.certificates, *chains, *known, *amd_certificates(), *intel_certificates()))
    case = _Case(need, found, now, pool, accepted)
    try:
        return _EXAMINERS[need.kind](case)
    except MalformedError as error:
        raise _wrong(need, "something well-formed", error) from error


def _vcek(case: _Case) -> Examined:
    wanted = chip(case.need)
    leaf = parse_certificate(_one(case, case.found.certificates[:1]))
    said = parse_extensions(leaf.unknown)
    found = (said.product, said.hardware_id or b"", {name: said.tcb.get(name) for name in wanted.tcb})
    if found != (wanted.product, wanted.hardware_id, dict(wanted.tcb)):
        raise _wrong(case.need, "a certificate of this chip and TCB", f"{found[0]} {found[1].hex()} {said.tcb}")
    root = _rooted(case, leaf, AMD)
    _product_of(case, root, wanted.product)
    return Examined(root.fingerprint, expires=leaf.not_after)


def _amd_chain(case: _Case) -> Examined:
    kind, line = parameter(case.need, "kind", "vcek", "vlek"), product(case.need)
    intermediate = parse_certificate(_one(case, case.found.certificates[:1]))
    vlek = "VLEK" in intermediate.name
    if intermediate.self_issued or not intermediate.authority or vlek != (kind == "vlek"):
        raise _wrong(case.need, f"the authority for {kind.upper()}s, then the root", intermediate.name)
    root = _rooted(case, intermediate, AMD)
    _product_of(case, root, line)
    return Examined(root.fingerprint, expires=intermediate.not_after)


def _amd_crl(case: _Case) -> Examined:
    line = product(case.need)
    crl, signer = _list(case)
    root = _rooted(case, signer, AMD)
    _product_of(case, root, line)
    return Examined(root.fingerprint, expires=crl.next_update)


def _pck_crl(case: _Case) -> Examined:
    ca = parameter(case.need, "ca", "platform", "processor")
    crl, signer = _list(case)
    if ca not in signer.name.lower():
        raise _wrong(case.need, f"the list of the PCK {ca} CA", signer.name)
    root = _rooted(case, signer, INTEL)
    return Examined(root.fingerprint, expires=crl.next_update)


def _root_crl(case: _Case) -> Examined:
    crl, signer = _list(case)
    if not signer.self_issued:
        raise _wrong(case.need, "the root's list", signer.name)
    root = _rooted(case, signer, INTEL)
    return Examined(root.fingerprint, expires=crl.next_update)


def _pck(case: _Case) -> Examined:
    leaf = parse_certificate(_one(case, case.found.certificates[:1]))
    said = parse_pck_extension(leaf.unknown.get(SGX_EXTENSION, b""))
    if said.pce_id != octets(case.need, "pceid", 2):
        raise _wrong(case.need, "a certificate for this PCE", said.pce_id.hex())
    root = _rooted(case, leaf, INTEL)
    return Examined(root.fingerprint, expires=leaf.not_after)


def _tcb_info(case: _Case) -> Examined:
    tee, fmspc = parameter(case.need, "tee", "sgx", "tdx"), octets(case.need, "fmspc", FMSPC_SIZE)
    document = _document(case)
    said = parse_tcb_info(document.body)
    if (said.tee, said.fmspc) != (tee, fmspc):
        raise _wrong(case.need, f"TCB info of {tee} {fmspc.hex()}", f"{said.tee} {said.fmspc.hex()}")
    return _signed(case, document, said)


def _qe_identity(case: _Case) -> Examined:
    tee = parameter(case.need, "tee", "sgx", "tdx")
    document = _document(case)
    said = parse_qe_identity(document.body)
    if said.tee != tee:
        raise _wrong(case.need, f"the quoting enclave's identity for {tee}", said.tee)
    return _signed(case, document, said)


_EXAMINERS: Final[Mapping[str, Callable[[_Case], Examined]]] = {
    "vcek": _vcek,
    "amd-chain": _amd_chain,
    "amd-crl": _amd_crl,
    "pck": _pck,
    "pck-crl": _pck_crl,
    "root-crl": _root_crl,
    "tcb-info": _tcb_info,
    "qe-identity": _qe_identity,
}


def _one(case: _Case, things: tuple[_T, ...]) -> _T:
    if len(things) != 1:
        raise _wrong(case.need, "one thing", f"{len(things)}")
    return things[0]


def _rooted(case: _Case, leaf: Certificate, anchors: Mapping[str, str]) -> Certificate:
    """The believed root at the end of the leaf's path, all of which is in date."""
    path = build_path(leaf, case.pool, case.now)
    for check in (*check_path(path, case.now), check_root(path[-1], anchors, case.accepted)):
        if check.code in _DATES:
            late = next(one for one in path if not one.not_before <= case.now < one.not_after)
            raise _stale(case, late.not_before, late.not_after)
        if check.outcome == "failed":
            raise _wrong(case.need, check.expected, f"{check.name}: {check.found}", check.hint)
    return path[-1]


def _product_of(case: _Case, root: Certificate, line: str) -> None:
    """A root is of one product line: AMD's by their keys, a simulated one by its name."""
    found = AMD.get(root.fingerprint, root.name)
    if line not in found:
        raise _wrong(case.need, line, found)


def _list(case: _Case) -> tuple[RevocationList, Certificate]:
    crl = parse_crl(_one(case, case.found.crls))
    signers = [candidate for candidate in case.pool if crl.signed_by(candidate)]
    if not signers:
        raise _wrong(case.need, "a list that a known authority signed", "another signature")
    if not crl.current(case.now):
        raise _stale(case, crl.this_update, crl.next_update)
    return crl, _current(signers, case.now)


def _document(case: _Case) -> SignedDocument:
    document = _one(case, case.found.documents)
    if document.kind != case.need.kind:
        raise _wrong(case.need, case.need.kind, document.kind)
    return document


def _signed(case: _Case, document: SignedDocument, said: TcbInfo | QeIdentity) -> Examined:
    signers = [one for one in case.pool if not one.authority and is_signed_by(document, one)]
    if not signers:
        raise _wrong(case.need, "a signature over these bytes by the vendor's TCB signing key", "another signature")
    root = _rooted(case, _current(signers, case.now), INTEL)
    if not said.issue_date <= case.now < said.next_update:
        raise _stale(case, said.issue_date, said.next_update)
    return Examined(root.fingerprint, said.evaluation, said.next_update)


def _current(issues: list[Certificate], now: datetime) -> Certificate:
    """Among issues of a certificate for one key, one that is in date."""
    return next((one for one in issues if one.not_before <= now < one.not_after), issues[0])


def _wrong(need: Need, expected: object, found: object, hint: str | None = None) -> UntrustedError:
    return UntrustedError(
        "endorsement-wrong",
        f"what was given for {str(need)[:200]} is something else",
        expected=expected,
        found=found,
        hint=hint or "the service is broken or somebody is between it and this machine; it was not kept",
    )


def _stale(case: _Case, begin: datetime, end: datetime | None) -> StaleError:
    return StaleError(
        "endorsement-stale",
        f"what was given for {str(case.need)[:200]} does not hold at this time",
        expected=f"{case.now:%Y-%m-%dT%H:%M:%SZ}",
        found=f"{begin:%Y-%m-%dT%H:%M:%SZ} to " + ("no end" if end is None else f"{end:%Y-%m-%dT%H:%M:%SZ}"),
        hint="a service has only what holds now: for another time, give files; for now, check this machine's clock",
    )
