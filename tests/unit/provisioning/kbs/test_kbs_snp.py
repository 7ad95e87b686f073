"""The fast reader of SNP evidence against the one that reads all of it: the same evidence, the same refusals."""

import copy
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kokon.errors import MalformedError
from kokon.provisioning.kbs.envelopes import read_evidence
from kokon.provisioning.kbs.snp import read_plain
from kokon.tee.snp.envelope import from_envelope, to_envelope
from kokon.testing import FakeVendor

VENDOR = FakeVendor(datetime(2026, 11, 23, 12, tzinfo=UTC))
ENVELOPES = {
    f"{product} {version}": to_envelope(VENDOR.snp(product=product, version=version, certificates="none"))
    for product, version in (("Milan", 3), ("Genoa", 4), ("Milan", 5), ("Turin", 5))
}
R = "attestation_report"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 300) | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def outcome(read: Any, value: Any) -> Any:
    try:
        return read(value)
    except MalformedError as error:
        return error.code


def read(value: Any) -> Any:
    return read_evidence("snp", value)


def places(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every member, and to the first element of every array."""
    if isinstance(value, dict):
        return [way for name in value for way in [(*before, name), *places(value[name], (*before, name))]]
    return [(*before, 0)] if isinstance(value, list) else []


def changed(value: Any, way: tuple[Any, ...], to: Any) -> Any:
    other = target = copy.deepcopy(value)
    for step in way[:-1]:
        target = target[step]
    target[way[-1]] = to
    return other


@pytest.mark.parametrize("name", ENVELOPES)
def test_what_guests_send_is_read_fast(name: str) -> None:
    value = json.loads(json.dumps(ENVELOPES[name]))
    assert read_plain(value) == from_envelope(value)
    assert read_plain(value) is not None


@settings(max_examples=150)
@given(st.sampled_from(sorted(ENVELOPES)), st.data())
def test_every_change_is_judged_alike(name: str, data: st.DataObject) -> None:
    value = ENVELOPES[name]
    way = data.draw(st.sampled_from(places(value)))
    other = changed(value, way, data.draw(JSON))
    assert outcome(read, other) == outcome(from_envelope, other)


@pytest.mark.parametrize(
    ("way", "to", "code"),
    [
        ((R, "version"), True, "field-type"),
        ((R, "policy"), 2**64, "field-range"),
        ((R, "launch_mit_vector"), 2**64, "field-range"),
        ((R, "vmpl"), 1.0, "field-type"),
        ((R, "report_data", 0), True, "bytes-malformed"),
        ((R, "report_data", 0), 1.0, "bytes-malformed"),
        ((R, "report_data", 0), 256, "bytes-malformed"),
        ((R, "other"), 1, "field-unknown"),
        ((R, "reported_tcb", "fmc"), 0, "tcb-layout"),
        ((R, "key_info"), 1 << 5, "report-reserved"),
        ((R, "version"), 9, "report-version"),
        (("cert_chain",), [{}], "field-missing"),
        (("other",), None, "field-unknown"),
    ],
)
def test_what_is_wrong_is_named(way: tuple[Any, ...], to: Any, code: str) -> None:
    assert outcome(read, changed(ENVELOPES["Milan 3"], way, to)) == code


def test_chains_and_old_reports_are_for_the_other_reader() -> None:
    for evidence in (VENDOR.snp(), VENDOR.snp(version=2, certificates="none")):
        value = to_envelope(evidence)
        assert read_plain(value) is None
        assert read(value) == evidence
