"""Azure's composite: hardware report, runtime data, virtual TPM, each of which must fit the others."""

import json
import struct
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tpm_kit import codes, found, with_parts

from kokon.errors import MalformedError
from kokon.tee.endorsements import Endorsements
from kokon.tee.evidence import Claims, Evidence, Need
from kokon.tee.recognise import recognise
from kokon.tee.registry import tee, verify
from kokon.tee.vtpm.assemble import assemble
from kokon.tee.vtpm.hcl import LIMIT, SNP, TDX, parse_hcl
from kokon.testing.vendor import FakeVendor
from kokon.testing.vendor import azure as fake

pytestmark = pytest.mark.filterwarnings("ignore")
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
VENDOR = FakeVendor(now=NOW)
NONCE = bytes(range(48))
SNP_EVIDENCE = VENDOR.azure_snp(nonce=NONCE)
TDX_EVIDENCE = VENDOR.azure_tdx(nonce=NONCE)
KINDS = [pytest.param(SNP_EVIDENCE, id="snp"), pytest.param(TDX_EVIDENCE, id="tdx")]


def check(evidence: Evidence, endorsements: Endorsements | None = None) -> Claims:
    given = VENDOR.endorsements(evidence) if endorsements is None else endorsements
    claims = verify(evidence, given, NOW)
    json.dumps(dict(claims.details))
    json.dumps(tee(evidence.tee).describe(evidence))
    return claims


@pytest.mark.parametrize("evidence", KINDS)
def test_the_whole_chain(evidence: Evidence) -> None:
    claims = check(evidence)
    assert (claims.ok, claims.failures) == (True, ())
    assert (claims.tee, claims.simulated, claims.report_data) == (evidence.tee, True, NONCE)
    (hardware,) = claims.parts
    assert hardware.tee == evidence.tee.split("-")[1]
    for name in (
        "root",
        "product",
        "measurement",
        "host_data",
        "chip_id",
        "reported_tcb",
        "vmpl",
        "debug",
        "tcb_status",
    ):
        assert getattr(claims, name) == getattr(hardware, name)
    assert set(hardware.registers) | {f"pcr{index}" for index in range(24)} <= set(claims.registers)
    names = [check.name for check in claims.checks]
    assert {f"{hardware.tee}: {check.name}" for check in hardware.checks} <= set(names)
    assert found(claims, "attestation key").found == "in the hardware report"
    assert found(claims, "runtime data").outcome == "passed"
    assert claims.details["vm_configuration"]["secure-boot"] is True
    assert hardware.tee in claims.details
    assert claims.canonical != hardware.canonical


@pytest.mark.parametrize("evidence", KINDS)
def test_needs_are_those_of_the_hardware(evidence: Evidence) -> None:
    claims = check(evidence, Endorsements(accepted_simulated=VENDOR.endorsements(evidence).accepted_simulated))
    assert claims.needs
    assert set(claims.parts[0].needs) == set(claims.needs)
    assert codes(check(evidence, replace(VENDOR.endorsements(evidence), accepted_simulated=frozenset()))) == [
        "simulated-root-refused"
    ]


@pytest.mark.parametrize("evidence", KINDS)
def test_a_key_that_is_not_in_the_report(evidence: Evidence) -> None:
    other = VENDOR.azure_snp if evidence.tee == "az-snp-vtpm" else VENDOR.azure_tdx
    assert codes(check(other(nonce=NONCE, ak_machine="second"))) == ["tpm-signature"]


@pytest.mark.parametrize("evidence", KINDS)
def test_runtime_data_of_another_machine(evidence: Evidence) -> None:
    text = parse_hcl(evidence.parts["hcl-report"]).runtime_data
    report = evidence.parts["hcl-report"]
    changed = report.replace(text, text.replace(b'"secure-boot":true', b'"secure-boot":TRUE'.replace(b"TRUE", b"null")))
    assert codes(check(with_parts(evidence, hcl_report=changed))) == ["azure-runtime-data"]


@pytest.mark.parametrize("evidence", KINDS)
def test_no_bit_of_the_runtime_data_or_quote_can_be_changed(evidence: Evidence) -> None:
    report = evidence.parts["hcl-report"]
    start = report.index(b'{"keys"')
    for bit in range(8 * start, 8 * len(report)):
        changed = bytearray(report)
        changed[bit // 8] ^= 1 << bit % 8
        with suppress(MalformedError):
            hcl = parse_hcl(bytes(changed))
            assert hcl.report_data != hcl.binding, bit
    endorsements = VENDOR.endorsements(evidence)
    for name in ("hcl-report", "signature", "pcrs", "report"):
        data = evidence.report if name == "report" else evidence.parts[name]
        for bit in range(8 * start if name == "hcl-report" else 0, 8 * len(data), 61):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            made = (
                replace(evidence, report=bytes(changed))
                if name == "report"
                else with_parts(evidence, **{name: bytes(changed)})
            )
            with suppress(MalformedError):
                claims = verify(made, endorsements, NOW)
                assert not claims.ok or (name == "pcrs" and "pcr0" not in claims.registers), (name, bit)


def test_a_quote_of_another_td() -> None:
    assert codes(check(VENDOR.azure_tdx(quoted={"mrtd": b"\x42" * 48}))) == ["azure-td-report"]
    assert codes(check(VENDOR.azure_tdx(version=5))) == []
    assert codes(check(VENDOR.azure_tdx(version=5, quoted={"rtmrs": (b"\1" * 48,) * 4}))) == ["azure-td-report"]
    assert codes(check(VENDOR.azure_tdx(quoted={"report_data": bytes(64)}))) == ["azure-td-report"]


def test_a_td_report_alone_is_signed_by_nobody() -> None:
    claims = check(with_parts(TDX_EVIDENCE, td_quote=None), Endorsements())
    assert (claims.ok, claims.failures, claims.parts) == (False, (), ())
    assert Need("quote", (("kind", "td-quote"),)) in claims.needs
    assert found(claims, "TD quote").code == "azure-td-quote-missing"
    assert (claims.tee, claims.report_data, "pcr0" in claims.registers) == ("az-tdx-vtpm", NONCE, True)


def test_sept_ve_is_left_to_policy_and_debug_is_not() -> None:
    claims = check(VENDOR.azure_tdx(td_attributes=0))
    check_here = found(claims, "tdx: sept-ve-disable")
    assert (claims.ok, check_here.outcome, check_here.code) == (True, "not-checked", "tdx-sept-ve-off")
    assert check_here.waiver == "allow_sept_ve_off"
    assert not claims.parts[0].ok
    assert codes(check(VENDOR.azure_tdx(debug=True))) == ["tdx-debug"]


def test_a_hardware_report_without_a_quote() -> None:
    report = SNP_EVIDENCE.parts["hcl-report"]
    alone = recognise(report)
    assert alone == Evidence("az-snp-vtpm", b"", (), {"hcl-report": report})
    claims = check(alone, VENDOR.endorsements(SNP_EVIDENCE) | Endorsements(SNP_EVIDENCE.certificates))
    assert claims.ok
    assert Need("quote", (("kind", "tpm-quote"),), required=False) in claims.needs
    assert found(claims, "quote").code == "tpm-quote-missing"
    assert (claims.report_data, "pcr0" in claims.registers) == (parse_hcl(report).binding, False)
    other = VENDOR.azure_snp(ak_machine="second").parts["hcl-report"]
    assert check(with_parts(alone, hcl_report=other)).canonical != claims.canonical
    tdx = recognise(TDX_EVIDENCE.parts["hcl-report"])
    assert tdx == Evidence("az-tdx-vtpm", b"", (), {"hcl-report": TDX_EVIDENCE.parts["hcl-report"]})
    assert recognise(b"HCLX" + report[4:]) is None


def test_report_and_quote_in_several_files() -> None:
    for evidence in (SNP_EVIDENCE, TDX_EVIDENCE):
        values = b"".join(evidence.parts["pcrs"][4 + 33 * index :][:32] for index in range(24))
        pieces = [evidence.report, evidence.parts["signature"], values, evidence.parts["hcl-report"]]
        pieces += [evidence.parts["td-quote"]] if "td-quote" in evidence.parts else list(evidence.certificates)
        made = assemble(pieces)
        assert made == evidence
        assert check(made).ok


def test_a_report_of_the_other_tee() -> None:
    for made in (
        with_parts(SNP_EVIDENCE, hcl_report=TDX_EVIDENCE.parts["hcl-report"]),
        replace(SNP_EVIDENCE, tee="az-tdx-vtpm"),
        with_parts(SNP_EVIDENCE, hcl_report=None),
    ):
        with pytest.raises(MalformedError) as caught:
            verify(made, Endorsements(), NOW)
        assert caught.value.code == "hcl-malformed"


@pytest.mark.parametrize("kind", ["snp", "tdx"])
def test_from_version_2_on_the_report_is_of_the_same_nonce(kind: str) -> None:
    make: Any = VENDOR.azure_snp if kind == "snp" else VENDOR.azure_tdx
    fresh = make(nonce=NONCE, runtime=fake.RuntimeData(user_data=NONCE.ljust(64, b"\0")))
    assert found(check(with_parts(fresh, version=b"2")), "user data").outcome == "passed"
    stale = make(nonce=NONCE)
    assert codes(check(with_parts(stale, version=b"2"))) == ["azure-user-data"]
    assert codes(check(with_parts(make(nonce=b""), version=b"2"))) == ["azure-user-data"]
    assert check(with_parts(stale, version=b"1")).ok


def test_malformed_hardware_is_described_as_such() -> None:
    report = bytearray(SNP_EVIDENCE.parts["hcl-report"])
    report[32:36] = struct.pack("<I", 99)
    described = tee("az-snp-vtpm").describe(with_parts(SNP_EVIDENCE, hcl_report=bytes(report)))
    assert "report-version" in described["snp"]
    assert "tdx" not in tee("az-tdx-vtpm").describe(with_parts(TDX_EVIDENCE, td_quote=None))


def test_the_event_log_leads_to_the_pcrs() -> None:
    log = VENDOR.tpm().parts["event-log"]
    claims = check(with_parts(SNP_EVIDENCE, event_log=log))
    assert claims.ok
    assert found(claims, "event log: pcr4").outcome == "passed"


# HCL reports


RUNTIME = parse_hcl(SNP_EVIDENCE.parts["hcl-report"])


def report(runtime: bytes = RUNTIME.runtime_data, kind: Any = SNP, **options: Any) -> bytes:
    return fake.hcl_report(RUNTIME.hardware, runtime, kind, **options)


def test_an_hcl_report() -> None:
    for padding in (0, 200):
        assert parse_hcl(report(padding=padding)) == replace(RUNTIME, version=2)
    assert len(RUNTIME.hardware) == 1184
    assert RUNTIME.user_data == bytes(64)
    without = json.loads(RUNTIME.runtime_data)
    del without["user-data"]
    assert parse_hcl(report(json.dumps(without).encode())).user_data == b""


def changed(at: int, content: bytes) -> bytes:
    data = report()
    return data[:at] + content + data[at + len(content) :]


def runtime(**changes: Any) -> bytes:
    return report(json.dumps(json.loads(RUNTIME.runtime_data) | changes).encode())


KEY = json.loads(RUNTIME.runtime_data)["keys"][0]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "hcl-malformed"),
        (b"HCLA", "hcl-malformed"),
        (report(padding=LIMIT), "hcl-malformed"),
        (changed(0, b"HCLB"), "hcl-malformed"),
        (changed(8, b"\1"), "hcl-malformed"),
        (changed(1216, b"\1"), "hcl-malformed"),
        (changed(1224, b"\7"), "hcl-malformed"),
        (changed(1228, b"\7"), "hcl-malformed"),
        (changed(1232, b"\1"), "hcl-malformed"),
        (report() + b"\1", "hcl-malformed"),
        (fake.hcl_report(bytes(1183) + b"\1", RUNTIME.runtime_data, TDX), "hcl-malformed"),
        (report(b"{}"), "field-missing"),
        (report(b"{"), "json-malformed"),
        (report(b"[]"), "field-type"),
        (runtime(keys=[]), "hcl-malformed"),
        (runtime(keys=[KEY, KEY]), "hcl-malformed"),
        (runtime(keys=[7, None]), "hcl-malformed"),
        (runtime(keys=[KEY | {"kty": "EC"}]), "hcl-malformed"),
        (runtime(keys=[KEY | {"e": "AA"}]), "hcl-malformed"),
        (runtime(keys=[KEY | {"n": "*"}]), "base64-malformed"),
        (runtime(keys=[{"kid": "HCLAkPub", "kty": "RSA"}]), "field-missing"),
        (runtime(**{"user-data": "xx"}), "hex-malformed"),
        (runtime(**{"user-data": 7}), "field-type"),
    ],
)
def test_hcl_reports_that_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_hcl(data)
    assert caught.value.code == code


def test_every_length_of_an_hcl_report() -> None:
    data = report()
    for size in range(len(data)):
        with pytest.raises(MalformedError):
            parse_hcl(data[:size])


@given(st.integers(0, len(report()) - 1), st.binary(min_size=1, max_size=8))
def test_changed_hcl_reports_raise_nothing_else(at: int, content: bytes) -> None:
    with suppress(MalformedError):
        parse_hcl(changed(at, content))
