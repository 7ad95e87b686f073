"""What Intel says about platforms and enclaves: TCB info and enclave identities, from signed JSON to typed values.

Formats: Intel PCS API, "TCB Info V2 and V3", "Enclave Identity V2". Members that are not known here are passed over:
Intel adds some without a new version number, and the signature covers them. No cryptography, no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, TypeVar

from kokon.errors import MalformedError
from kokon.tee.intel.pck import COMPONENTS
from kokon.wire import Fields, parse_json, unhex

DOCUMENT_LIMIT: Final = 256 << 10
LEVELS_LIMIT: Final = 256

_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Level:
    """What a state of patching is worth: `status` is Intel's word, `date` when it was the newest."""

    status: str
    date: datetime | None
    advisories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TcbLevel:
    """A platform has this level if no SVN of its own is lower. `tdx` is None in TCB info for SGX."""

    sgx: tuple[int, ...]
    pce_svn: int
    tdx: tuple[int, ...] | None
    level: Level


@dataclass(frozen=True, slots=True)
class EnclaveLevel:
    """An enclave or TDX module has this level if its ISVSVN is not lower."""

    isv_svn: int
    level: Level


@dataclass(frozen=True, slots=True)
class TdxModule:
    """A TDX module that Intel vouches for. `id` is "TDX_01" and so on, "" for what stands for version 0."""

    id: str
    mr_signer: bytes
    attributes: bytes
    attributes_mask: bytes
    levels: tuple[EnclaveLevel, ...] = ()


@dataclass(frozen=True, slots=True)
class TcbInfo:
    """TCB info of one FMSPC, for `tee` "sgx" or "tdx". Levels stand with the best first.

    Intel sends them so, and Intel's library sorts them nevertheless: by SGX components, PCESVN, TDX components.
    """

    tee: str
    version: int
    issue_date: datetime
    next_update: datetime
    fmspc: bytes
    pce_id: bytes
    evaluation: int
    levels: tuple[TcbLevel, ...]
    module: TdxModule | None = None
    modules: tuple[TdxModule, ...] = ()


@dataclass(frozen=True, slots=True)
class QeIdentity:
    """The identity of the quoting enclave for `tee` "sgx" or "tdx"; masked values are bytes in memory order."""

    tee: str
    version: int
    issue_date: datetime
    next_update: datetime
    evaluation: int
    misc_select: bytes
    misc_select_mask: bytes
    attributes: bytes
    attributes_mask: bytes
    mr_signer: bytes
    isv_prod_id: int
    levels: tuple[EnclaveLevel, ...]


def parse_tcb_info(body: bytes) -> TcbInfo:
    """TCB info, version 2 (SGX only) or 3, from the JSON object in at most 256 KiB.

    Raises `MalformedError`: `json-too-large`, `json-malformed`, `field-missing`, `field-type`, `field-range`,
    `field-too-long`, `hex-malformed`, `size-mismatch`, `collateral-malformed`.
    """
    return _tcb_info(body)


def parse_qe_identity(body: bytes) -> QeIdentity:
    """The enclave identity, version 2 or 3, from the JSON object. Raises as `parse_tcb_info` does."""
    return _qe_identity(body)


@lru_cache(maxsize=128)
def _tcb_info(body: bytes) -> TcbInfo:
    fields = Fields(parse_json(body, limit=DOCUMENT_LIMIT, what="the TCB info"), "the TCB info")
    version = fields.integer("version")
    if version not in (2, 3):
        raise _malformed("version", "2 or 3", version)
    kind = fields.text("id", default="SGX", limit=16) if version == 2 else fields.text("id", limit=16)
    if kind not in ("SGX", "TDX") or (version, kind) == (2, "TDX"):
        raise _malformed("id", "SGX or TDX", kind)
    if fields.integer("tcbType") != 0:
        raise _malformed("tcbType", 0, "another")
    tdx = kind == "TDX"
    issue_date, next_update = _dates(fields)

    def parse(level: Any) -> TcbLevel:
        return _tcb_level(level, version, tdx=tdx)

    return TcbInfo(
        tee=kind.lower(),
        version=version,
        issue_date=issue_date,
        next_update=next_update,
        fmspc=_hex(fields, "fmspc", 6),
        pce_id=_hex(fields, "pceId", 2),
        evaluation=fields.integer("tcbEvaluationDataNumber"),
        levels=tuple(sorted(_each(fields, "tcbLevels", parse), key=_rank, reverse=True)),
        module=_module(fields.table("tdxModule"), "") if tdx else None,
        modules=_modules(fields) if tdx else (),
    )


@lru_cache(maxsize=128)
def _qe_identity(body: bytes) -> QeIdentity:
    fields = Fields(parse_json(body, limit=DOCUMENT_LIMIT, what="the enclave identity"), "the enclave identity")
    kinds = {"QE": "sgx", "TD_QE": "tdx"}
    kind, version = fields.text("id", limit=16), fields.integer("version")
    if kind not in kinds or version not in (2, 3):
        raise _malformed("id or version", "QE or TD_QE, 2 or 3", f"{kind}, {version}")
    issue_date, next_update = _dates(fields)
    return QeIdentity(
        tee=kinds[kind],
        version=version,
        issue_date=issue_date,
        next_update=next_update,
        evaluation=fields.integer("tcbEvaluationDataNumber"),
        misc_select=_hex(fields, "miscselect", 4),
        misc_select_mask=_hex(fields, "miscselectMask", 4),
        attributes=_hex(fields, "attributes", 16),
        attributes_mask=_hex(fields, "attributesMask", 16),
        mr_signer=_hex(fields, "mrsigner", 32),
        isv_prod_id=fields.integer("isvprodid", high=0xFFFF),
        levels=_enclave_levels(fields),
    )


def _malformed(what: str, expected: object, found: object) -> MalformedError:
    return MalformedError("collateral-malformed", f"{what} is malformed", expected=expected, found=found)


def _each(fields: Fields, name: str, parse: Callable[[Any], _Item]) -> tuple[_Item, ...]:
    return tuple(parse(item) for item in fields.array(name, limit=LEVELS_LIMIT))


def _dates(fields: Fields) -> tuple[datetime, datetime]:
    return _instant(fields.text("issueDate", limit=32)), _instant(fields.text("nextUpdate", limit=32))


def _instant(text: str) -> datetime:
    if _INSTANT.fullmatch(text) is None:
        raise _malformed("a date", "YYYY-MM-DDThh:mm:ssZ", text)
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise _malformed("a date", "one of the calendar", text) from error


def _hex(fields: Fields, name: str, size: int) -> bytes:
    return unhex(fields.text(name, limit=2 * size), what=name, size=size)


def _level(fields: Fields) -> Level:
    date = fields.optional_text("tcbDate", limit=32)
    advisories = fields.array("advisoryIDs", default=[], limit=LEVELS_LIMIT)
    if not all(isinstance(advisory, str) and len(advisory) <= 64 for advisory in advisories):
        raise _malformed("advisoryIDs", "short texts", "something else")
    status = fields.text("tcbStatus", limit=64)
    return Level(status, None if date is None else _instant(date), tuple(advisories))


def _tcb_level(value: Any, version: int, *, tdx: bool) -> TcbLevel:
    fields = Fields(value, "a TCB level")
    tcb = Fields(fields.table("tcb"), "a TCB")
    if version == 2:
        sgx = tuple(tcb.integer(f"sgxtcbcomp{index:02}svn", high=0xFF) for index in range(1, COMPONENTS + 1))
    else:
        sgx = _components(tcb, "sgxtcbcomponents")
    return TcbLevel(
        sgx=sgx,
        pce_svn=tcb.integer("pcesvn", high=0xFFFF),
        tdx=_components(tcb, "tdxtcbcomponents") if tdx else None,
        level=_level(fields),
    )


def _components(tcb: Fields, name: str) -> tuple[int, ...]:
    components = _each(tcb, name, lambda item: Fields(item, "a TCB component").integer("svn", high=0xFF))
    if len(components) != COMPONENTS:
        raise _malformed(name, f"{COMPONENTS} components", len(components))
    return components


def _enclave_level(value: Any) -> EnclaveLevel:
    fields = Fields(value, "a TCB level")
    isv_svn = Fields(fields.table("tcb"), "a TCB").integer("isvsvn", high=0xFFFF)
    return EnclaveLevel(isv_svn, _level(fields))


def _rank(level: TcbLevel) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    return level.sgx, level.pce_svn, level.tdx or ()


def _enclave_levels(fields: Fields) -> tuple[EnclaveLevel, ...]:
    levels = _each(fields, "tcbLevels", _enclave_level)
    return tuple(sorted(levels, key=lambda level: level.isv_svn, reverse=True))


def _modules(fields: Fields) -> tuple[TdxModule, ...]:
    modules = []
    for value in fields.array("tdxModuleIdentities", default=[], limit=LEVELS_LIMIT):
        module = Fields(value, "a TDX module")
        modules.append(_module(value, module.text("id", limit=16), _enclave_levels(module)))
    return tuple(modules)


def _module(value: Any, name: str, levels: tuple[EnclaveLevel, ...] = ()) -> TdxModule:
    fields = Fields(value, "a TDX module")
    return TdxModule(
        id=name,
        mr_signer=_hex(fields, "mrsigner", 48),
        attributes=_hex(fields, "attributes", 8),
        attributes_mask=_hex(fields, "attributesMask", 8),
        levels=levels,
    )
