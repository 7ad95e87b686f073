"""Which of Intel's TCB levels a platform, its quoting enclave and its TDX module have, and what that is worth. Pure.

Rules: Intel PCS API, "Determining TCB status"; for TDX modules, relaunch and how several statuses become one those of
Intel's quote verification library of 2026, which rates both TDX modules of a TD report 1.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from kokon.tee.evidence import Check, failed, not_checked, passed
from kokon.tee.intel.documents import EnclaveLevel, Level, QeIdentity, TcbInfo, TcbLevel, TdxModule
from kokon.tee.intel.pck import PckExtension
from kokon.tee.intel.quote import EnclaveReport, TdReport

REVOKED: Final = "Revoked"
_HARDENING, _CONFIGURATION, _RELAUNCH, _OUT_OF_DATE, _REVOKED = (1 << bit for bit in range(5))
STATUSES: Final[Mapping[str, int]] = {
    "UpToDate": 0,
    "SWHardeningNeeded": _HARDENING,
    "ConfigurationNeeded": _CONFIGURATION,
    "ConfigurationAndSWHardeningNeeded": _CONFIGURATION | _HARDENING,
    "TDRelaunchAdvised": _RELAUNCH,
    "TDRelaunchAdvisedConfigurationNeeded": _RELAUNCH | _CONFIGURATION,
    "OutOfDate": _OUT_OF_DATE,
    "OutOfDateConfigurationNeeded": _OUT_OF_DATE | _CONFIGURATION,
    REVOKED: _REVOKED,
}
"""Intel's statuses, and as bits what is the matter."""

_NAMES: Final = {bits: name for name, bits in STATUSES.items()}
_QE_DEBUG: Final = 1 << 1
_MODULE_0: Final = Level("UpToDate", None, ())
"""TDX modules of version 0 have no levels of their own: the platform's rate them."""


def converge(*statuses: str) -> str:
    """One status for several: whatever is the matter with any is the matter with all.

    Being out of date outweighs a missing hardening or relaunch, revocation everything. All must be in `STATUSES`.
    """
    bits = 0
    for status in statuses:
        bits |= STATUSES[status]
    if bits & _REVOKED:
        return REVOKED
    if bits & (_OUT_OF_DATE | _RELAUNCH):
        bits &= ~_HARDENING
    if bits & _OUT_OF_DATE:
        bits &= ~_RELAUNCH
    return _NAMES[bits]


@dataclass(frozen=True, slots=True)
class TcbResult:
    """What came out: `status` is "" unless everything that counts has a level. `platform` and `module` are the levels
    that were found, with their dates; `current` is the status of the TDX module that runs now, where a quote says so.
    """

    checks: tuple[Check, ...]
    status: str = ""
    advisories: tuple[str, ...] = ()
    platform: Level | None = None
    module: Level | None = None
    current: str = ""


def enclave_level(levels: Iterable[EnclaveLevel], isv_svn: int) -> Level | None:
    """The first level whose ISVSVN is not higher than that of the enclave."""
    return next((level.level for level in levels if isv_svn >= level.isv_svn), None)


def evaluate_tcb(info: TcbInfo, pck: PckExtension, body: EnclaveReport | TdReport, qe: Level | None) -> TcbResult:
    """The TCB of a platform by TCB info that is for it. `qe` is None if the quoting enclave has no level."""
    reached = [level for level in info.levels if _sgx_reaches(pck, level)]
    if not isinstance(body, TdReport):
        if not reached:
            return TcbResult((_no_level(pck, None),))
        return _judge([_level_check(reached[0])], (reached[0].level, None, qe))
    checks = list(_check_module(find_module(info, body.tee_tcb_svn), body))
    launch = _rate_td(info, reached, pck, body.tee_tcb_svn, checks)
    if body.tee_tcb_svn2 is None:
        return _judge(checks, (*launch, qe))
    current = _rate_td(info, reached, pck, body.tee_tcb_svn2, checks, "current-")
    return _judge(checks, (*launch, qe), (*current, qe))


_Levels = tuple[Level | None, Level | None, Level | None]
"""Of platform, TDX module (None for SGX) and quoting enclave."""


def _rate_td(
    info: TcbInfo,
    reached: list[TcbLevel],
    pck: PckExtension,
    tee_tcb_svn: bytes,
    checks: list[Check],
    prefix: str = "",
) -> tuple[Level | None, Level | None]:
    """Levels of platform and TDX module for one TEE_TCB_SVN."""
    module = find_module(info, tee_tcb_svn)
    if module is None:
        checks.append(_module_unknown(f"{prefix}tdx-module", tee_tcb_svn))
        module_level = None
    else:
        module_level = _MODULE_0 if tee_tcb_svn[1] == 0 else enclave_level(module.levels, tee_tcb_svn[0])
        checks.append(_module_level_check(f"{prefix}tdx-module-level", module, module_level, tee_tcb_svn))
    platform = next((level for level in reached if _tdx_reaches(tee_tcb_svn, level)), None)
    if platform is None:
        checks.append(_no_level(pck, tee_tcb_svn, prefix))
        return None, module_level
    checks.append(_level_check(platform, prefix))
    return platform.level, module_level


def _judge(checks: list[Check], launch: _Levels, current: _Levels | None = None) -> TcbResult:
    """One status for all levels, if none is lacking (failed checks say which) and all are known."""
    platform, module, qe = launch
    found = [level for level in (platform, qe, module) if level is not None]
    advisories = tuple(dict.fromkeys(advisory for level in found for advisory in level.advisories))
    known = [level for level in (*found, *(current or ())) if level is not None]
    unknown = [level.status for level in known if level.status not in STATUSES]
    if unknown:
        names = ", ".join(dict.fromkeys(unknown))
        checks.append(failed("tcb-status", "intel-tcb-status-unknown", expected=", ".join(STATUSES), found=names))
        return TcbResult(tuple(checks), "", advisories, platform, module)
    complete = qe is not None and all(check.outcome == "passed" for check in checks)
    if not complete:
        checks.append(not_checked("tcb-status", "intel-tcb-unrated", "not everything that counts has a level"))
        return TcbResult(tuple(checks), "", advisories, platform, module)
    status = converge(*(level.status for level in found))
    now = ""
    if current is not None:
        now = converge(*(level.status for level in current if level is not None))
        status = relaunch(status, now)
    checks.append(_status_check(status))
    return TcbResult(tuple(checks), status, advisories, platform, module, now)


def relaunch(launch: str, current: str) -> str:
    """The status of a TD that was started under one TDX module and runs under another (TD report 1.5).

    If only the old one is out of date, a relaunch is all that it takes. A revoked module is revoked either way, which
    Intel's library does not say of the one that runs now.
    """
    old, new = STATUSES[launch], STATUSES[current]
    if new & _REVOKED:
        return REVOKED
    if old & _OUT_OF_DATE and not new & _OUT_OF_DATE:
        return _NAMES[_RELAUNCH | ((old | new) & _CONFIGURATION)]
    return launch


def _status_check(status: str) -> Check:
    if status != REVOKED:
        return passed("tcb-status", status)
    hint = "Intel says that what this platform signs is worth nothing"
    return failed("tcb-status", "intel-tcb-revoked", expected="not revoked", found=status, hint=hint)


def _sgx_reaches(pck: PckExtension, level: TcbLevel) -> bool:
    return pck.pce_svn >= level.pce_svn and all(a >= b for a, b in zip(pck.components, level.sgx, strict=True))


def _tdx_reaches(tee_tcb_svn: bytes, level: TcbLevel) -> bool:
    """Components 0 and 1 name the TDX module; from module version 1 on its own levels say what they are worth."""
    if level.tdx is None:
        return False
    first = 2 if tee_tcb_svn[1] > 0 else 0
    return all(a >= b for a, b in zip(tee_tcb_svn[first:], level.tdx[first:], strict=True))


def find_module(info: TcbInfo, tee_tcb_svn: bytes) -> TdxModule | None:
    """The identity of the TDX module that TEE_TCB_SVN names: component 1 is its version, component 0 its ISVSVN."""
    version = tee_tcb_svn[1]
    if version == 0:
        return info.module
    return next((module for module in info.modules if module.id.upper() == f"TDX_{version:02X}"), None)


def _check_module(module: TdxModule | None, body: TdReport) -> Iterator[Check]:
    """Whether Intel's key signed the TDX module. An unknown module is reported by whoever rates it."""
    if module is None:
        return
    yield passed("tdx-module", module.id or "version 0")
    name, signer = "tdx-module-signer", body.mrsigner_seam
    if signer == module.mr_signer:
        yield passed(name, signer.hex())
    else:
        yield failed(name, "tdx-module-signer", expected=module.mr_signer.hex(), found=signer.hex())
    name, masked = "seam-attributes", _masked(body.seam_attributes, module.attributes_mask)
    if masked == module.attributes and not any(body.seam_attributes):
        yield passed(name, masked.hex())
    else:
        hint = "a TDX module made for production has none"
        found = body.seam_attributes.hex()
        yield failed(name, "tdx-seam-attributes", expected=module.attributes.hex(), found=found, hint=hint)


def _module_unknown(name: str, tee_tcb_svn: bytes) -> Check:
    return failed(
        name,
        "tdx-module-unknown",
        expected="a TDX module that Intel lists for this platform",
        found=f"version {tee_tcb_svn[1]}",
        hint="newer TCB info may list it",
    )


def _module_level_check(name: str, module: TdxModule, level: Level | None, tee_tcb_svn: bytes) -> Check:
    if level is not None:
        return passed(name, level.status)
    return failed(
        name,
        "tdx-module-no-level",
        expected=f"ISVSVN {module.levels[-1].isv_svn} at least" if module.levels else "a level",
        found=tee_tcb_svn[0],
        hint="the TDX module is older than anything Intel still rates: the host must update it",
    )


def _level_check(level: TcbLevel, prefix: str = "") -> Check:
    date = "" if level.level.date is None else f", of {level.level.date:%Y-%m-%d}"
    return passed(f"{prefix}tcb-level", f"{level.level.status}{date}")


def _no_level(pck: PckExtension, tee_tcb_svn: bytes | None, prefix: str = "") -> Check:
    found = f"SGX {' '.join(map(str, pck.components))}, PCE {pck.pce_svn}"
    if tee_tcb_svn is not None:
        found += f", TDX {' '.join(map(str, tee_tcb_svn))}"
    return failed(
        f"{prefix}tcb-level",
        "intel-tcb-no-level",
        expected="no component lower than in one of Intel's levels",
        found=found,
        hint="firmware, microcode or TDX module are older than anything Intel still rates: the host must update them",
    )


def _masked(value: bytes, mask: bytes) -> bytes:
    return bytes(a & b for a, b in zip(value, mask, strict=True))


def check_qe(identity: QeIdentity, report: EnclaveReport) -> Iterator[Check]:
    """Whether the quoting enclave is the one that Intel describes. Debug is checked even where a mask leaves it out."""
    yield _equal("qe-mrsigner", report.mr_signer, identity.mr_signer) or failed(
        "qe-mrsigner", "intel-qe-mrsigner", expected=identity.mr_signer.hex(), found=report.mr_signer.hex()
    )
    found = report.isv_prod_id
    yield _equal("qe-product", found, identity.isv_prod_id) or failed(
        "qe-product", "intel-qe-product", expected=identity.isv_prod_id, found=found
    )
    masked = _masked(report.misc_select, identity.misc_select_mask)
    yield _equal("qe-miscselect", masked, identity.misc_select) or failed(
        "qe-miscselect", "intel-qe-miscselect", expected=identity.misc_select.hex(), found=masked.hex()
    )
    masked = _masked(report.attributes, identity.attributes_mask)
    yield _equal("qe-attributes", masked, identity.attributes) or failed(
        "qe-attributes", "intel-qe-attributes", expected=identity.attributes.hex(), found=masked.hex()
    )
    level = enclave_level(identity.levels, report.isv_svn)
    if level is not None:
        yield passed("qe-level", level.status)
    else:
        hint = "the quoting enclave is older than anything Intel still rates: the host must update it"
        expected = f"ISVSVN {identity.levels[-1].isv_svn} at least" if identity.levels else "a level"
        yield failed("qe-level", "intel-qe-no-level", expected=expected, found=report.isv_svn, hint=hint)


def _equal(name: str, found: bytes | int, expected: bytes | int) -> Check | None:
    if found != expected:
        return None
    return passed(name, found.hex() if isinstance(found, bytes) else found)


def check_qe_debug(report: EnclaveReport) -> Check:
    """A quoting enclave in debug mode gives its keys away; nothing excuses that."""
    if report.flags & _QE_DEBUG:
        return failed("qe-debug", "intel-qe-debug", expected="off", found="on")
    return passed("qe-debug", "off")
