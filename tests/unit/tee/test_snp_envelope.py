"""Evidence as the KBS protocol's JSON."""

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tee_kit import Chip
from test_snp_report import any_report

from kokon.errors import MalformedError
from kokon.tee.evidence import Evidence
from kokon.tee.snp.envelope import from_envelope, to_envelope
from kokon.tee.snp.report import Report, encode_report

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(any_report(), st.lists(st.binary(min_size=1, max_size=40), max_size=3))
def test_there_and_back(report: Report, chain: list[bytes]) -> None:
    evidence = Evidence("snp", encode_report(report), tuple(chain))
    assert from_envelope(json.loads(json.dumps(to_envelope(evidence)))) == evidence


@given(JSON)
def test_any_json_is_malformed(value: Any) -> None:
    with pytest.raises(MalformedError):
        from_envelope(value)


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [path for key, member in value.items() for path in [(*prefix, key), *paths(member, (*prefix, key))]]
    return []


@given(st.data())
def test_any_member_replaced_is_malformed_or_other_evidence(chip: Chip, data: st.DataObject) -> None:
    original = chip.evidence()
    value = to_envelope(original)
    path = data.draw(st.sampled_from(paths(value)))
    target = value
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = data.draw(JSON)
    try:
        found = from_envelope(json.loads(json.dumps(value)))
    except MalformedError:
        return
    again = to_envelope(found)
    assert found == from_envelope(again)


def changed(chip: Chip, *path: Any, to: Any) -> Any:
    value = copy.deepcopy(to_envelope(chip.evidence()))
    target = value
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = to
    return value


R = "attestation_report"


@pytest.mark.parametrize(
    ("path", "to", "code"),
    [
        (("other",), 1, "field-unknown"),
        ((R, "other"), 1, "field-unknown"),
        ((R, "version"), 9, "report-version"),
        ((R, "version"), True, "field-type"),
        ((R, "policy"), -1, "field-range"),
        ((R, "policy"), 2**64, "field-range"),
        ((R, "report_data"), [0] * 63, "bytes-malformed"),
        ((R, "report_data"), [256] * 64, "bytes-malformed"),
        ((R, "report_data"), [True] * 64, "bytes-malformed"),
        ((R, "report_data"), "AA", "bytes-malformed"),
        ((R, "signature", "r"), [0] * 71, "bytes-malformed"),
        ((R, "signature", "t"), [0], "field-unknown"),
        ((R, "reported_tcb", "fmc"), 0, "tcb-layout"),
        ((R, "reported_tcb", "snp"), 256, "field-range"),
        ((R, "reported_tcb", "extra"), 1, "field-unknown"),
        ((R, "current", "minor"), None, "field-type"),
        ((R, "launch_mit_vector"), 1, "report-reserved"),
        ((R, "launch_mit_vector"), "1", "field-type"),
        ((R, "cpuid_fam_id"), 0x1A, "tcb-layout"),
        (("cert_chain",), {}, "field-type"),
        (("cert_chain",), [{}] * 17, "field-too-long"),
        (("cert_chain", 0, "cert_type"), "VLEK", "certificate-kind"),
        (("cert_chain", 0, "cert_type"), "ASK", "certificate-kind"),
        (("cert_chain", 1, "cert_type"), "Other", "certificate-kind"),
        (("cert_chain", 1, "cert_type"), "CRL", "certificate-kind"),
        (("cert_chain", 1, "data"), [], "bytes-malformed"),
        (("cert_chain", 1, "data"), [0] * 16385, "bytes-malformed"),
        (("cert_chain", 1, "x"), 1, "field-unknown"),
    ],
)
def test_refusals(chip: Chip, path: tuple[Any, ...], to: Any, code: str) -> None:
    with pytest.raises(MalformedError) as caught:
        from_envelope(changed(chip, *path, to=to))
    assert caught.value.code == code


def test_version_2_has_no_cpuid(chip: Chip) -> None:
    report = encode_report(replace(chip.guest().template, version=2))
    value = to_envelope(Evidence("snp", report))
    assert value["cert_chain"] is None
    for absent in ({"cpuid_fam_id": None}, {"cpuid_fam_id": 0}, {}):
        assert from_envelope(value | {R: value[R] | absent}).report == report
    with pytest.raises(MalformedError) as caught:
        from_envelope(value | {R: value[R] | {"cpuid_mod_id": 1}})
    assert caught.value.code == "tcb-layout"


def test_chain_in_any_order_and_revocation_lists_passed_over(chip: Chip) -> None:
    evidence = chip.evidence()
    value = to_envelope(evidence)
    value["cert_chain"] = [*reversed(value["cert_chain"]), {"cert_type": "CRL", "data": [1]}]
    assert from_envelope(value) == evidence


def test_a_chain_has_three(chip: Chip) -> None:
    with pytest.raises(MalformedError) as caught:
        to_envelope(Evidence("snp", chip.evidence().report, (b"x",) * 4))
    assert caught.value.code == "certificate-count"
