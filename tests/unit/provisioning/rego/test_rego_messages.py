"""Messages of the key broker's admin clients, as they send them, and what they are answered."""

from __future__ import annotations

import base64
import contextlib
import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rego_kit import NOW, references, refusal

from kokon.errors import DeniedError, MalformedError
from kokon.provisioning.rego.messages import (
    BODY_LIMIT,
    PolicyMessage,
    attestation_policy_body,
    parse_attestation_policy,
    parse_reference_values,
    parse_resource_policy,
    policy_ids_answer,
    reference_answer,
    references_answer,
    resource_policy_body,
    sample_values_body,
)
from kokon.provisioning.rego.text import POLICY_LIMIT

TEXT = "package policy\n\ndefault allow := true # ü???>>>\n"
URL = base64.urlsafe_b64encode(TEXT.encode()).decode()
PLAIN = base64.b64encode(TEXT.encode()).decode()


def body(**members: Any) -> bytes:
    return json.dumps(members).encode()


def code(parse: Any, data: bytes) -> str:
    return refusal(lambda: parse(data)).code


def test_what_kbs_client_sends() -> None:
    """Its structures' members, base64url without padding (kbs-client, set_attestation_policy, set_resource_policy)."""
    sent = body(type="rego", policy_id="default_cpu", policy=URL.rstrip("="))
    assert parse_attestation_policy(sent) == PolicyMessage("attestation", "default_cpu", TEXT)
    assert parse_resource_policy(body(policy=URL.rstrip("="))) == PolicyMessage("resource", "resource-policy", TEXT)
    payload = base64.b64encode(b'{"svn":["1"]}').decode()
    values = parse_reference_values(body(version="0.1.0", type="sample", payload=payload), NOW)
    assert [(one.name, one.value) for one in values] == [("svn", ["1"])]


def test_the_alphabets_differ_here() -> None:
    assert {"-", "_"} & set(URL)
    assert {"+", "/"} & set(PLAIN)
    assert URL.endswith("=")


@pytest.mark.parametrize("encoded", [URL, URL.rstrip("="), PLAIN])
def test_spellings_of_base64(encoded: str) -> None:
    assert parse_resource_policy(body(policy=encoded)).text == TEXT
    assert parse_attestation_policy(body(policy=encoded)).text == TEXT


@pytest.mark.parametrize("kind", ["rego", "opa", "", None, 7])
def test_the_type_says_nothing(kind: Any) -> None:
    assert parse_attestation_policy(body(type=kind, policy=URL)).name == "default"
    assert parse_resource_policy(body(type=kind, policy=URL)).name == "resource-policy"


@pytest.mark.parametrize("name", ["a", "default", "default_gpu", "v1.2-x", "a" * 64, "_", "0"])
def test_names(name: str) -> None:
    assert parse_attestation_policy(attestation_policy_body(TEXT, name)).name == name


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "a/b", "../a", "a b", "ä", "a\n", "a\0", "a" * 65, "²"])
def test_names_that_no_policy_can_have(name: str) -> None:
    assert code(parse_attestation_policy, body(policy_id=name, policy=URL)) == "policy-name"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "json-malformed"),
        (b"[]", "field-type"),
        (b"{}", "field-missing"),
        (b'{"policy":"","policy":""}', "json-malformed"),
        (body(policy=1), "field-type"),
        (body(policy=None), "field-type"),
        (body(policy=URL, more=1), "field-unknown"),
        (body(policy="!"), "base64-malformed"),
        (body(policy="A"), "base64-malformed"),
        (body(policy="YWI==="), "base64-malformed"),
        (body(policy="YWI=="), "base64-malformed"),
        (body(policy="YQ="), "base64-malformed"),
        (body(policy="====") , "base64-malformed"),
        (body(policy="YR"), "base64-malformed"),
        (body(policy="-+=="), "base64-malformed"),
        (body(policy="_w"), "policy-text"),
        (body(policy="A" * (POLICY_LIMIT * 4 // 3 + 8)), "policy-too-large"),
        (b" " * (BODY_LIMIT + 1), "json-too-large"),
    ],
)  # fmt: skip
def test_what_is_no_message(data: bytes, expected: str) -> None:
    assert code(parse_resource_policy, data) == expected
    assert code(parse_attestation_policy, data) == expected


def test_a_resource_policy_has_no_name_of_its_own() -> None:
    assert code(parse_resource_policy, body(policy=URL, policy_id="other")) == "field-unknown"
    assert code(parse_attestation_policy, body(policy=URL, policy_id=7)) == "field-type"


def test_the_largest_policy_fits() -> None:
    text = "#" * POLICY_LIMIT
    assert parse_resource_policy(resource_policy_body(text)).text == text
    assert len(resource_policy_body(text)) < BODY_LIMIT


@settings(max_examples=60)
@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_there_and_back(text: str) -> None:
    assert parse_resource_policy(resource_policy_body(text)) == PolicyMessage("resource", "resource-policy", text)
    assert parse_attestation_policy(attestation_policy_body(text, "x")) == PolicyMessage("attestation", "x", text)


@settings(max_examples=60)
@given(st.binary(max_size=40) | st.text(alphabet='{}":,[]policy_dtpe0 \\', max_size=40).map(str.encode))
def test_anything_is_read_or_refused(data: bytes) -> None:
    for parse in (parse_resource_policy, parse_attestation_policy, lambda one: parse_reference_values(one, NOW)):
        with contextlib.suppress(MalformedError):
            parse(data)


def test_values_there_and_back() -> None:
    values = {"a/b:1": ["x"], "n": 1, "flag": False, "none": None}
    found = parse_reference_values(sample_values_body(values), NOW)
    assert {one.name: one.value for one in found} == values


# -- answers


def test_ids_and_not_texts() -> None:
    assert policy_ids_answer(["resource-policy"]) == b'["resource-policy"]'
    assert policy_ids_answer({"b": "text", "a": "text"}) == b'["a","b"]'


@pytest.mark.parametrize("value", [["1"], 1, True, None, {"any": ["thing"]}, "ü"])
def test_a_value_is_answered_as_it_is(value: Any) -> None:
    answer = reference_answer(references({"ns/name:tag": value, "other": 1}), "ns/name:tag", NOW)
    assert json.loads(answer) == value


def test_values_that_are_not_there() -> None:
    stored = references({"old": 1}, until=NOW) | references({"new": 2}, until=NOW + timedelta(seconds=1))
    for name in ("old", "never", "", "x" * 1000):
        error = refusal(lambda name=name: reference_answer(stored, name, NOW))  # type: ignore[misc]
        assert (type(error), error.code) == (DeniedError, "reference-unknown")
    assert json.loads(references_answer(stored, NOW)) == {"new": 2}
    assert json.loads(references_answer(stored, NOW - timedelta(seconds=1))) == {"old": 1, "new": 2}
