"""What is taken for a report, and what it says."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tee_kit import Chip
from test_snp_report import any_report

from kokon.errors import MalformedError
from kokon.tee.evidence import Evidence
from kokon.tee.registry import tee
from kokon.tee.snp.certtable import encode_table
from kokon.tee.snp.describe import describe
from kokon.tee.snp.recognise import recognise
from kokon.tee.snp.report import POLICY_RESERVED_ONE, Report, encode_report

HEADER = struct.pack("<II24x", 0, 1184)


@given(st.binary(max_size=3000))
def test_any_bytes_are_nothing_or_malformed(data: bytes) -> None:
    try:
        found = recognise(data)
    except MalformedError:
        return
    assert found is None or found.report in data


@given(any_report(), st.integers(0, 2912))
def test_reports_are_recognised_in_every_form(report: Report, padding: int) -> None:
    raw = encode_report(report)
    likely = bool(report.policy & POLICY_RESERVED_ONE) and report.signature_algorithm < 64
    expected = Evidence("snp", raw) if likely else None
    for data in (raw, raw + bytes(padding), HEADER + raw, HEADER + raw + bytes(min(padding, 2880))):
        assert recognise(data) == expected


@given(any_report())
def test_a_description_is_plain_and_whole(report: Report) -> None:
    details = describe(Evidence("snp", encode_report(report)))
    assert json.loads(json.dumps(details)) == details
    assert details["measurement"] == report.measurement.hex()
    assert details["policy"]["debug_allowed"] == details["policy_debug_allowed"] == report.debug
    assert details["reported_tcb_snp"] == details["reported_tcb"]["snp"]
    assert (details["cpuid"] is None) == (report.version < 3)
    assert (details["launch_mit_vector"] is None) == (report.version < 5)


def test_the_registry_offers_all_of_it(chip: Chip) -> None:
    evidence = chip.evidence()
    snp = tee("snp")
    assert snp.recognise(evidence.report + encode_table(evidence.certificates)) == evidence
    assert snp.describe(evidence)["vmpl"] == 0


def test_what_follows_a_report(chip: Chip) -> None:
    evidence = chip.evidence()
    table = encode_table(evidence.certificates)
    for data, code in (
        (evidence.report + bytes(2913), "report-padding"),
        (HEADER + evidence.report + table, "report-padding"),
        (HEADER + evidence.report + bytes(2881), "report-padding"),
        (evidence.report + b"\1", "certificate-table"),
        (evidence.report + table + bytes(65536), "evidence-too-large"),
        (b"\6" + evidence.report[1:], "report-version"),
    ):
        with pytest.raises(MalformedError) as caught:
            recognise(data)
        assert caught.value.code == code
    failed = struct.pack("<II24x", 0x16, 1184)
    for data in (failed + evidence.report, HEADER[:-1] + b"\1" + evidence.report, b"", evidence.report[:-1]):
        assert recognise(data) is None
