"""Evaluation: what policies see and may use, what a broken one is refused with, and the check before one is set."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from rego_kit import ASKED, NONE, NOW, SAMPLE, policy, references, refusal, token, trusting

from kokon.errors import DeniedError, MalformedError
from kokon.provisioning.rego.engine import PolicyEngine


def hardware(engine: PolicyEngine, value: str, given: Any = None, values: Any = None, more: str = "") -> int:
    """What a policy claims of the hardware, by a rule `hardware` with the body `value`."""
    text = trusting("hardware", f"default hardware := 97\nhardware := 2 if {{ {value} }}\n{more}")
    found = engine.evaluate_attestation(text, given or {}, references(values or {}), NOW)
    return found.vector["hardware"]


def allowed(engine: PolicyEngine, body: str, claims: Any = None, data: Any = None) -> bool:
    return engine.evaluate_resource(policy(body), claims or {}, data or ASKED)


@pytest.mark.parametrize(
    ("expression", "values", "expected"),
    [
        ('input.svn in query_reference_value("svn")', {"svn": ["1", "2"]}, 2),
        ('input.svn in query_reference_value("svn")', {"svn": ["2"]}, 97),
        ('input.svn in query_reference_value("svn")', {}, 97),
        ('query_reference_value("svn") == null', {}, 2),
        ("query_reference_value(1) == null", {}, 2),
        ('query_reference_value("a") == false', {"a": False}, 2),
        ('query_reference_value("a") == null', {"a": None}, 2),
        ('query_reference_value("a").b[0] == 1.5', {"a": {"b": [1.5]}}, 2),
        ('query_reference_value("ü/x:1") == "é\\n"', {"ü/x:1": "é\n"}, 2),
        ('some name in ["no", "svn"]; "1" in query_reference_value(name)', {"svn": ["1"]}, 2),
        ('"1" in data.reference.svn', {"svn": ["1"]}, 2),
    ],
)
def test_reference_values(engine: PolicyEngine, expression: str, values: Any, expected: int) -> None:
    assert hardware(engine, expression, {"svn": "1"}, values) == expected


def test_expired_reference_values_do_not_exist(engine: PolicyEngine) -> None:
    text = trusting("hardware", 'default hardware := 97\nhardware := 2 if query_reference_value("a") == 1')
    values = references({"a": 1}, until=NOW)
    before = engine.evaluate_attestation(text, {}, values, NOW - timedelta(seconds=1))
    after = engine.evaluate_attestation(text, {}, values, NOW)
    assert (before.vector["hardware"], after.vector["hardware"]) == (2, 97)


def test_a_policy_may_bring_its_own_look_up(engine: PolicyEngine) -> None:
    own = "query_reference_value(name) := name"
    assert hardware(engine, 'query_reference_value("a") == "a"', values={"a": 1}, more=own) == 2


@pytest.mark.parametrize(
    "text", ["", "a\0b", 'a"b', "a\\b", "a\nb", "\\u0041", "é", "😀", "\u2028", "\x7f", "`", "\\n"]
)
def test_texts_reach_the_policy_unchanged(engine: PolicyEngine, text: str) -> None:
    literal = json.dumps(text)
    assert hardware(engine, f"input.x == {literal}", {"x": text}) == 2
    assert hardware(engine, "input.x == data.reference.x", {"x": text}, {"x": text}) == 2
    assert hardware(engine, f"input[{literal}] == 1", {text: 1}) == 2
    found = engine.evaluate_attestation(
        trusting("2", 'extensions := [{"name": "x", "key": 1, "value": input.x}]'), {"x": text}, NONE, NOW
    )
    assert found.extensions[0].value == text


@pytest.mark.parametrize("number", [0, -1, 2**53 + 1, 2**63 - 1, 2**63, 2**64 + 5, -(2**63) - 1, 0.25])
def test_numbers_reach_the_policy_unchanged(engine: PolicyEngine, number: float) -> None:
    assert hardware(engine, f"input.x == {number}", {"x": number}) == 2
    assert hardware(engine, f"input.x == {number}", {"x": number + 1}) == 97


@pytest.mark.parametrize(
    "body",
    [
        "allow := true",
        "default allow = true",
        "allow { true }",
        'allow if data.plugin == "resource"',
        "import data.plugin\nallow if plugin == `resource`",
        "plugin = data.plugin\nallow if { plugin == `resource` }",
        'allow if concat("/", data["resource-path"]) == "default/key/1"',
        "import rego.v1\nallow if { some x in input.list; x == 2 }",
        "import future.keywords.in\nimport future.keywords.if\nallow if 2 in input.list",
        "allow if { every x in input.list { x > 0 } }",
        "bad contains x if { some x in input.list; x > 9 }\nallow if count(bad) == 0",
        "f(x) := 1 if x > 3 else := 2 if x > 1 else := 3\nallow if { f(2) == 2; f(0) == 3 }",
        "default f(_) := 7\nf(x) := 1 if x > 3\nallow if f(2) == 7",
        "allow if inner with input.a as 1\ninner if input.a == 1",
        "allow if inner with data.z as 1\ninner if data.z == 1",
        'allow if regex.match(`^a\\.b$`, "a.b")',
        'allow if startswith("kbs:///a", "kbs:///")',
        'allow if glob.match("a/*", ["/"], "a/b")',
        'allow if sprintf("%s-%d", ["a", 3]) == "a-3"',
        'allow if json.unmarshal("{\\"a\\":1}").a == 1',
        'allow if base64.decode("aGk=") == "hi"',
        "allow if time.now_ns() > 1700000000000000000",
        'allow if object.get(input, "no", 9) == 9',
        "allow if { walk(input, [path, 3]); path == [`list`, 2] }",
        'allow if print("x")',
        "default x := 33\nx := 3 if {\n\tinput.no\n}\nx := 3 if {\n\tinput.list\n}\nallow if x == 3",
        "x := 2 if input.no\nelse := 3 if input.list\ndefault allow = false\nallow if { x == 3 }",
        "allow if { each := input.list[_]; each == 2 }",
        'm := {"a": 1} if input.list\nelse := {}\nn := {}\nallow if object.union_n([m, n]) == {"a": 1}',
        'found := [x | c := input["no"]["containers"][_]\n x := c["OCI"]]\nallow if count(found) == 0',
        "plugin = data.plugin\nallow if { plugin == `resource`; not input[`submods`][`cpu0`][`sample`] }",
        "bad if { some _, one in input.list; one != 1 }\nallow if { bad }",
    ],
)
def test_the_language(engine: PolicyEngine, body: str) -> None:
    assert allowed(engine, body, {"list": [1, 2, 3]}) is True


@pytest.mark.parametrize(
    "body",
    [
        "default allow := false",
        "allow if false",
        "allow if input.no",
        "default allow = false\nallow if 1 == 2",
        "allow := false",
    ],
)
def test_whatever_is_not_true_denies(engine: PolicyEngine, body: str) -> None:
    assert allowed(engine, body) is False


def test_data_belong_to_the_request(engine: PolicyEngine) -> None:
    body = 'allow if data["resource-path"][2] == input.instance'
    for _ in range(2):
        for instance, path in (("1", "1"), ("1", "2"), ("2", "2"), ("2", "1")):
            data = {"plugin": "resource", "resource-path": ["default", "key", path], "query": {}}
            assert allowed(engine, body, {"instance": instance}, data) is (instance == path)


def test_nothing_is_remembered_but_what_was_compiled(engine: PolicyEngine) -> None:
    body = "allow if input.x == 1"
    assert [allowed(engine, body, {"x": x}) for x in (1, 2, 1)] == [True, False, True]
    assert allowed(engine, body, {}) is False


def codes(engine: PolicyEngine, text: str) -> tuple[str, str, str]:
    """The code at evaluation for both kinds, and at the check for resources."""
    found = [
        refusal(lambda: engine.evaluate_attestation(text.replace("allow", "trust_claims"), {}, NONE, NOW)),
        refusal(lambda: engine.evaluate_resource(text, {}, ASKED)),
        refusal(lambda: engine.check(text, "resource")),
    ]
    assert isinstance(found[2], MalformedError)
    return found[0].code, found[1].code, found[2].code


@pytest.mark.parametrize(
    "body",
    [
        "allow if {{",
        "allow := := 1",
        "allow if nofunc(1)",
        "allow := 1 if true\nallow := 2 if true",
        "f(x) := f(x)\nallow if f(1)",
        "a if b\nb if a\nallow if a",
        "allow := 7",
        'allow := "true"',
        "allow := [true]",
        "allow := null",
    ],
)
def test_broken_policies(engine: PolicyEngine, body: str) -> None:
    assert set(codes(engine, policy(body))) == {"policy-malformed"}


def test_errors_name_the_line(engine: PolicyEngine) -> None:
    error = refusal(lambda: engine.check(policy("allow if {\n  1 = = 2\n}"), "resource"))
    assert error.code == "policy-malformed"
    assert "line " in (error.found or "")


def test_a_policy_of_another_package(engine: PolicyEngine) -> None:
    text = "package other\nallow := true\ntrust_claims := {}"
    assert refusal(lambda: engine.evaluate_resource(text, {}, ASKED)).code == "policy-undefined"
    assert refusal(lambda: engine.check(text, "resource")).code == "policy-undefined"
    assert refusal(lambda: engine.check(text, "attestation")).code == "policy-undefined"
    assert engine.evaluate_attestation(text, {}, NONE, NOW).status == "none"


def test_a_policy_that_claims_nothing(engine: PolicyEngine) -> None:
    text = policy("trust_claims := {}")
    assert refusal(lambda: engine.evaluate_attestation(text, {}, NONE, NOW)).code == "policy-undefined"
    assert refusal(lambda: engine.check(text, "attestation")).code == "policy-undefined"


def test_a_function_that_only_another_tee_would_reach(engine: PolicyEngine) -> None:
    text = trusting("h", "default h := 97\nh := 2 if {\n  input.cca\n  lauch_digest_ok(input.cca)\n}")
    assert engine.evaluate_attestation(text, SAMPLE, NONE, NOW).vector["hardware"] == 97
    error = refusal(lambda: engine.check(text, "attestation"))
    assert (error.code, error.found) == ("policy-function-unknown", "lauch_digest_ok")


@pytest.mark.parametrize("call", ["http.send({})", 'net.lookup_ip_addr("a")', "trace(`x`)"])
def test_functions_that_this_engine_has_not(engine: PolicyEngine, call: str) -> None:
    error = refusal(lambda: engine.check(policy(f"allow if {{ input.x; {call} }}"), "resource"))
    assert error.code == "policy-function-unknown"


def test_a_rule_that_contradicts_itself_for_one_tee(engine: PolicyEngine) -> None:
    text = trusting("h", "default h := 97\nh := 2 if input.sgx\nh := 3 if input.sgx.body")
    assert engine.evaluate_attestation(text, SAMPLE, NONE, NOW).vector["hardware"] == 97
    assert refusal(lambda: engine.check(text, "attestation")).code == "policy-malformed"


def test_an_extension_that_fails_when_it_is_there(engine: PolicyEngine) -> None:
    text = trusting("2", 'extensions := [{"name": "ear.status", "key": 1, "value": "affirming"}]')
    assert refusal(lambda: engine.evaluate_attestation(text, {}, NONE, NOW)).code == "policy-malformed"
    assert refusal(lambda: engine.check(text, "attestation")).code == "policy-malformed"


def test_the_check_tells_what_a_policy_does(engine: PolicyEngine) -> None:
    trial = engine.check(
        policy('default allow := false\nallow if input.submods.cpu0["ear.status"] == "affirming"'), "resource"
    )
    assert dict(trial.outcomes) == {
        "nothing": "denied",
        "an affirming token": "allowed",
        "a contraindicated token": "denied",
    }
    everyone = engine.check(policy("default allow = true"), "resource")
    assert set(dict(everyone.outcomes).values()) == {"allowed"}
    careless = engine.check(trusting("2"), "attestation")
    assert set(dict(careless.outcomes).values()) == {"affirming"}


def test_texts_are_refused_before_they_are_evaluated(engine: PolicyEngine) -> None:
    before = engine.statistics()
    long, deep = policy("#" + "x" * (64 << 10)), policy("allow := " + "[" * 65 + "]" * 65)
    for text, code in (
        (long, "policy-too-large"),
        (deep, "policy-too-deep"),
        (policy("allow := `"), "policy-malformed"),
    ):
        assert refusal(lambda text=text: engine.evaluate_resource(text, {}, ASKED)).code == code  # type: ignore[misc]
        assert refusal(lambda text=text: engine.check(text, "resource")).code == code  # type: ignore[misc]
    assert engine.statistics() == before


@pytest.mark.parametrize(
    "given", [{"x": "\ud800"}, {"x": float("nan")}, {"x": b""}, {1: 2}, {"x": "y" * (2 << 20)}, {"x": set()}]
)
def test_input_that_cannot_be_given(engine: PolicyEngine, given: Any) -> None:
    before = engine.statistics()
    assert refusal(lambda: engine.evaluate_resource(policy("allow := true"), given, ASKED)).code == "policy-input"
    assert engine.statistics() == before


def test_input_that_is_too_deep(engine: PolicyEngine) -> None:
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    assert refusal(lambda: engine.evaluate_resource(policy("allow := true"), {"x": deep}, ASKED)).code == "policy-input"


def test_a_value_that_is_no_text(engine: PolicyEngine) -> None:
    text = policy('allow := base64.decode("/w==")')
    error = refusal(lambda: engine.evaluate_resource(text, {}, ASKED))
    assert isinstance(error, DeniedError)
    assert error.code == "policy-malformed"


def test_denials_are_of_the_request_and_not_of_the_text(engine: PolicyEngine) -> None:
    assert isinstance(refusal(lambda: engine.evaluate_resource(policy("allow := 1"), {}, ASKED)), DeniedError)
    assert engine.evaluate_resource(policy("allow := true"), token(), ASKED)
