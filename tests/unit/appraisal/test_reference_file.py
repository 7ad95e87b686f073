"""Reference values from files and statements."""

import contextlib
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from appraisal_kit import DOCUMENT, KNOWN, NOW, PCR, RTMR, SNP, TDX
from hypothesis import given
from hypothesis import strategies as st

from kokon.appraisal.appraise import appraise
from kokon.appraisal.policy import Policy
from kokon.appraisal.reference import ReferenceValues
from kokon.appraisal.reference_file import REFERENCES_LIMIT, from_entries, parse_references
from kokon.errors import MalformedError

TOML = f"""
[[reference]]
name = "clinic 1.2"
tee = "snp"
measurement = ["{KNOWN.hex()}", "{KNOWN.hex().upper()}"]
not_after = 2027-01-01
host_data = "{DOCUMENT.hex()}"
report_data = "00"
report_data_prefix = true
minimum_tcb = {{ snp = 8 }}
security_version = 1

[[reference]]
tee = "tdx"
not_after = 2027-01-01T01:00:00+01:00
registers = {{ mr_td = "{KNOWN.hex()}", RTMR_1 = ["{RTMR.hex()}"], rtmr2 = "{RTMR.hex()}" }}

[[reference]]
signer = "{PCR.hex()}"
product_id = 3
"""
END = datetime(2027, 1, 1, tzinfo=UTC)
EXPECTED = (
    ReferenceValues(
        (KNOWN,),
        END,
        DOCUMENT,
        report_data=b"\0",
        report_data_prefix=True,
        minimum_tcb={"snp": 8},
        security_version=1,
        tee="snp",
        name="clinic 1.2",
        source="file",
    ),
    ReferenceValues((KNOWN,), END, registers={"rtmr1": (RTMR,), "rtmr2": (RTMR,)}, tee="tdx", source="file"),
    ReferenceValues(signers=(PCR,), product_id=3, source="file"),
)


def refused(data: str | bytes) -> str:
    with pytest.raises(MalformedError) as caught:
        parse_references(data if isinstance(data, bytes) else data.encode())
    return caught.value.code


def test_toml_and_json() -> None:
    assert parse_references(TOML.encode(), "file") == EXPECTED
    entries = [
        {"name": "clinic 1.2", "tee": "snp", "measurement": KNOWN.hex(), "not_after": "2027-01-01T00:00:00Z"},
        {"registers": {"rtmr1": [RTMR.hex()]}},
    ]
    first, second = parse_references(b" \n" + json.dumps({"reference": entries}).encode())
    assert first == ReferenceValues((KNOWN,), END, tee="snp", name="clinic 1.2")
    assert second.registers == {"rtmr1": (RTMR,)}
    assert appraise(SNP, parse_references(TOML.encode()), Policy(), NOW).ok
    assert appraise(TDX, parse_references(TOML.encode()), Policy(), NOW).ok


M = f'[[reference]]\nmeasurement = "{KNOWN.hex()}"\n'


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "field-missing"),
        ("reference = 3", "field-type"),
        ("reference = []", "reference-malformed"),
        ("reference = [3]", "field-type"),
        ("[[reference]]", "reference-malformed"),
        ("[[reference]]\ntee = 'snp'", "reference-malformed"),
        (M + "measurment = 'ab'", "field-unknown"),
        (M + "[other]", "field-unknown"),
        ("[[reference]]\nmeasurement = 'xy'", "hex-malformed"),
        ("[[reference]]\nmeasurement = ''", "reference-malformed"),
        ("[[reference]]\nmeasurement = '0000'", "reference-malformed"),
        ("[[reference]]\nmeasurement = 3", "reference-malformed"),
        ("[[reference]]\nmeasurement = [3]", "reference-malformed"),
        (f"[[reference]]\nmeasurement = '{'ab' * 65}'", "reference-malformed"),
        (f"[[reference]]\nmeasurement = {['ab'] * 257}", "reference-malformed"),
        (M + "signer = '00'", "reference-malformed"),
        (M + "product_id = 65536", "field-range"),
        (M + "security_version = -1", "field-range"),
        (M + "product_id = '1'", "field-type"),
        (M + "report_data_prefix = 1", "field-type"),
        (M + "not_after = 3", "reference-malformed"),
        (M + "not_after = 'tomorrow'", "reference-malformed"),
        (M + "not_after = 2027-01-01T00:00:00", "reference-malformed"),
        (M + "not_after = 0001-01-01T00:00:00+01:00", "reference-malformed"),
        (M + "registers = { rtmr1 = [] }", "reference-malformed"),
        (M + "registers = { rtmr1 = 'ab', RTMR_1 = 'cd' }", "reference-malformed"),
        (M + "registers = { '' = 'ab' }", "reference-malformed"),
        (M + "registers = { " + ", ".join(f"r{n} = 'ab'" for n in range(65)) + " }", "reference-malformed"),
        (M + "minimum_tcb = { bootlader = 3 }", "field-unknown"),
        (M + "minimum_tcb = { snp = 256 }", "field-range"),
        ("reference = ", "reference-malformed"),
        ("{", "json-malformed"),
        ('{"reference": [], "reference": []}', "json-malformed"),
        (b"\xff", "reference-malformed"),
        (b" " * (REFERENCES_LIMIT + 1), "reference-malformed"),
        (b"x = " + b"[" * 5000, "reference-malformed"),
        (M * 1025, "field-too-long"),
    ],
)
def test_what_is_refused(text: str | bytes, code: str) -> None:
    assert refused(text) == code


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_else(data: bytes) -> None:
    for given_data in (data, b"{" + data, b"[[reference]]\n" + data):
        with contextlib.suppress(MalformedError):
            assert all(reference.given for reference in parse_references(given_data))


digests = st.binary(min_size=32, max_size=48).filter(any)


@given(
    st.lists(digests, min_size=1, max_size=3, unique=True),
    st.dictionaries(st.integers(0, 23).map(lambda number: f"pcr{number}"), st.lists(digests, min_size=1, unique=True)),
    st.none() | st.datetimes(timezones=st.just(UTC)),
    st.none() | st.integers(0, 65535),
)
def test_what_is_written_is_read(
    measurements: list[bytes], registers: dict[str, list[bytes]], end: datetime | None, product: int | None
) -> None:
    entry = {
        "measurement": [value.hex() for value in measurements],
        "registers": {name: [value.hex() for value in values] for name, values in registers.items()},
    }
    entry |= {"not_after": end.isoformat()} if end else {}
    entry |= {"product_id": product} if product is not None else {}
    (found,) = parse_references(json.dumps({"reference": [entry]}).encode())
    assert found == ReferenceValues(
        tuple(measurements),
        end,
        registers={name: tuple(values) for name, values in registers.items()},
        product_id=product,
    )


def test_a_pcr_may_name_its_bank() -> None:
    (found,) = parse_references(f"[[reference]]\nregisters = {{ 'SHA256:pcr04' = '{PCR.hex()}' }}".encode())
    assert found.registers == {"sha256:pcr4": (PCR,)}
    assert found.given == {"pcr4"}


def test_registers_that_were_never_extended_are_zero() -> None:
    (found,) = parse_references(f"{M}registers = {{ rtmr3 = '{'00' * 48}' }}".encode())
    assert found.registers == {"rtmr3": (bytes(48),)}


def test_statements_become_a_reference_for_each_kind() -> None:
    entries = [("snp", KNOWN), ("simulated", RTMR), ("snp", RTMR), ("snp", KNOWN)]
    made = from_entries(entries, not_after=END, host_data=DOCUMENT, name="clinic", source="author 1")
    assert [(one.tee, one.measurements) for one in made] == [("snp", (KNOWN, RTMR)), ("simulated", (RTMR,))]
    assert {one.title for one in made} == {"clinic of author 1"}
    assert appraise(SNP, made, Policy(), NOW).ok
    assert not appraise(replace(SNP, measurement=bytes(48)), made, Policy(), NOW).ok
    assert from_entries([]) == ()
