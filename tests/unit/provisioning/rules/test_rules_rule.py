"""Rules as owners write them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rules_kit import END, LOG, NOW, ONE, SECRET, SIGNER, STRANGER, TWO, VOLUME, body, name, pem, rule

from kokon.errors import KokonError, MalformedError, UsageError
from kokon.provisioning.rules.compose import workload_of
from kokon.provisioning.rules.rule import decode_rule, encode_rule, parse_rule
from kokon.provisioning.workload import decode_workload, encode_workload

FULL: dict[str, Any] = {
    "image": "127.0.0.1:5000/clinic",
    "certifiers": [pem(ONE), pem(TWO)],
    "certifiers_needed": 1,
    "tees": ["snp", "simulated"],
    "chips": ["ab" * 64, "01"],
    "policy": 'name = "ours"\n',
    "max_activations": 7,
}


def test_what_is_left_out() -> None:
    short = rule(generate=None)
    assert short.signer == pem(SIGNER.key)
    assert (short.image, short.certifiers, short.certifiers_needed, short.tees, short.chips) == ("", (), 0, (), ())
    assert (short.policy, short.max_activations, short.not_after) == ("", None, END)
    assert short.granted() == (LOG, SECRET)
    assert rule().granted() == (LOG, SECRET, VOLUME)
    assert rule(certifiers=[pem(ONE), pem(TWO)]).certifiers_needed == 2


def test_rules_keep_everything() -> None:
    full = rule(**FULL)
    assert decode_rule(encode_rule(full)) == full
    assert full.chips == (b"\xab" * 64, b"\x01")
    assert parse_rule({"name": "clinic", "rule": full.members()}, NOW) == full
    shown = json.loads(json.dumps(full.summary()))
    assert shown["signer"] == name(SIGNER.key)
    assert shown["certifiers"] == [name(ONE), name(TWO)]
    assert shown["resources"] == [SECRET]


def test_the_record_of_a_workload_tells_that_it_is_a_rule() -> None:
    kept = workload_of(rule(**FULL), NOW).following("ab" * 32, "olga")
    again = decode_workload(encode_workload(kept))
    assert again == kept
    assert decode_rule(again.rule) == rule(**FULL)
    assert again.references == again.document == ""
    assert (again.host_data, again.previous, again.admitted_by) == (b"", "ab" * 32, "olga")
    assert kept.summary()["rule"]["minimum_version"] == "1.4"
    assert again.terms() != workload_of(rule(), NOW).terms()


def test_one_certifier_listed_twice_is_one() -> None:
    padded = "\n" + pem(ONE) + "\n"
    twice = rule(certifiers=[pem(ONE), padded, pem(TWO)])
    assert (twice.certifiers, twice.certifiers_needed) == ((pem(ONE), pem(TWO)), 2)
    with pytest.raises(MalformedError) as caught:
        rule(certifiers=[pem(ONE), padded], certifiers_needed=2)
    assert caught.value.code == "field-range"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"signer": None}, "field-missing"),
    ({"signer": "x"}, "key-malformed"),
    ({"minimum_version": None}, "field-missing"),
    ({"minimum_version": ""}, "version-malformed"),
    ({"minimum_version": "v1"}, "version-malformed"),
    ({"minimum_version": ">=1"}, "version-malformed"),
    ({"minimum_version": "9" * 200}, "field-too-long"),
    ({"certifiers": [pem(ONE), pem(SIGNER.key)]}, "certifier-is-signer"),
    ({"certifiers": ["\n" + pem(SIGNER.key)], "certifiers_needed": 1}, "certifier-is-signer"),
    ({"certifiers": [7]}, "key-malformed"),
    ({"certifiers": [pem(ONE)] * 16}, "field-too-long"),
    ({"certifiers": [pem(ONE)], "certifiers_needed": 0}, "field-range"),
    ({"certifiers": [pem(ONE)], "certifiers_needed": 2}, "field-range"),
    ({"certifiers": [pem(ONE)], "certifiers_needed": True}, "field-type"),
    ({"certifiers_needed": 1}, "field-range"),
    ({"tees": ["SNP"]}, "tee-not-known"),
    ({"tees": [["snp"]]}, "tee-not-known"),
    ({"tees": "snp"}, "field-type"),
    ({"chips": ["xy"]}, "hex-malformed"),
    ({"chips": [""]}, "hex-malformed"),
    ({"chips": ["00" * 64]}, "chip-malformed"),
    ({"chips": ["ab" * 65]}, "chip-malformed"),
    ({"chips": [1]}, "chip-malformed"),
    ({"policy": "[allow]\neverything = true\n"}, "policy-key-unknown"),
    ({"max_activations": 0}, "field-range"),
    ({"resources": None}, "field-missing"),
    ({"resources": ["kbs:///clinic/secret/*"]}, "resource-path"),
    ({"resources": ["kbs:///*/*/*"]}, "resource-path"),
    ({"resources": ["kbs:///clinic/secret/"]}, "resource-path"),
    ({"resources": ["kbs:///clinic/../x"]}, "resource-path"),
    ({"resources": ["clinic/secret/x"]}, "resource-path"),
    ({"resources": [1]}, "resource-path"),
    ({"generate": ["kbs:///clinic/volume"]}, "resource-path"),
    ({"not_after": None}, "field-missing"),
    ({"not_after": NOW.isoformat()}, "workload-expired"),
    ({"not_after": "2030-01-01T00:00:00"}, "workload-record"),
    ({"more": 1}, "field-unknown"),
    ({"name": "clinic"}, "field-unknown"),
]


@pytest.mark.parametrize(("changes", "code"), REFUSED, ids=[f"{code}-{next(iter(one))}" for one, code in REFUSED])
def test_refused(changes: dict[str, Any], code: str) -> None:
    with pytest.raises((MalformedError, UsageError)) as caught:
        rule(**changes)
    assert caught.value.code == code


@pytest.mark.parametrize("text", ["", "Clinic", "-clinic", "clinic-", "a" * 41, "a/b", "clinic\n", "a.b", "clínic"])
def test_names_are_those_of_launch_documents(text: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_rule(body(text), NOW)
    assert caught.value.code == "workload-name"


def test_an_ended_rule_is_still_read() -> None:
    text = encode_rule(rule())
    assert decode_rule(text).not_after == END
    with pytest.raises(MalformedError) as caught:
        parse_rule(body(), END + timedelta(seconds=1))
    assert caught.value.code == "workload-expired"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(body(**FULL)["rule"])), JSON)
def test_property_read_as_written_or_refused(member: str, value: Any) -> None:
    given_body = body(**FULL)
    given_body["rule"][member] = value
    try:
        read = parse_rule(given_body, NOW)
    except KokonError:
        return
    assert decode_rule(encode_rule(read)) == read
    assert all("*" not in path for path in read.granted())


@given(JSON)
def test_property_anything_else_is_refused(value: Any) -> None:
    for whole in (value, {"name": "clinic", "rule": value}):
        with pytest.raises(KokonError):
            parse_rule(whole, NOW)


def test_a_strangers_key_is_another_rule() -> None:
    assert rule(signer=pem(STRANGER)) != rule()
