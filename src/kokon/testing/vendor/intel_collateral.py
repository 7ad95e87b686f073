"""Intel's statements about platforms: TCB info and enclave identities, as its service sends and signs them. Pure.

Intel PCS API version 4 ("Get TCB Info", "Get QE Identity"); TCB info version 3, and 2 as the API version 3 had it. The
signature covers the exact bytes of the inner object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from kokon.tee.endorsements import SignedDocument
from kokon.testing.vendor.authority import Span, sign_raw
from kokon.testing.vendor.intel_pki import IntelAuthorities, Platform
from kokon.testing.vendor.intel_quote import QE_SIGNER, pem

Tee = Literal["sgx", "tdx"]
MONTH: Final = timedelta(days=30)
_ZEROS: Final = "00" * 48


@dataclass(frozen=True, slots=True)
class TcbLevel:
    """One level of a TCB info: platforms at least at these versions have this status."""

    components: tuple[int, ...]
    pcesvn: int
    status: str = "UpToDate"
    tdx_components: tuple[int, ...] = (0,) * 16
    date: datetime | None = None
    advisories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IsvLevel:
    """One level of an enclave or module identity: from this ISVSVN on this status."""

    isvsvn: int
    status: str = "UpToDate"
    date: datetime | None = None
    advisories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModuleIdentity:
    """A TDX module: `id` "TDX_01" is for TEE_TCB_SVN[1] = 1."""

    id: str = "TDX_01"
    levels: tuple[IsvLevel, ...] = (IsvLevel(5), IsvLevel(2, "OutOfDate", advisories=("INTEL-SA-00001",)))
    mrsigner: str = _ZEROS
    attributes: str = "0000000000000000"
    attributes_mask: str = "FFFFFFFFFFFFFFFF"


@dataclass(frozen=True, slots=True)
class Collateral:
    """What Intel publishes about all platforms, as far as a test may want to turn it.

    `status` and `advisories` are those of a platform that is as new as `Platform()`'s defaults; `levels` replaces that
    simple list altogether. `qe_status` is the status of the quoting enclave. `age` is how old everything is, `lifetime`
    how long it is good for: 40 days of age and the usual 30 of life is stale collateral. `evaluation` is the
    tcbEvaluationDataNumber.
    """

    status: str = "UpToDate"
    advisories: tuple[str, ...] = ()
    levels: tuple[TcbLevel, ...] | None = None
    modules: tuple[ModuleIdentity, ...] = (ModuleIdentity(), ModuleIdentity("TDX_03", (IsvLevel(3),)))
    qe_status: str = "UpToDate"
    qe_levels: tuple[IsvLevel, ...] | None = None
    qe_signer: bytes = QE_SIGNER
    evaluation: int = 20
    version: int = 3
    age: timedelta = timedelta(days=1)
    lifetime: timedelta = MONTH
    changes: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Members of the TCB info to overwrite, by Intel's names."""

    def span(self, now: datetime) -> Span:
        """From issueDate to nextUpdate."""
        return Span(now - self.age, self.lifetime)


def tcb_info(authorities: IntelAuthorities, collateral: Collateral, tee: Tee, platform: Platform) -> SignedDocument:
    """TCB info for a platform's FMSPC, signed. Version 2 has no place for TDX."""
    span = collateral.span(authorities.now)
    body: dict[str, Any] = {"id": tee.upper()} if collateral.version >= 3 else {}
    body |= {
        "version": collateral.version,
        "issueDate": _date(span.start),
        "nextUpdate": _date(span.end),
        "fmspc": platform.fmspc.hex().upper(),
        "pceId": platform.pceid.hex().upper(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": collateral.evaluation,
    }
    if tee == "tdx":
        body["tdxModule"] = {"mrsigner": _ZEROS, "attributes": "00" * 8, "attributesMask": "FF" * 8}
        body["tdxModuleIdentities"] = [_module(module, span.start) for module in collateral.modules]
    levels = _levels(collateral, platform) if collateral.levels is None else collateral.levels
    body["tcbLevels"] = [_level(level, tee, collateral.version, span.start) for level in levels]
    return _sign(authorities, "tcb-info", body | dict(collateral.changes))


def qe_identity(authorities: IntelAuthorities, collateral: Collateral, tee: Tee) -> SignedDocument:
    """The identity of the quoting enclave for enclaves or for trust domains, signed."""
    span = collateral.span(authorities.now)
    svn = 8 if tee == "sgx" else 4
    usual = (IsvLevel(svn, collateral.qe_status), IsvLevel(1, "OutOfDate", advisories=("INTEL-SA-00615",)))
    levels = usual if collateral.qe_levels is None else collateral.qe_levels
    body = {
        "id": "QE" if tee == "sgx" else "TD_QE",
        "version": 2,
        "issueDate": _date(span.start),
        "nextUpdate": _date(span.end),
        "tcbEvaluationDataNumber": collateral.evaluation,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": collateral.qe_signer.hex().upper(),
        "isvprodid": 1 if tee == "sgx" else 2,
        "tcbLevels": [_isv_level(level, span.start) for level in levels],
    }
    return _sign(authorities, "qe-identity", body)


def service_json(document: SignedDocument) -> bytes:
    """The document as the service sends it: the inner object and its signature."""
    name = b"tcbInfo" if document.kind == "tcb-info" else b"enclaveIdentity"
    return b'{"' + name + b'":' + document.body + b',"signature":"' + document.signature.hex().encode() + b'"}'


def flat_json(info: SignedDocument, identity: SignedDocument, pck_crl: bytes, root_crl: bytes, ca: bytes) -> bytes:
    """Everything for one quote in one object with texts, PEM and hex, as dcap-qvl keeps it."""
    signing = b"".join(map(pem, info.chain)).decode()
    root = info.chain[-1]
    members = {
        "pck_crl_issuer_chain": (pem(ca) + pem(root)).decode(),
        "root_ca_crl": root_crl.hex(),
        "pck_crl": pck_crl.hex(),
        "tcb_info_issuer_chain": signing,
        "tcb_info": info.body.decode(),
        "tcb_info_signature": info.signature.hex(),
        "qe_identity_issuer_chain": signing,
        "qe_identity": identity.body.decode(),
        "qe_identity_signature": identity.signature.hex(),
    }
    return json.dumps(members).encode()


def _sign(authorities: IntelAuthorities, kind: Literal["tcb-info", "qe-identity"], body: Any) -> SignedDocument:
    text = json.dumps(body, separators=(",", ":")).encode()
    signature = sign_raw(authorities.tcb_signing_key(), text)
    return SignedDocument(kind, text, signature, (authorities.tcb_signing(), authorities.root().certificate))


def _levels(collateral: Collateral, platform: Platform) -> tuple[TcbLevel, ...]:
    """The newest level with the wished status, and one for older platforms."""
    newest = TcbLevel(
        platform.components, platform.pcesvn, collateral.status, (5, 0, 2) + (0,) * 13, None, collateral.advisories
    )
    components = tuple(max(svn - 1, 0) for svn in platform.components)
    older = replace(newest, components=components, pcesvn=max(platform.pcesvn - 2, 0), tdx_components=(0,) * 16)
    return newest, replace(older, status="OutOfDate", advisories=("INTEL-SA-00837", "INTEL-SA-00960"))


def _level(level: TcbLevel, tee: Tee, version: int, issued: datetime) -> dict[str, Any]:
    tcb: dict[str, Any]
    if version >= 3:
        tcb = {"sgxtcbcomponents": [{"svn": svn} for svn in level.components], "pcesvn": level.pcesvn}
        if tee == "tdx":
            tcb["tdxtcbcomponents"] = [{"svn": svn} for svn in level.tdx_components]
    else:
        tcb = {f"sgxtcbcomp{index:02}svn": svn for index, svn in enumerate(level.components, 1)}
        tcb["pcesvn"] = level.pcesvn
    return {"tcb": tcb} | _status(level.status, level.date, level.advisories, issued)


def _module(module: ModuleIdentity, issued: datetime) -> dict[str, Any]:
    return {
        "id": module.id,
        "mrsigner": module.mrsigner,
        "attributes": module.attributes,
        "attributesMask": module.attributes_mask,
        "tcbLevels": [_isv_level(level, issued) for level in module.levels],
    }


def _isv_level(level: IsvLevel, issued: datetime) -> dict[str, Any]:
    return {"tcb": {"isvsvn": level.isvsvn}} | _status(level.status, level.date, level.advisories, issued)


def _status(
    status: str, date: datetime | None, advisories: tuple[str, ...], issued: datetime
) -> dict[str, str | list[str]]:
    members: dict[str, str | list[str]] = {"tcbDate": _date(date or issued - 3 * MONTH), "tcbStatus": status}
    return members | ({"advisoryIDs": list(advisories)} if advisories else {})


def _date(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
