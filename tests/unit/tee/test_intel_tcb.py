"""TCB levels: which one a platform has, and one status for several."""

import json
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intel_kit import (
    DAY,
    ENCLAVE_REPORT,
    NOW,
    QE_REPORT,
    TD_REPORT,
    TD_REPORT_1_5,
    enclave,
    level,
    module,
    pck_extension,
    qe_identity,
    tcb_info,
)

from kokon.tee.intel.documents import Level, parse_qe_identity, parse_tcb_info
from kokon.tee.intel.pck import parse_pck_extension
from kokon.tee.intel.quote import EnclaveReport, TdReport
from kokon.tee.intel.tcb import (
    STATUSES,
    TcbResult,
    check_qe,
    check_qe_debug,
    converge,
    enclave_level,
    evaluate_tcb,
    relaunch,
)

QE = Level("UpToDate", NOW - DAY, ())
PCK = parse_pck_extension(pck_extension())
OLD = "OutOfDate"


def evaluate(body: EnclaveReport | TdReport, qe: Level | None = QE, **changes: Any) -> TcbResult:
    tee = "tdx" if isinstance(body, TdReport) else "sgx"
    return evaluate_tcb(parse_tcb_info(json.dumps(tcb_info(tee, **changes)).encode()), PCK, body, qe)


def codes(result: TcbResult) -> list[str]:
    return [check.code for check in result.checks if check.code]


def svns(*components: int) -> bytes:
    return bytes(components).ljust(16, b"\0")


def running(launch: bytes, current: bytes | None = None) -> TdReport:
    if current is None:
        return replace(TD_REPORT, tee_tcb_svn=launch)
    return replace(TD_REPORT_1_5, tee_tcb_svn=launch, tee_tcb_svn2=current)


def test_statuses_converge() -> None:
    assert converge("UpToDate") == "UpToDate"
    assert converge("UpToDate", "UpToDate", OLD) == OLD
    assert converge("SWHardeningNeeded", OLD) == OLD
    assert converge("ConfigurationNeeded", OLD) == "OutOfDateConfigurationNeeded"
    assert converge("ConfigurationAndSWHardeningNeeded", OLD) == "OutOfDateConfigurationNeeded"
    assert converge("ConfigurationNeeded", "SWHardeningNeeded") == "ConfigurationAndSWHardeningNeeded"
    assert converge(OLD, "Revoked") == "Revoked"
    assert converge("TDRelaunchAdvised", OLD) == OLD


def test_converging_is_total_and_has_no_order() -> None:
    for one, two, three in product(STATUSES, repeat=3):
        assert converge(one, two, three) == converge(three, one, two) == converge(converge(one, two), three)
        assert converge(one, one) == one


def test_relaunch() -> None:
    current = ("UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded")
    advised, configure = "TDRelaunchAdvised", "TDRelaunchAdvisedConfigurationNeeded"
    assert [relaunch(OLD, now) for now in current] == [advised, advised, configure, configure]
    assert [relaunch("OutOfDateConfigurationNeeded", now) for now in current] == [configure] * 4
    assert relaunch(OLD, OLD) == OLD
    assert relaunch("UpToDate", OLD) == "UpToDate"
    assert relaunch("UpToDate", "Revoked") == "Revoked"
    assert relaunch("Revoked", "UpToDate") == "Revoked"


def test_the_first_level_that_is_reached() -> None:
    levels = [
        level("UpToDate", (6,) * 16),
        level("SWHardeningNeeded", (5,) * 16, pce_svn=12),
        level("ConfigurationNeeded", (5,) * 16, pce_svn=11, advisories=("INTEL-SA-1", "INTEL-SA-2")),
        level("OutOfDate", (4,) * 16),
    ]
    result = evaluate(ENCLAVE_REPORT, tcbLevels=levels)
    assert (result.status, result.advisories) == ("ConfigurationNeeded", ("INTEL-SA-1", "INTEL-SA-2"))
    assert codes(result) == []


@given(st.lists(st.integers(0, 10), min_size=16, max_size=16), st.integers(8, 14))
def test_every_component_counts(wanted: list[int], pce_svn: int) -> None:
    result = evaluate(ENCLAVE_REPORT, tcbLevels=[level(sgx=tuple(wanted), pce_svn=pce_svn)])
    reached = max(wanted) <= 5 and pce_svn <= 11
    assert (result.status == "UpToDate") == reached
    assert codes(result) == ([] if reached else ["intel-tcb-no-level"])


@given(st.lists(st.integers(0, 9), min_size=16, max_size=16))
def test_every_tdx_component_counts(wanted: list[int]) -> None:
    result = evaluate(running(svns(*(5,) * 16).replace(b"\5\5", b"\5\0", 1)), tcbLevels=[level(tdx=tuple(wanted))])
    assert (result.status == "UpToDate") == (max(wanted) <= 5 and wanted[1] == 0)


def test_a_module_with_a_version_is_rated_by_its_own_levels() -> None:
    modules = [module(1, enclave(6), enclave(4, OLD, ("INTEL-SA-3",))), module(3, enclave(2, "Revoked"))]
    levels = [level(tdx=(9, 9, 5, *(0,) * 13), advisories=("INTEL-SA-1",))]

    def of(*components: int) -> TcbResult:
        return evaluate(running(svns(*components)), tcbLevels=levels, tdxModuleIdentities=modules)

    assert of(6, 1, 5).status == "UpToDate"
    assert (of(5, 1, 5).status, of(5, 1, 5).advisories) == (OLD, ("INTEL-SA-1", "INTEL-SA-3"))
    assert codes(of(3, 1, 5)) == ["tdx-module-no-level", "intel-tcb-unrated"]
    assert codes(of(6, 1, 4)) == ["intel-tcb-no-level", "intel-tcb-unrated"]
    assert codes(of(6, 2, 5)) == ["tdx-module-unknown", "intel-tcb-unrated"]
    assert (of(7, 3, 5).status, codes(of(7, 3, 5))) == ("Revoked", ["intel-tcb-revoked"])
    assert codes(of(9, 0, 5)) == ["intel-tcb-no-level", "intel-tcb-unrated"]
    lower = [entry | {"id": entry["id"].lower()} for entry in [module(0x1A, enclave(4))]]
    found = evaluate(running(svns(6, 0x1A, 5)), tcbLevels=levels, tdxModuleIdentities=lower)
    assert found.status == "UpToDate"


def test_both_modules_of_a_td_report_1_5_are_rated() -> None:
    modules = [module(1, enclave(6), enclave(4, OLD))]
    changes: dict[str, Any] = {"tdxModuleIdentities": modules}
    result = evaluate(running(svns(4, 1, 5), svns(6, 1, 5)), **changes)
    assert (result.status, result.current) == ("TDRelaunchAdvised", "UpToDate")
    assert evaluate(running(svns(6, 1, 5), svns(4, 1, 5)), **changes).status == "UpToDate"
    result = evaluate(running(svns(6, 1, 5), svns(6, 2, 5)), **changes)
    assert (result.status, codes(result)) == ("", ["tdx-module-unknown", "intel-tcb-unrated"])
    result = evaluate(running(svns(4, 1, 5), svns(6, 1, 5)), qe=Level(OLD, NOW, ()), **changes)
    assert result.status == OLD


def test_who_signed_the_module() -> None:
    assert codes(evaluate(replace(TD_REPORT, mrsigner_seam=bytes([1]) * 48))) == [
        "tdx-module-signer",
        "intel-tcb-unrated",
    ]
    odd = replace(TD_REPORT, seam_attributes=bytes([1]) + bytes(7))
    assert "tdx-seam-attributes" in codes(evaluate(odd))
    signer = {"mrsigner": "01" * 48, "attributes": "01" + "00" * 7, "attributesMask": "01" + "00" * 7}
    found = codes(evaluate(TD_REPORT, tdxModule=signer))
    assert found[:2] == ["tdx-module-signer", "tdx-seam-attributes"]


def test_the_quoting_enclave_counts() -> None:
    result = evaluate(ENCLAVE_REPORT, Level(OLD, NOW, ("INTEL-SA-9",)))
    assert (result.status, result.advisories) == (OLD, ("INTEL-SA-9",))
    result = evaluate(ENCLAVE_REPORT, None)
    assert (result.status, codes(result)) == ("", ["intel-tcb-unrated"])
    assert result.checks[-1].outcome == "not-checked"


def test_revoked_and_unknown_statuses() -> None:
    assert codes(evaluate(ENCLAVE_REPORT, tcbLevels=[level("Revoked")])) == ["intel-tcb-revoked"]
    result = evaluate(ENCLAVE_REPORT, tcbLevels=[level("Splendid")])
    assert (result.status, codes(result)) == ("", ["intel-tcb-status-unknown"])
    assert codes(evaluate(ENCLAVE_REPORT, Level("Splendid", None, ()))) == ["intel-tcb-status-unknown"]


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("intel-qe-mrsigner", {"mr_signer": bytes(32)}),
        ("intel-qe-product", {"isv_prod_id": 2}),
        ("intel-qe-miscselect", {"misc_select": b"\1\0\0\0"}),
        ("intel-qe-attributes", {"attributes": b"\x91" + bytes(15)}),
        ("intel-qe-no-level", {"isv_svn": 7}),
    ],
)
def test_another_quoting_enclave(code: str, changes: dict[str, Any]) -> None:
    identity = parse_qe_identity(json.dumps(qe_identity()).encode())
    assert [check.code for check in check_qe(identity, QE_REPORT)] == [None] * 5
    assert [check.code for check in check_qe(identity, replace(QE_REPORT, **changes)) if check.code] == [code]


def test_debug_is_seen_where_the_mask_leaves_it_out() -> None:
    debugged = replace(QE_REPORT, attributes=b"\x13" + bytes(15))
    identity = parse_qe_identity(json.dumps(qe_identity(attributesMask="FD" + "FF" * 15)).encode())
    assert all(check.outcome == "passed" for check in check_qe(identity, debugged))
    assert check_qe_debug(debugged).code == "intel-qe-debug"
    assert check_qe_debug(QE_REPORT).outcome == "passed"


def test_levels_of_enclaves() -> None:
    identity = parse_qe_identity(json.dumps(qe_identity(tcbLevels=[enclave(8), enclave(5, OLD)])).encode())
    found = [enclave_level(identity.levels, svn) for svn in (9, 8, 7, 5, 4)]
    assert [one and one.status for one in found] == ["UpToDate", "UpToDate", OLD, OLD, None]
    assert enclave_level((), 9) is None
    assert [check.code for check in check_qe(replace(identity, levels=()), QE_REPORT)][-1] == "intel-qe-no-level"
    result = evaluate(running(svns(6, 1, 5)), tdxModuleIdentities=[module(1)])
    assert "tdx-module-no-level" in codes(result)
