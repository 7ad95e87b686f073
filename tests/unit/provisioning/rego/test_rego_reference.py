"""Reference values: messages of the key broker's admin clients, CoRIMs, the stored form, expiry."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rego_kit import NOW, message, references, refusal

from kokon.appraisal.reference import ReferenceValues
from kokon.errors import MalformedError
from kokon.provisioning.rego.launches import launch_values
from kokon.provisioning.rego.reference import (
    NAMES_LIMIT,
    VALUE_LIMIT,
    StoredValue,
    current,
    decode_value,
    encode_value,
    expired,
    read_message,
)
from unit.appraisal import test_corim as corims

D48, E48 = corims.D48, corims.E48
YEAR = datetime(2027, 11, 27, 9, 0, tzinfo=UTC)


def code(data: bytes, **options: Any) -> str:
    return refusal(lambda: read_message(data, NOW, **options)).code


def test_a_sample() -> None:
    found = read_message(message({"svn": ["1"], "major_version": 1, "smt": False, "any": {"x": [None, 1.5]}}), NOW)
    assert found == (
        StoredValue("any", {"x": [None, 1.5]}, YEAR),
        StoredValue("major_version", 1, YEAR),
        StoredValue("smt", False, YEAR),
        StoredValue("svn", ["1"], YEAR),
    )


def test_the_version_may_be_left_out() -> None:
    members = json.loads(message({"a": 1}))
    del members["version"]
    assert [one.name for one in read_message(json.dumps(members).encode(), NOW)] == ["a"]


@pytest.mark.parametrize(
    ("now", "end"),
    [
        (datetime(2028, 2, 29, 1, 2, 3, 4, tzinfo=UTC), datetime(2029, 2, 28, 1, 2, 3, tzinfo=UTC)),
        (datetime(2026, 12, 31, tzinfo=UTC), datetime(2027, 12, 31, tzinfo=UTC)),
    ],
)
def test_values_stand_for_twelve_months(now: datetime, end: datetime) -> None:
    assert read_message(message({"a": 1}), now)[0].expiration == end


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (message({"a": 1}, version="0.2.0"), "reference-version"),
        (message({"a": 1}, type="swid"), "reference-type"),
        (message({"a": 1}, type="in-toto"), "reference-type"),
        (message({"a": 1}, more=1), "field-unknown"),
        (message({"a": 1}, payload=1), "field-type"),
        (message({"a": 1}, payload="e30"), "base64-malformed"),
        (message({"a": 1}, payload="bm8="), "json-malformed"),
        (message({"a": 1}, payload=base64.b64encode(b"[1]").decode()), "reference-malformed"),
        (message({"a": 1}, payload=base64.b64encode(b'{"a":1,"a":2}').decode()), "json-malformed"),
        (message({}), "reference-malformed"),
        (message({"": 1}), "reference-malformed"),
        (message({"a\n": 1}), "reference-malformed"),
        (message({"a" * 513: 1}), "reference-malformed"),
        (message({"a": "x" * VALUE_LIMIT}), "reference-malformed"),
        (message({str(number): 1 for number in range(NAMES_LIMIT + 1)}), "reference-malformed"),
        (b"{}", "field-missing"),
        (b"[]", "field-type"),
        (b'{"type":"sample","type":"sample","payload":""}', "json-malformed"),
        (b" " * ((2 << 20) + 1), "json-too-large"),
    ],
)
def test_what_is_no_message(data: bytes, expected: str) -> None:
    assert code(data) == expected


NAMES = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=("Cs",)), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=50)
@given(NAMES, JSON, st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)))  # noqa: DTZ001 - made aware below
def test_the_stored_form(name: str, value: Any, moment: datetime) -> None:
    stored = StoredValue(name, value, moment.replace(microsecond=0, tzinfo=UTC))
    assert decode_value(encode_value(stored)) == stored


def test_the_stored_form_is_the_key_brokers() -> None:
    assert json.loads(encode_value(StoredValue("a/b:1", [1], NOW))) == {
        "version": "0.1.0",
        "name": "a/b:1",
        "expiration": "2026-11-27T09:00:00Z",
        "value": [1],
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"version": "0.2.0"}, "reference-version"),
        ({"name": ""}, "reference-malformed"),
        ({"expiration": "2026-11-27"}, "reference-malformed"),
        ({"expiration": "2026-11-27T09:00:00+00:00"}, "reference-malformed"),
        ({"expiration": "2026-13-27T09:00:00Z"}, "reference-malformed"),
        ({"more": 1}, "field-unknown"),
    ],
)
def test_what_was_never_stored(changes: dict[str, Any], expected: str) -> None:
    members = {**json.loads(encode_value(StoredValue("a", 1, NOW))), **changes}
    assert refusal(lambda: decode_value(json.dumps(members).encode())).code == expected


def test_expiry() -> None:
    values = {**references({"old": 1}, until=NOW), **references({"new": None}, until=NOW + timedelta(seconds=1))}
    assert current(values, NOW) == {"new": None}
    assert expired(values, NOW) == ("old",)
    assert current(values, NOW - timedelta(seconds=1)) == {"old": 1, "new": None}


def corim(*triples: Any, signed: bool = True, **fields: Any) -> bytes:
    members = corims.manifest(corims.comid(*triples), **fields)
    data = corims.signed(members) if signed else corims.dumps(corims.tag(501, members))
    return message({"a": 1}, type="corim", payload=base64.b64encode(data).decode())


SNP_TRIPLE = [corims.SNP, [corims.measured({2: corims.digests(D48)}, 0)]]


def test_a_signed_corim() -> None:
    found = read_message(corim(SNP_TRIPLE), NOW, corim_key=corims.public())
    assert found == (StoredValue("snp_launch_measurement", [D48.hex()], YEAR),)


def test_a_corim_that_nobody_signed() -> None:
    assert code(corim(SNP_TRIPLE, signed=False)) == "corim-unsigned"
    assert read_message(corim(SNP_TRIPLE, signed=False), NOW, unsigned_corim=True)[0].value == [D48.hex()]


def test_a_corim_that_somebody_else_signed() -> None:
    other = corims.public(corims.ec.generate_private_key(corims.ec.SECP384R1()))
    assert code(corim(SNP_TRIPLE), corim_key=other) == "corim-signature"
    assert code(corim(SNP_TRIPLE)) == "corim-signature"
    assert code(corim(SNP_TRIPLE), unsigned_corim=True) == "corim-signature"


def test_a_corims_own_end() -> None:
    end = NOW + timedelta(days=3)
    (found,) = read_message(corim(SNP_TRIPLE, _4={1: int(end.timestamp())}), NOW, corim_key=corims.public())
    assert found.expiration == end
    later = {1: int((YEAR + timedelta(days=99)).timestamp())}
    (found,) = read_message(corim(SNP_TRIPLE, _4=later), NOW, corim_key=corims.public())
    assert found.expiration == YEAR


def test_a_corim_of_tomorrow() -> None:
    span = {0: int((NOW + timedelta(days=1)).timestamp()), 1: int((NOW + timedelta(days=2)).timestamp())}
    assert code(corim(SNP_TRIPLE, _4=span), corim_key=corims.public()) == "corim-not-yet-valid"


def test_what_is_no_corim() -> None:
    assert code(message({"a": 1}, type="corim", payload="AAAA")) == "cbor-malformed"
    assert code(message({"a": 1}, type="corim", payload="####")) == "base64-malformed"


# -- launches

TDX = ReferenceValues((D48,), registers={"rtmr1": (E48,), "mrseam": (D48,)}, tee="tdx")


def test_names_by_tee() -> None:
    tpm = ReferenceValues(registers={"pcr11": (bytes(32), bytes(range(32)))}, tee="tpm")
    snp = ReferenceValues((D48,), tee="snp", name="n", source="s", not_after=NOW)
    assert launch_values((TDX, tpm, snp)) == {
        "mr_td": [D48.hex()],
        "rtmr_1": [E48.hex()],
        "mr_seam": [D48.hex()],
        "tpm_pcr11": ["00" * 32, bytes(range(32)).hex()],
        "snp_launch_measurement": [D48.hex()],
    }


def test_enclaves_keep_what_belongs_together() -> None:
    known = ReferenceValues((bytes(32),), tee="sgx", product_id=1)
    signers = ReferenceValues(signers=(bytes(32), bytes(range(32))), tee="sgx", product_id=0, security_version=5)
    both = ReferenceValues((bytes(32),), signers=(bytes(32),), tee="sgx")
    assert launch_values((known, signers, both)) == {
        "sgx_launches": [
            {"mr_enclave": "00" * 32, "isv_prod_id": 1},
            {"isv_prod_id": 0, "isv_svn": 5, "mr_signer": "00" * 32},
            {"isv_prod_id": 0, "isv_svn": 5, "mr_signer": bytes(range(32)).hex()},
            {"mr_enclave": "00" * 32, "mr_signer": "00" * 32},
        ]
    }


def test_launches_that_differ_in_one_value() -> None:
    other = replace(TDX, registers={**TDX.registers, "rtmr1": (bytes(48), E48)})
    assert launch_values((TDX, other))["rtmr_1"] == [E48.hex(), "00" * 48]
    assert launch_values((TDX, TDX)) == launch_values((TDX,))


@pytest.mark.parametrize(
    "other",
    [
        replace(TDX, measurements=(E48,), registers={**TDX.registers, "rtmr1": (D48,)}),
        replace(TDX, registers={"mrseam": (D48,)}),
        replace(TDX, registers={**TDX.registers, "rtmr2": (D48,)}),
    ],
)
def test_launches_that_would_be_mixed_up(other: ReferenceValues) -> None:
    with pytest.raises(MalformedError) as caught:
        launch_values((TDX, other))
    assert caught.value.code == "reference-ambiguous"


@pytest.mark.parametrize(
    "reference",
    [
        ReferenceValues((D48,)),
        ReferenceValues((D48,), tee="nitro"),
        ReferenceValues((D48,), tee="snp", host_data=bytes(32)),
        ReferenceValues((D48,), tee="snp", report_data=bytes(64)),
        ReferenceValues((D48,), tee="snp", minimum_tcb={"snp": 8}),
        ReferenceValues((D48,), tee="snp", signers=(D48,)),
        ReferenceValues((D48,), tee="snp", security_version=1),
        ReferenceValues((D48,), tee="snp", registers={"reportid": (bytes(32),)}),
        ReferenceValues((D48,), tee="tpm"),
        ReferenceValues((D48,), tee="tdx", registers={"mrowner": (D48,)}),
        ReferenceValues((bytes(32),), tee="sgx", registers={"pcr1": (bytes(32),)}),
        ReferenceValues((bytes(32),), tee="sgx", host_data=bytes(64)),
        ReferenceValues(tee="sgx", product_id=1),
    ],
)
def test_demands_that_have_no_name(reference: ReferenceValues) -> None:
    with pytest.raises(MalformedError) as caught:
        launch_values((reference,))
    assert caught.value.code == "reference-unsupported"
